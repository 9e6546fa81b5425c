"""What somebody meets who runs the command for the first time, and does it slightly wrong."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from providers.errors import ConfigError, UnreachableError, describe
from providers.llm.ollama import OllamaProvider
from sparklio import Sparklio, __version__
from tests.conftest import BRAND, PRODUCT
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.test_cli import Shell


@pytest.fixture
def sparklio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def routing(folder: Path, **changes: Any) -> None:
    active = {"llm": {"active": ["ollama"]}, "media": {"active": ["comfyui"]}}
    images = {"image": [{"provider": "comfyui", "workflow": "product_shot_v1"}]}
    config = {"providers": active, "media_routing": images, "settings": {"OLLAMA_DEFAULT_MODEL": "plain"}} | changes
    (folder / "provider_config.yaml").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("command", [["--version"], ["--version", "run"]])
def test_the_version(sparklio: Shell, command: list[str]) -> None:
    assert sparklio.ok(*command) == f"sparklio {__version__}\n"


def test_a_run_without_a_file_says_what_it_read(sparklio: Shell) -> None:
    assert "the packaged example; `sparklio init`" in sparklio("run").stderr
    sparklio.ok("init")
    assert "input:  examples/protein_plus.yaml" in sparklio("run").stderr
    assert "input:" not in sparklio("run", "examples/protein_plus.yaml").stderr


def test_init_says_where_to_go_on(sparklio: Shell, tmp_path: Path) -> None:
    assert sparklio.ok("init").endswith("next: sparklio run\n")
    assert sparklio.ok("init", "my shop").endswith("next: cd 'my shop' && sparklio run\n")


def test_a_folder_with_another_run_s_page_is_not_overwritten(sparklio: Shell, tmp_path: Path) -> None:
    sparklio.ok("run", "--run-id", "one", "--out", "page")
    before = (tmp_path / "page" / "result.json").read_bytes()
    refused = sparklio("run", "--run-id", "two", "--out", "page")
    assert refused.returncode == 2
    assert "'one'" in refused.stderr
    assert (tmp_path / "page" / "result.json").read_bytes() == before
    assert [record["run_id"] for record in sparklio.json("runs")["runs"]] == ["one"]
    sparklio.ok("rerun", "one", "--from", "reviewer", "--out", "page")
    sparklio.ok("run", "--run-id", "two")
    assert sparklio("rerun", "two", "--from", "reviewer", "--out", "page").returncode == 2


def test_the_last_line_of_a_mock_run_names_nobody_in_particular(sparklio: Shell) -> None:
    last = sparklio.ok("run").splitlines()[-1]
    assert "sparklio doctor --mode live" in last
    assert "Ollama" not in last


def test_a_finished_run_is_not_resumed_in_silence(sparklio: Shell) -> None:
    sparklio.ok("run", "--run-id", "one")
    assert "finished already" in sparklio("resume", "one").stderr


def test_what_is_piped_is_not_wrapped(sparklio: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # tests that run in parallel have one
    monkeypatch.setenv("COMFYUI_WORKFLOW_DIR", "w" * 200)
    assert "w" * 200 in sparklio.ok("config")


def test_a_kind_that_is_likely_a_slip_is_warned_of(sparklio: Shell, tmp_path: Path) -> None:
    given = {"brand": BRAND, "product": PRODUCT, "image": {"kind": "heroo"}}
    (tmp_path / "in.yaml").write_text(json.dumps(given), encoding="utf-8")
    done = sparklio("run", "in.yaml")
    assert done.returncode == 0
    assert "did you mean 'hero'?" in done.stderr


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"providers": {"llm": {"active": []}, "media": {"active": ["comfyui"]}}, "settings": {}}, "providers.llm"),
        ({"providers": {"llm": {"active": ["ollama"]}}, "media_routing": {}}, "providers.media"),
        ({"providers": {"llm": {"active": ["openai"]}, "media": {"active": ["comfyui"]}}}, "OPENAI_"),
        ({"models": {"ollama": {"plain": {"num_ctx": "big"}}}}, "num_ctx"),
    ],
)
@pytest.mark.usefixtures("live")
def test_what_cannot_begin_leaves_no_failed_run(
    sparklio: Shell, tmp_path: Path, ollama: OllamaStandIn, changes: dict[str, Any], says: str
) -> None:
    routing(tmp_path, **{"settings": {}, **changes} if "openai" in str(changes) else changes)
    done = sparklio("run", OPENAI_DEFAULT_MODEL="muse")
    assert done.returncode == 2
    assert says in done.stderr
    assert "run_started" not in done.stdout
    assert sparklio.json("runs")["runs"] == []
    assert ollama.chats == []


async def test_a_provider_that_lets_a_foreign_error_out_is_named(
    ollama: OllamaStandIn, comfyui: ComfyUIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def misshapen(*_: object) -> None:
        raise TypeError("list indices must be integers")

    monkeypatch.setattr(OllamaProvider, "_request", misshapen)
    urls = {"OLLAMA_BASE_URL": ollama.url, "COMFYUI_BASE_URL": comfyui.url}
    async with Sparklio(mode="live", settings=urls) as studio:
        with pytest.raises(TypeError) as caught:
            await studio.run(brand=BRAND, product=PRODUCT)
    body = describe(caught.value)
    assert (body["code"], "provider 'ollama'" in body["message"]) == ("internal", True)
    assert "a defect of that provider" in body["hint"]


async def test_a_comfyui_host_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    from providers.base import ProviderConfig
    from providers.media.comfyui import ComfyUIProvider

    def look_up(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    values = {"COMFYUI_BASE_URL": "http://desktop:8188", "COMFYUI_TIMEOUT": "5", "COMFYUI_WORKFLOW_DIR": None}
    provider = ComfyUIProvider(ProviderConfig("comfyui", values))
    found = await provider.diagnose([])
    await provider.aclose()
    assert any("'desktop' is known here" in one.remedy for one in found)


def test_an_error_without_a_provider_is_ours() -> None:
    assert "a defect of Sparklio" in describe(KeyError("x"))["hint"]
    assert describe(ConfigError("x", hint="y"))["hint"] == "y"
    assert describe(UnreachableError("x", provider="p", hint="y"))["hint"] == "y"
