"""What ``/debug`` tells of settings and services: the truth, in a 200, and without loading a model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from providers.registry import FAMILIES, known_providers
from sparklio import Sparklio
from sparklio.cli import app as command_line
from sparklio.server.errors import ERROR_ANSWERS, add_error_handlers
from sparklio.server.routes import debug
from sparklio.server.services import _services
from tests.serving import serving
from tests.standins.anthropic import KEY as STANDIN_KEY
from tests.standins.anthropic import AnthropicStandIn
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import MODEL_BYTES, OllamaStandIn
from tests.waiting import until

KEY = "sk-secret-0123456789abcdef"
LOADING = {"/api/generate", "/api/chat", "/prompt"}


@asynccontextmanager
async def asking(home: Path, **settings: str) -> AsyncIterator[httpx.AsyncClient]:
    """A server of nothing but these routes."""
    async with Sparklio(home=home, settings=settings) as studio:
        app = FastAPI(responses=ERROR_ANSWERS)
        app.state.settings = studio.settings
        app.dependency_overrides[_services] = lambda: SimpleNamespace(studio=studio)
        app.include_router(debug.router, prefix="/api/v1")
        add_error_handlers(app)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/api/v1/debug") as client:
            yield client


def urls(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> dict[str, str]:
    return {"OLLAMA_BASE_URL": ollama.url, "COMFYUI_BASE_URL": comfyui.url}


async def test_settings_are_those_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("OLLAMA_TIMEOUT=7\nOLLAMA_BASE_URL=http://me:pw@gpu:1\n")
    monkeypatch.setenv("OLLAMA_TIMEOUT", "9")
    monkeypatch.setenv("OLLAMA_API_KEY", KEY)
    monkeypatch.setenv("SPARKLIO_HOME", str(tmp_path / "home"))
    printed = json.loads(CliRunner().invoke(command_line, ["config", "--json"]).stdout)
    async with asking(tmp_path / "home") as client:
        answer = await client.get("/settings")
    body = answer.json()
    argument = body["settings"].pop("SPARKLIO_HOME")
    printed["settings"].pop("SPARKLIO_HOME")
    assert (answer.status_code, body) == (200, printed)
    assert argument["source"] == "argument"
    timeout = body["settings"]["OLLAMA_TIMEOUT"]
    assert (timeout["value"], timeout["source"]) == ("9", "environment")
    assert {"source": ".env", "value": "7"} in timeout["hides"]
    assert body["settings"]["OLLAMA_API_KEY"]["value"] == "***cdef"
    assert any("OLLAMA_TIMEOUT" in warning for warning in body["warnings"])
    assert KEY not in answer.text
    assert "me:pw" not in answer.text


@pytest.mark.parametrize("mode", ["mock", "live"])
async def test_the_real_service_is_asked_in_either_mode_and_loads_nothing(
    tmp_path: Path, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, mode: str
) -> None:
    async with asking(tmp_path, GENERATOR_MODE=mode, **urls(ollama, comfyui)) as client:
        chat, images = [(await client.get(f"/{name}")).json() for name in ("ollama", "comfyui")]
    assert {key: chat[key] for key in ("provider", "mode", "target_url", "success", "error")} == {
        "provider": "ollama",
        "mode": mode,
        "target_url": ollama.url,
        "success": True,
        "error": None,
    }
    assert chat["models"] == [{"name": name, "size": MODEL_BYTES} for name in ollama.models]
    assert (images["success"], images["target_url"]) == (True, comfyui.url)
    assert images["models"] == [{"name": name} for name in comfyui.checkpoints]
    assert chat["elapsed_ms"] >= 0 <= images["elapsed_ms"]
    asked = ollama.requests + comfyui.requests
    assert {method for method, _ in asked} == {"GET"}
    assert not {path for _, path in asked} & LOADING
    assert not ollama.loads


@pytest.mark.parametrize("name", ["ollama", "comfyui"])
async def test_a_service_that_is_down_is_told_of_in_the_body(
    tmp_path: Path, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, name: str
) -> None:
    standins: dict[str, OllamaStandIn | ComfyUIStandIn] = {"ollama": ollama, "comfyui": comfyui}
    standin = standins[name]
    with_login = standin.url.replace("http://", "http://me:pw@")
    standin.leave()
    async with asking(tmp_path, **urls(ollama, comfyui) | {f"{name.upper()}_BASE_URL": with_login}) as client:
        answer = await client.get(f"/{name}")
    body = answer.json()
    assert (answer.status_code, body["success"], body["models"]) == (200, False, [])
    assert body["error"]["code"] == "provider_unreachable"
    assert body["error"]["hint"]
    assert body["target_url"] == standin.url.replace("http://", "http://***@")
    assert "me:pw" not in answer.text


async def test_a_service_that_hangs_is_not_waited_for(
    tmp_path: Path, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debug, "_PATIENCE_S", 0.3)
    comfyui.hang("/object_info")
    async with asking(tmp_path, **urls(ollama, comfyui)) as client:
        body = (await client.get("/comfyui")).json()
    comfyui.heal()
    assert (body["success"], body["error"]["code"]) == (False, "attempt_timeout")


@pytest.mark.parametrize(("key", "success"), [(STANDIN_KEY, True), (KEY, False)], ids=["its key", "another key"])
async def test_a_rented_service_is_asked_without_a_chat(
    tmp_path: Path, anthropic: AnthropicStandIn, key: str, *, success: bool
) -> None:
    (tmp_path / "provider_config.yaml").write_text("providers: {llm: {active: [anthropic]}}")
    settings = {"ANTHROPIC_BASE_URL": anthropic.url, "ANTHROPIC_API_KEY": key}
    async with asking(tmp_path, **settings) as client:
        answer = await client.get("/anthropic")
    body = answer.json()
    assert (answer.status_code, body["success"], body["target_url"]) == (200, success, anthropic.url)
    assert success or "401" in body["error"]["message"]
    assert {method for method, _ in anthropic.requests} == {"GET"}
    assert key not in answer.text


@pytest.mark.parametrize(("key", "said"), [(None, "ANTHROPIC_API_KEY is not set"), (KEY, "no connection")])
async def test_a_rented_service_that_cannot_be_asked_says_why(
    tmp_path: Path, anthropic: AnthropicStandIn, key: str | None, said: str
) -> None:
    (tmp_path / "provider_config.yaml").write_text("providers: {llm: {active: [anthropic]}}")
    anthropic.leave()
    settings = {"ANTHROPIC_BASE_URL": anthropic.url} | ({"ANTHROPIC_API_KEY": key} if key else {})
    async with asking(tmp_path, **settings) as client:
        answer = await client.get("/anthropic")
    body = answer.json()
    assert (answer.status_code, body["success"], body["models"]) == (200, False, [])
    assert said in body["error"]["message"]
    assert KEY not in answer.text


async def test_only_a_provider_that_is_not_here_is_404(tmp_path: Path) -> None:
    async with asking(tmp_path) as client:
        unknown = [await client.get("/nobody"), await client.post("/nobody/generate", json={})]
        known = {name: await client.get(f"/{name}") for family in FAMILIES for name in known_providers(family)}
    assert [answer.status_code for answer in unknown] == [404, 404]
    assert {answer.json()["error"]["code"] for answer in unknown} == {"unknown_name"}
    assert {answer.status_code for answer in known.values()} == {200}
    idle = {name: answer.json()["error"] for name, answer in known.items() if name not in ("ollama", "comfyui")}
    assert idle
    for name, error in idle.items():
        assert (error["code"], f"add '{name}' to `active`" in error["hint"]) == ("unknown_name", True)


async def generated(client: httpx.AsyncClient, name: str = "ollama", **body: Any) -> dict[str, Any]:
    answer = await client.post(f"/{name}/generate", json=body)
    assert answer.status_code == 200
    told: dict[str, Any] = answer.json()
    return told


async def test_a_text_comes_through_the_gateway(tmp_path: Path, ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    ollama.answers.append("안녕하세요!")
    async with asking(tmp_path, GENERATOR_MODE="live", **urls(ollama, comfyui)) as client:
        body = await generated(client, prompt="인사해 줘", model="llama3.2")
    assert (body["success"], body["output"], body["model"], body["mode"]) == (True, "안녕하세요!", "llama3.2", "live")
    assert (body["target_url"], body["error"]) == (ollama.url, None)
    [chat] = ollama.chats
    assert "인사해 줘" in chat["messages"][-1]["content"]
    assert chat["options"]["num_predict"] <= 256


async def test_in_mock_the_mock_answers(tmp_path: Path, ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    async with asking(tmp_path, **urls(ollama, comfyui)) as client:
        body = await generated(client)
        without_body = (await client.post("/ollama/generate")).json()
    assert (body["success"], body["mode"]) == (without_body["success"], without_body["mode"]) == (True, "mock")
    assert body["output"]
    assert not ollama.requests


async def test_a_text_that_fails_is_told_of_in_the_body(
    tmp_path: Path, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    async with asking(tmp_path, GENERATOR_MODE="live", **urls(ollama, comfyui)) as client:
        absent = await generated(client, model="absent:1b")
        picture = await generated(client, "comfyui")
        idle = await generated(client, "openai")
    assert (absent["success"], absent["output"], absent["model"]) == (False, None, "absent:1b")
    assert (absent["error"]["code"], "ollama pull absent:1b" in absent["error"]["hint"]) == ("model_not_found", True)
    assert absent["error"]["details"]["attempts"]
    assert (picture["success"], picture["error"]["code"]) == (False, "usage")
    assert (idle["success"], idle["error"]["code"]) == (False, "unknown_name")
    assert not comfyui.requests


async def test_a_client_that_leaves_ends_the_call(
    tmp_path: Path, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    ollama.fail_always("hang")
    async with serving(tmp_path, GENERATOR_MODE="live", **urls(ollama, comfyui)) as client:
        asked = asyncio.create_task(client.post("/api/v1/debug/ollama/generate", json={}))
        await until(lambda: ollama.chats)
        asked.cancel()
        await until(lambda: not ollama.active)
        told = (await client.get("/metrics")).text
    assert asked.cancelled()
    assert 'sparklio_llm_requests_total{outcome="cancelled"} 1.0' in told
    assert "sparklio_llm_in_flight 0.0" in told


async def test_no_address_can_come_from_a_request(tmp_path: Path) -> None:
    async with asking(tmp_path) as client:
        answer = await client.post("/ollama/generate", json={"base_url": "http://169.254.169.254"})
    assert answer.status_code == 422


@pytest.mark.parametrize("path", ["debug/settings", "debug/ollama", "llm/health", "media/health"])
async def test_a_server_with_keys_tells_nothing_without_one(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path, SPARKLIO_API_KEYS=KEY) as client:
        allowed = await client.get(f"/api/v1/{path}")
        del client.headers["authorization"]
        refused = await client.get(f"/api/v1/{path}")
        open_to_all = [(await client.get(path)).status_code for path in ("/health", "/ready")]
    assert (allowed.status_code, refused.status_code) == (200, 401)
    assert open_to_all == [200, 200]
    assert refused.json()["error"]["code"] == "unauthorized"
