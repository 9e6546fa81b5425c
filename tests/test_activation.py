"""Another provider is a matter of configuration: a word of the routing file, the environment, and whole runs pass."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from providers.errors import AuthenticationError, SparklioError
from routing.packaged_files import DEFAULT_CONFIG
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES, routed
from tests.standins.chat import ChatStandIn
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.openai import OpenAIStandIn
from tests.test_chat_contract import RENTED, Vendor

pytestmark = pytest.mark.usefixtures("live")


@pytest.fixture(params=RENTED, ids=lambda vendor: vendor.name)
def rented(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Vendor, Any]]:
    """A vendor's stand-in, named by the environment alone."""
    vendor: Vendor = request.param
    with vendor.stand_in() as server:
        monkeypatch.setenv(f"{vendor.prefix}_BASE_URL", server.url)
        monkeypatch.setenv(f"{vendor.prefix}_API_KEY", server.key)
        monkeypatch.setenv(f"{vendor.prefix}_DEFAULT_MODEL", vendor.model)
        yield vendor, server


def activated(folder: Path, name: str) -> Path:
    """The packaged routing file with one word changed."""
    text = DEFAULT_CONFIG.read_text(encoding="utf-8")
    changed, count = re.subn(r"llm:   {active: \[ollama\]", f"llm:   {{active: [{name}]", text)
    assert count == 1
    path = folder / "provider_config.yaml"
    path.write_text(changed, encoding="utf-8")
    return path


async def test_one_word_of_the_routing_file_moves_all_agents(
    rented: tuple[Vendor, ChatStandIn], ollama: ChatStandIn, tmp_path: Path
) -> None:
    vendor, server = rented
    async with Sparklio(config=activated(tmp_path, vendor.name)) as studio:
        events = [event async for event in studio.stream(brand=BRAND, product=PRODUCT, run_id="page")]
        run = await studio.load("page")
    assert {node["provider"] for node in run.result["meta"]["nodes"].values()} == {vendor.name}
    assert {node["model"] for node in run.result["meta"]["nodes"].values()} == {vendor.model}
    assert set(run.result["meta"]["nodes"]) == NODES
    assert run.result["meta"]["usage"]["total_tokens"] > 100
    assert run.result["meta"]["cost_usd"] is None, "nobody told a price"
    assert any(event["type"] == "token" for event in events)
    assert len(server.chats) == len(NODES)
    assert not ollama.chats
    assert Path(run.page_path).is_file()


@pytest.mark.parametrize("fault", [None, "status_401", "error_line", "cut"])
async def test_the_key_is_in_nothing_that_a_run_leaves(
    rented: tuple[Vendor, Any], tmp_path: Path, fault: str | None
) -> None:
    vendor, server = rented
    server.fail_always(fault)
    shown: list[Any] = []
    async with Sparklio(config=activated(tmp_path, vendor.name), home=tmp_path / "home") as studio:
        try:
            shown += [event async for event in studio.stream(brand=BRAND, product=PRODUCT, run_id="page")]
        except SparklioError as exc:
            shown.append(exc.to_dict())
    assert (shown[-1].get("type") == "run_finished") == (fault is None)
    assert server.chats
    files = [path for path in (tmp_path / "home").rglob("*") if path.is_file()]
    assert {"run.json", "run.log", "checkpoints.sqlite"} <= {path.name for path in files}
    assert not [path for path in files if server.key.encode() in path.read_bytes()]
    assert server.key not in json.dumps(shown, ensure_ascii=False)


async def test_final_goes_to_a_rented_model_and_drafts_stay_at_home(
    openai: OpenAIStandIn, ollama: ChatStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", openai.url)
    monkeypatch.setenv("OPENAI_API_KEY", openai.key)
    final = {"role": ["strategist", "copywriter"], "stage": "final", "provider": "openai", "model": "test-large"}
    path = routed(
        tmp_path,
        providers=lambda providers: {**providers, "llm": {"active": ["ollama", "openai"]}},
        llm_routing=lambda routing: {"rules": [{**final, "priority": 0}, *routing["rules"]]},
        prices=lambda prices: {**prices, "openai": {"test-large": {"input": 1.0, "output": 2.0}}},
    )
    async with Sparklio(config=path) as studio:
        draft = await studio.run(brand=BRAND, product=PRODUCT)
        finished = await studio.run(brand=BRAND, product=PRODUCT, stage="final")
    assert {node["provider"] for node in draft.result["meta"]["nodes"].values()} == {"ollama"}
    assert draft.result["meta"]["cost_usd"] == 0
    nodes = finished.result["meta"]["nodes"]
    assert {name for name, node in nodes.items() if node["provider"] == "openai"} == {"strategist", "copywriter"}
    assert finished.result["meta"]["cost_usd"] == pytest.approx(
        sum(nodes[name]["cost_usd"] for name in ("strategist", "copywriter"))
    )
    assert len(openai.chats) == 2


async def test_a_rented_model_that_fails_leaves_the_work_to_the_one_at_home(
    openai: OpenAIStandIn, ollama: ChatStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", openai.url)
    monkeypatch.setenv("OPENAI_API_KEY", openai.key)
    first = {"role": ["copywriter"], "provider": "openai", "model": "test-large", "priority": 0}
    path = routed(
        tmp_path,
        providers=lambda providers: {**providers, "llm": {"active": ["ollama", "openai"]}},
        llm_routing=lambda routing: {"rules": [first, *routing["rules"]]},
    )
    openai.fail_always("refusal")
    async with Sparklio(config=path) as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT)
    node = run.result["meta"]["nodes"]["copywriter"]
    assert (node["provider"], node["attempts"]) == ("ollama", 2)


async def test_a_server_of_one_s_own_that_speaks_openai_needs_no_key(
    tmp_path: Path, comfyui: ComfyUIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KeylessStandIn(OpenAIStandIn):
        def stranger(self, request: Any) -> None:
            """Lets everybody in, as vLLM, LM Studio and llama.cpp do."""

    with KeylessStandIn() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_DEFAULT_MODEL", "test-small")
        async with Sparklio(config=activated(tmp_path, "openai")) as studio:
            run = await studio.run(brand=BRAND, product=PRODUCT)
    assert run.result["meta"]["nodes"]["brand"]["model"] == "test-small"


async def test_a_wrong_key_is_told_with_its_variable(
    openai: OpenAIStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", openai.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else-0123")
    monkeypatch.setenv("OPENAI_DEFAULT_MODEL", "test-small")
    async with Sparklio(config=activated(tmp_path, "openai")) as studio:
        with pytest.raises(AuthenticationError) as caught:
            await studio.run(brand=BRAND, product=PRODUCT)
    assert "OPENAI_API_KEY" in caught.value.hint
    assert "sk-of-somebody-else-0123" not in json.dumps(caught.value.to_dict())
