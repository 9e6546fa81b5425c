"""The LLM gateway over HTTP against a real server: the caller cannot tell it from the one in its own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from providers import errors
from providers.errors import (
    AuthenticationError,
    ConfigError,
    DeadlineError,
    ProviderError,
    QueueFullError,
    ServerError,
    SparklioError,
    UnauthorizedError,
    UnknownNameError,
    UnreachableError,
)
from routing.budget import Budget
from routing.clients import LLMGatewayClient, MediaGatewayClient
from routing.contracts import (
    ChatGateway,
    ImageGateway,
    ImageRequest,
    LLMAnswer,
    LLMRequest,
    OnProgress,
    Progress,
)
from routing.gateways import build_gateways
from routing.image_store import ImageStore
from routing.llm_gateway import LLMGateway
from routing.media_gateway import MediaGateway
from routing.settings import load_settings
from tests.gateway_clients import (
    ATTEMPT,
    KEY,
    Wire,
    asked,
    be_quick,
    llm_client,
    media_client,
    raising,
    untimed,
    wished,
)
from tests.serving import free_port, serving
from tests.waiting import until


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[str]:
    async with serving(tmp_path / "server") as client:
        yield str(client.base_url)


def test_they_are_gateways_to_whoever_uses_them(tmp_path: Path) -> None:
    assert isinstance(LLMGatewayClient("http://127.0.0.1:1"), ChatGateway)
    assert isinstance(MediaGatewayClient("http://127.0.0.1:1", store=ImageStore(tmp_path)), ImageGateway)


async def test_an_answer_is_the_one_that_the_gateway_in_process_gives(server: str, tmp_path: Path) -> None:
    own = build_gateways(load_settings({"SPARKLIO_HOME": str(tmp_path)}))
    request = asked()
    expected = await own.llm.generate(request)
    heard: list[Progress] = []
    async with llm_client(server) as client:
        plain = await client.generate(request)
        streamed = await client.generate(request, heard.append)
        assert await client.fingerprint(request) == await own.llm.fingerprint(request)
    assert untimed(plain) == untimed(streamed) == untimed(expected)
    assert "".join(one.text for one in heard) == expected.output.content
    assert {(one.kind, one.attempt) for one in heard} == {("token", 1)}


def _leaves(kind: type[SparklioError] = SparklioError) -> Iterator[type[SparklioError]]:
    for heir in kind.__subclasses__():
        if heir.__module__ == errors.__name__:
            yield heir
            yield from _leaves(heir)


def _made(kind: type[SparklioError]) -> SparklioError:
    if issubclass(kind, UnknownNameError):
        return kind("provider", "olama", ["ollama", "openai"])
    details = {"reason": "많음"}
    if issubclass(kind, ProviderError):
        return kind("it broke", provider="someone", hint="mend it", status=418, retry_after=2.5, details=details)
    if issubclass(kind, QueueFullError):
        return kind("it broke", hint="mend it", retry_after=99, details=details)
    return kind("it broke", hint="mend it", details=details)


KINDS = [kind for kind in _leaves() if kind is not UnauthorizedError]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("way", ["plain", "streamed", "image"])
async def test_every_error_arrives_as_what_it_was(
    kind: type[SparklioError], way: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = _made(kind)
    monkeypatch.setattr(LLMGateway, "generate", raising(error))
    monkeypatch.setattr(MediaGateway, "generate_image", raising(error))
    budget, request = Budget(1.0), wished() if way == "image" else asked()
    with pytest.raises(SparklioError) as caught:
        if isinstance(request, ImageRequest):
            async with media_client(server, tmp_path / "mine") as media:
                await media.generate_image(request, budget=budget)
        else:
            async with llm_client(server) as client:
                await client.generate(request, (lambda _: None) if way == "streamed" else None, budget=budget)
    found = caught.value
    assert type(found) is kind
    assert (found.message, found.hint, found.request_id) == (error.message, error.hint, request.request_id)
    told = {**found.to_dict()["error"], "request_id": None}
    assert told == {**error.to_dict()["error"], "request_id": None}
    for fact in ("provider", "status", "retry_after", "known"):
        assert getattr(found, fact, None) == getattr(error, fact, None)
    assert budget.spent_usd == 0.25


async def test_a_defect_of_the_server_is_an_error_of_the_gateway_and_tells_nothing(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    async def defect(*_: object, **__: object) -> None:
        calls.append(1)
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(LLMGateway, "generate", defect)
    async with llm_client(server) as client:
        for heard in (None, lambda _: None):
            with pytest.raises(ServerError) as caught:
                await client.generate(asked(), heard)
            assert caught.value.provider == "gateway"
            assert "secret" not in str(caught.value.to_dict())
    assert len(calls) == 2  # whatever it was, it may have cost something


@pytest.mark.parametrize("key", [None, "not-the-gateway's-key"])
async def test_a_server_that_wants_another_key(key: str | None, tmp_path: Path) -> None:
    async with (
        serving(tmp_path / "server", SPARKLIO_API_KEYS=KEY) as served,
        llm_client(str(served.base_url), KEY) as ok,
    ):
        assert (await ok.generate(asked())).output.parsed
        async with llm_client(str(served.base_url), key) as client:
            with pytest.raises(AuthenticationError, match="refuses the key") as caught:
                await client.generate(asked())
    assert caught.value.provider == "gateway"
    assert "SPARKLIO_GATEWAY_KEY" in caught.value.hint
    assert key is None or key not in str(caught.value.to_dict())


async def test_nobody_there() -> None:
    async with llm_client(f"http://127.0.0.1:{free_port()}") as client:
        with pytest.raises(UnreachableError) as caught:
            await client.generate(asked())
    assert caught.value.provider == "gateway"
    assert "SPARKLIO_GATEWAY_URL" in caught.value.hint


async def test_a_server_of_the_other_mode_is_refused_before_it_is_asked(server: str) -> None:
    async with llm_client(server, mode="live") as client:
        for ask in (client.prepare, lambda: client.generate(asked())):
            with pytest.raises(ConfigError, match="is in mock, and this is live") as caught:
                await ask()
    assert "GENERATOR_MODE" in caught.value.hint


@pytest.mark.parametrize(("url", "key"), [("localhost:8000", None), ("http://gateway", "two words"), ("http://g", "é")])
def test_what_can_be_no_url_or_key_is_refused_at_once(url: str, key: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        LLMGatewayClient(url, key)
    assert key is None or key not in str(caught.value.to_dict())


async def test_what_is_left_is_sent_and_what_it_cost_is_booked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[float | None] = []
    real = LLMGateway.generate

    async def generate(self: LLMGateway, request: LLMRequest, *rest: Any, **more: Any) -> LLMAnswer:
        sent.append(request.options.budget_usd)
        answer = await real(self, request, *rest, **more)
        answer.meta.attempts[:] = [ATTEMPT, ATTEMPT]
        return answer

    monkeypatch.setattr(LLMGateway, "generate", generate)
    budget = Budget(2.0)
    async with llm_client(server) as client:
        await client.generate(asked(), budget=budget)
        await client.generate(asked(), lambda _: None, budget=budget)
        await client.generate(asked(budget_usd=9))
        await client.generate(asked(budget_usd=9), budget=Budget())
    assert sent == [2.0, 1.5, 9, None]
    assert budget.spent_usd == 1.0


# A connection that breaks, a server that hangs, a client that leaves


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_that_gets_lost_is_told_again_and_not_made_again(
    streamed: bool, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = LLMGateway.generate

    async def generate(self: LLMGateway, request: LLMRequest, *rest: Any, **more: Any) -> LLMAnswer:
        calls.append(request.request_id)
        return await real(self, request, *rest, **more)

    monkeypatch.setattr(LLMGateway, "generate", generate)
    wire, heard = Wire(server), list[Progress]()
    async with wire as url, llm_client(url) as client:
        wire.losing = 2
        answer = await client.generate(asked(), heard.append if streamed else None)
    assert wire.lost == 2
    assert calls == [answer.meta.request_id]
    assert answer.output.parsed


async def test_the_same_request_id_twice_is_two_calls(server: str) -> None:
    request = asked()
    async with llm_client(server) as client:
        await client.generate(request)
        other = request.model_copy(update={"payload": {"brand": {"name": "다른 이름"}}})
        assert (await client.generate(other)).output.parsed["name"] == "다른 이름"


def hanging(state: dict[str, Any]) -> Callable[..., Awaitable[LLMAnswer]]:
    """A gateway's ``generate`` that says a word and then nothing; ``state`` tells of its calls."""

    async def generate(_: object, request: Any, on_progress: OnProgress | None = None, **more: Any) -> LLMAnswer:
        state["under_way"] = state.get("under_way", 0) + 1
        if on_progress:
            on_progress(Progress(kind="token", text="한"))
        try:
            await asyncio.Event().wait()
        finally:
            state["under_way"] -= 1
        raise AssertionError

    return generate


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_server_that_hangs_is_left_at_the_deadline(
    streamed: bool, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state: dict[str, Any] = {}
    monkeypatch.setattr(LLMGateway, "generate", hanging(state))
    monkeypatch.setattr("routing.clients._GRACE_S", 0.1)
    async with llm_client(server, deadline_s=1) as client:
        await client.prepare()
        with pytest.raises(DeadlineError, match="from the gateway within 1 s") as caught:
            await client.generate(asked(), (lambda _: None) if streamed else None)
        assert "GATEWAY_TIMEOUT" in caught.value.hint
        await until(lambda: state["under_way"] == 0)


@pytest.mark.parametrize("streamed", [False, True])
async def test_whoever_leaves_leaves_nothing_behind(
    streamed: bool, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state: dict[str, Any] = {}
    async with llm_client(server) as client:
        await client.generate(asked(), lambda _: None)  # with the first stream the server starts a watcher of its own
        monkeypatch.setattr(LLMGateway, "generate", hanging(state))
        before = asyncio.all_tasks()
        calls = [
            asyncio.create_task(client.generate(asked(), (lambda _: None) if streamed else None)) for _ in range(20)
        ]
        await until(lambda: state.get("under_way") == 20)
        for call in calls:
            call.cancel()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        await until(lambda: state["under_way"] == 0 and len(asyncio.all_tasks()) <= len(before))
        monkeypatch.undo()
        assert await client.fingerprint(asked())
