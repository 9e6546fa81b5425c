"""Whether a server says truly how it is, and asks no more of the services than it must."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx
from fastapi import FastAPI

from providers.base import ImageProvider, LLMProvider
from providers.registry import image_provider
from routing import attempts
from routing.remote import Remote
from routing.settings import load_settings
from routing.via import passing
from sparklio import __version__
from sparklio.server import probes
from sparklio.server.errors import ERROR_ANSWERS, add_error_handlers
from sparklio.server.routes import health
from sparklio.server.routes.health import Health
from sparklio.worker.broker import connect
from sparklio.worker.registry import Worker, announce
from tests.redis_server import RedisServer
from tests.serving import free_port
from tests.standins.anthropic import AnthropicStandIn
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("home")

Ask = Callable[[str], Awaitable[httpx.Response]]
LOADING = {"/api/generate", "/api/chat", "/prompt"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / ".sparklio"
    folder.mkdir()
    return folder


@asynccontextmanager
async def asking(settings: Mapping[str, str] | None = None) -> AsyncIterator[Ask]:
    """A server of nothing but these routes."""
    app = FastAPI(responses=ERROR_ANSWERS)
    app.state.settings = load_settings(settings or {})
    app.include_router(health.router)
    add_error_handlers(app)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")
    async with app.router.lifespan_context(app), client:
        yield client.get


def asked(standin: OllamaStandIn | ComfyUIStandIn | AnthropicStandIn) -> list[tuple[str, str]]:
    return list(standin.requests)


@pytest.mark.usefixtures("live")
async def test_alive_asks_nobody(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    async with asking() as ask:
        answer = await ask("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok", "version": __version__})
    assert not asked(ollama)
    assert not asked(comfyui)


async def test_mock_is_ready_without_any_service(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    urls = {"OLLAMA_BASE_URL": ollama.url, "COMFYUI_BASE_URL": comfyui.url}
    async with asking(urls) as ask:
        answer = await ask("/ready")
        gateways = [(await ask(f"/api/v1/{family}/health")).json() for family in ("llm", "media")]
    folder = {"writable": True, "error": None}
    assert answer.status_code == 200
    assert answer.json() == {"ready": True, "mode": "mock", "providers": {}, "data_folder": folder}
    assert gateways == [{"healthy": True, "mode": "mock", "providers": {}}] * 2
    assert not asked(ollama)
    assert not asked(comfyui)


async def test_nothing_is_ready_without_its_data_folder(home: Path) -> None:
    home.rmdir()
    async with asking() as ask:
        answer = await ask("/ready")
    body = answer.json()
    assert (answer.status_code, body["ready"], body["data_folder"]["writable"]) == (503, False, False)
    assert body["data_folder"]["error"]["code"] == "storage"
    assert str(home) not in answer.text, "whoever asks needs no key"


@pytest.mark.usefixtures("live")
async def test_live_asks_each_active_provider_and_loads_nothing(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    async with asking() as ask:
        answer = await ask("/ready")
        llm, media = [(await ask(f"/api/v1/{family}/health")).json() for family in ("llm", "media")]
    body = answer.json()
    assert (answer.status_code, body["ready"], body["mode"]) == (200, True, "live")
    kinds = {name: (one["kind"], one["healthy"], one["error"]) for name, one in body["providers"].items()}
    assert kinds == {"ollama": ("llm", True, None), "comfyui": ("media", True, None)}
    assert llm == {"healthy": True, "mode": "live", "providers": {"ollama": body["providers"]["ollama"]}}
    assert media == {"healthy": True, "mode": "live", "providers": {"comfyui": body["providers"]["comfyui"]}}
    paths = {path for _, path in asked(ollama) + asked(comfyui)}
    assert paths
    assert not paths & LOADING
    assert not ollama.loads


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("dead", ["ollama", "comfyui"])
async def test_live_is_not_ready_while_either_kind_is_down(
    dead: str, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    {"ollama": ollama, "comfyui": comfyui}[dead].leave()
    family = {"ollama": "llm", "comfyui": "media"}[dead]
    async with asking() as ask:
        answer = await ask("/ready")
        alone = await ask(f"/api/v1/{family}/health")
    body = answer.json()
    assert (answer.status_code, body["ready"]) == (503, False)
    assert {name for name, one in body["providers"].items() if not one["healthy"]} == {dead}
    error = body["providers"][dead]["error"]
    assert (error["code"], dead in error["message"]) == ("provider_unreachable", True)
    assert set(error) >= {"code", "message", "hint", "request_id"}
    assert (alone.status_code, alone.json()["healthy"]) == (200, False)


@pytest.mark.usefixtures("live", "ollama", "comfyui")
@pytest.mark.parametrize("key", [None, "sk-" + "k" * 20], ids=["without its key", "down"])
async def test_one_of_each_kind_is_enough(tmp_path: Path, anthropic: AnthropicStandIn, key: str | None) -> None:
    config = "providers: {llm: {active: [ollama, anthropic]}, media: {active: [comfyui]}}"
    (tmp_path / "provider_config.yaml").write_text(config)
    import_module("providers.llm.anthropic.chat")  # takes seconds, in which nobody else would be heard
    anthropic.leave()
    settings = {"ANTHROPIC_BASE_URL": anthropic.url} | ({"ANTHROPIC_API_KEY": key} if key else {})
    async with asking(settings) as ask:
        answer = await ask("/ready")
    body = answer.json()
    assert (answer.status_code, body["providers"]["anthropic"]["healthy"]) == (200, False)
    assert body["providers"]["anthropic"]["error"]["code"] == ("provider_unreachable" if key else "bad_config")
    assert key is None or key not in answer.text


@pytest.mark.usefixtures("live", "ollama")
async def test_a_service_that_hangs_is_not_waited_for(comfyui: ComfyUIStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_PATIENCE_S", 1.0)
    comfyui.hang("/system_stats")
    async with asking() as ask:
        body = (await ask("/ready")).json()
    comfyui.heal()
    assert (body["ready"], body["providers"]["ollama"]["healthy"]) == (False, True)
    assert body["providers"]["comfyui"]["error"]["code"] == "attempt_timeout"


@pytest.mark.usefixtures("live")
async def test_an_import_is_not_the_service_s_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its own, nor that of the one that is asked beside it."""

    def slowly(name: str) -> type[ImageProvider]:
        time.sleep(health._PATIENCE_S + 0.5)
        return image_provider(name)

    monkeypatch.setattr(probes, "image_provider", slowly)
    async with asking() as ask:
        answer = await ask("/ready")
    assert {name: one["healthy"] for name, one in answer.json()["providers"].items()} == {
        "ollama": True,
        "comfyui": True,
    }


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize(("kept_s", "times"), [(60.0, 1), (0.0, 12)], ids=["kept", "not kept"])
async def test_who_asks_often_asks_the_service_once(
    ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch, kept_s: float, times: int
) -> None:
    monkeypatch.setattr(health, "_KEPT_S", kept_s)
    async with asking() as ask:
        answers = await asyncio.gather(
            *(ask("/ready") for _ in range(6)), *(ask("/api/v1/llm/health") for _ in range(6))
        )
    assert {answer.status_code for answer in answers} == {200}
    assert len(asked(ollama)) == times


@pytest.mark.usefixtures("live", "ollama", "comfyui")
async def test_a_provider_from_outside_that_breaks_its_word_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(LLMProvider):
        vendor = "broken"

        async def generate(self, prompt: str, role: str, task: str, mode: str, options: Any) -> Any:
            raise NotImplementedError

        async def health_check(self) -> bool:
            raise KeyError("no such stove")

    monkeypatch.setattr("sparklio.server.probes.llm_provider", lambda name: Broken)
    async with asking() as ask:
        answer = await ask("/api/v1/llm/health")
    [provider] = answer.json()["providers"].values()
    assert (answer.status_code, provider["healthy"], provider["error"]["code"]) == (200, False, "internal")
    assert "no such stove" in caplog.text


GATEWAY = "http://elsewhere:8000"
GOOD = {"ready": True, "mode": "mock", "providers": {}}
AWAY = {"llm": {"healthy": False, "error": {"message": "no oven"}}, "media": {"healthy": True, "error": None}}


@pytest.mark.parametrize(
    ("answer", "code", "message"),
    [
        (httpx.Response(200, json=GOOD), None, ""),
        (httpx.Response(503, json={**GOOD, "ready": False, "providers": AWAY}), "provider_unreachable", "llm: no oven"),
        (httpx.Response(503, json={**GOOD, "ready": False}), "provider_unreachable", "does not say why"),
        (httpx.Response(200, json={**GOOD, "mode": "live"}), "bad_config", "is in live, and this is mock"),
        (httpx.Response(200, text="welcome"), "malformed_answer", "another form"),
        (httpx.Response(404, text="<html>"), "provider_rejected", "no Sparklio server"),
        (httpx.ConnectError("nobody there"), "provider_unreachable", "cannot be reached"),
    ],
    ids=["ready", "not ready", "says nothing", "other mode", "web page", "nothing there", "nobody"],
)
async def test_another_server_that_answers_instead_is_asked_whether_it_is_ready(
    respx_mock: respx.MockRouter,
    monkeypatch: pytest.MonkeyPatch,
    answer: httpx.Response | Exception,
    code: str | None,
    message: str,
) -> None:
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0.0)
    route = respx_mock.get(f"{GATEWAY}/ready")
    route.mock(side_effect=[answer] * 9)
    with passing("ours"):
        async with asking({"SPARKLIO_GATEWAY_URL": f"{GATEWAY}/"}) as ask:
            told = await ask("/ready")
            llm, media = [(await ask(f"/api/v1/{family}/health")).json() for family in ("llm", "media")]
    body = told.json()
    ready = code is None
    assert (told.status_code == 200, body["ready"], llm["healthy"], media["healthy"]) == (ready,) * 4
    [(name, gateway)] = body["providers"].items()
    assert (name, gateway["kind"], gateway["healthy"]) == ("gateway", "gateway", ready)
    error = gateway["error"] or {"code": None, "message": ""}
    assert error["code"] == code
    assert message in error["message"]
    assert "elsewhere" not in told.text, "whoever asks needs no key"
    assert route.calls[-1].request.headers["x-sparklio-via"] == "ours"


async def test_a_gateway_s_connection_is_kept_and_closed_at_the_end(
    respx_mock: respx.MockRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_KEPT_S", 0.0)
    respx_mock.get(f"{GATEWAY}/ready").respond(200, json=GOOD)
    built: list[httpx.AsyncClient] = []
    make = Remote._client

    def counted(remote: Remote) -> httpx.AsyncClient:
        built.append(make(remote))
        return built[-1]

    monkeypatch.setattr(Remote, "_client", counted)
    async with asking({"SPARKLIO_GATEWAY_URL": GATEWAY}) as ask:
        for _ in range(3):
            assert (await ask("/ready")).status_code == 200
        assert [client.is_closed for client in built] == [False]
    assert [client.is_closed for client in built] == [True]


async def test_the_log_tells_at_the_start_that_the_gateway_cannot_work(
    respx_mock: respx.MockRouter, caplog: pytest.LogCaptureFixture
) -> None:
    respx_mock.get(f"{GATEWAY}/ready").respond(503, json={**GOOD, "ready": False, "providers": AWAY})
    async with asking({"SPARKLIO_GATEWAY_URL": GATEWAY}):
        await until(lambda: "the gateway is not ready: llm: no oven" in caplog.text)


async def test_without_its_database_a_server_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody is told the password. Without broker and workers it books runs all the same."""
    nowhere = free_port()
    monkeypatch.setenv("SPARKLIO_DATABASE_URL", f"postgresql://me:hunter2secret@127.0.0.1:{nowhere}/x")
    monkeypatch.setenv("SPARKLIO_BROKER_URL", f"redis://:hunter3secret@127.0.0.1:{nowhere}/0")
    monkeypatch.setenv("SPARKLIO_ARTIFACTS_URL", Path.cwd().as_uri())
    async with asking() as ask:
        answer = await ask("/ready")
    body = answer.json()
    assert (answer.status_code, body["ready"]) == (503, False)
    assert (body["database"]["healthy"], body["database"]["error"]["code"]) == (False, "storage")
    assert (body["broker"]["healthy"], body["broker"]["error"]["code"]) == (False, "broker")
    assert all(body[name]["error"]["hint"] for name in ("database", "broker"))
    assert "workers" not in body
    assert "secret" not in answer.text


async def test_a_server_without_workers_is_ready_and_says_so(
    monkeypatch: pytest.MonkeyPatch, database_url: str, redis: RedisServer
) -> None:
    monkeypatch.setenv("SPARKLIO_DATABASE_URL", database_url)
    async with asking() as ask:
        alone = (await ask("/ready")).json()
    monkeypatch.setenv("SPARKLIO_BROKER_URL", redis.url)
    monkeypatch.setenv("SPARKLIO_ARTIFACTS_URL", Path.cwd().as_uri())
    async with asking() as ask:
        body = (await ask("/ready")).json()
        with connect(redis.url) as client:
            announce(client, Worker(host="h", pid=1, queues=["text"], concurrency=4, mode="mock", version="0"))
        later = Health(load_settings({}))
        found = (await later.ready()).workers
    assert alone["database"]["healthy"] is True
    assert not {"broker", "workers"} & alone.keys()
    assert body["ready"] is True
    assert body["workers"]["alive"] == 0
    assert body["workers"]["hint"] == "nobody takes from text and image: sparklio worker --queues text,image"
    assert found is not None
    assert (found.alive, found.slots) == (1, {"text": 4, "image": 0})
    assert found.hint == "nobody takes from image: sparklio worker --queues image"
