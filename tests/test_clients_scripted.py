"""What clients make of a server that answers oddly, of somebody else who answers, and of nobody."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.errors import (
    AuthenticationError,
    ConflictError,
    JobError,
    MalformedAnswerError,
    OverloadedError,
    ProviderError,
    RejectedError,
    SparklioError,
    UnauthorizedError,
)
from routing import remote, tracing
from routing.clients import LLMGatewayClient, MediaGatewayClient, RunsClient
from routing.gateways import build_gateways
from routing.image_store import ImageStore
from routing.remote import Remote
from routing.settings import load_settings
from tests.gateway_clients import KEY, READY, Script, asked, be_quick, scripting, wished


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Script:
    return scripting(monkeypatch)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    be_quick(monkeypatch)


async def test_a_proxy_that_finds_no_server_behind_it_is_asked_again(scripted: Script) -> None:
    got = scripted(
        httpx.Response(502, text="<html>"), httpx.Response(503, text="soon", headers={"retry-after": "0"}), READY
    )
    assert (await Remote("http://gateway").readiness()).mode == "mock"
    assert len(got) == 3


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(404, text="<html>"), RejectedError),
        (httpx.Response(308, headers={"location": "https://elsewhere"}), RejectedError),
        (httpx.Response(403, text="no"), AuthenticationError),
        (httpx.Response(200, text="<html>hello"), MalformedAnswerError),
        (httpx.Response(200, json={"ready": "perhaps"}), MalformedAnswerError),
    ],
)
async def test_what_is_no_sparklio_server_is_told_so(
    answer: httpx.Response, kind: type[ProviderError], scripted: Script
) -> None:
    got = scripted(answer)
    with pytest.raises(kind) as caught:
        await Remote("http://gateway", KEY).fits()
    assert caught.value.provider == "gateway"
    assert "SPARKLIO_GATEWAY_URL" in caught.value.hint
    assert len(got) == 1


@pytest.mark.parametrize("lost", [httpx.PoolTimeout("full"), httpx.ConnectTimeout("far"), httpx.ReadError("cut")])
async def test_what_was_not_heard_is_asked_again(lost: Exception, scripted: Script) -> None:
    got = scripted(lost, READY)
    await Remote("http://gateway").fits()
    assert len(got) == 2


async def test_a_full_pool_is_given_up_for_a_new_one(scripted: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(READY, httpx.PoolTimeout("full"), READY)
    built: list[httpx.AsyncClient] = []
    make = Remote._client

    def counted(of: Remote) -> httpx.AsyncClient:
        built.append(make(of))
        return built[-1]

    monkeypatch.setattr(Remote, "_client", counted)
    gateway = Remote("http://gateway")
    await gateway.readiness()
    await gateway.readiness()
    assert [client.is_closed for client in built] == [True, False]


async def test_a_second_try_waits_for_the_first_one_which_is_still_under_way(
    scripted: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_STILL_UNDER_WAY_S", 0.01)
    busy = httpx.Response(409, json=ConflictError("under way", hint="wait").to_dict())
    got = scripted(httpx.ReadError("cut"), busy, busy, READY)
    await Remote("http://gateway").ask("POST", "/x", {}, key="k")
    assert [request.headers["idempotency-key"] for request in got] == ["k"] * 4


async def test_a_key_that_somebody_else_has_used_is_told_at_once(scripted: Script) -> None:
    got = scripted(httpx.Response(409, json=ConflictError("another request", hint="choose").to_dict()))
    with pytest.raises(ConflictError):
        await Remote("http://gateway").ask("POST", "/x", {}, key="k")
    assert len(got) == 1


async def test_a_server_that_is_about_to_stop_is_asked_again(scripted: Script) -> None:
    body = {"error": {"code": "bad_request", "message": "the server is stopping", "hint": "", "request_id": "1"}}
    got = scripted(httpx.Response(503, json=body), READY)
    await Remote("http://gateway").ask("POST", "/x", {}, key="k")
    assert len(got) == 2


async def test_what_a_provider_behind_the_server_failed_with_is_not_tried_again(scripted: Script) -> None:
    """It has had its retries there."""
    busy = OverloadedError("busy", provider="someone", hint="wait").to_dict()
    got = scripted(httpx.Response(503, json=busy))
    with pytest.raises(OverloadedError):
        await Remote("http://gateway").patiently(lambda: Remote("http://gateway").ask("POST", "/x", {}))
    assert len(got) == 1


async def test_the_key_is_in_no_error_though_the_server_repeats_it(scripted: Script) -> None:
    body = UnauthorizedError(f"{KEY} is wrong", hint=f"not {KEY}").to_dict()
    scripted(httpx.Response(401, json=body))
    with pytest.raises(AuthenticationError) as caught:
        await Remote("http://gateway", KEY).ask("GET", "/x")
    assert KEY not in str(caught.value.to_dict())


async def test_a_stream_that_breaks_off_counts_its_attempts_on(scripted: Script) -> None:
    own = build_gateways(load_settings())
    answer = (await own.llm.generate(asked())).model_dump_json()

    def stream(*events: str) -> httpx.Response:
        return httpx.Response(200, text="".join(events), headers={"content-type": "text/event-stream; charset=utf-8"})

    token = 'event: token\ndata: {"text": "한", "attempt": %d}\n\n'
    first, second = stream(token % 1, token % 2), stream(": ping\n\n", token % 1, f"event: answer\ndata: {answer}\n\n")
    scripted(READY, first, second)
    heard: list[int] = []
    await LLMGatewayClient("http://gateway").generate(asked(), lambda progress: heard.append(progress.attempt))
    assert heard == [1, 2, 3]


async def test_events_of_another_form_are_told_so(scripted: Script) -> None:
    for body in ('{"seq": "one"}', "[]", "nothing"):
        scripted(httpx.Response(200, text=f"data: {body}\n\n"))
        with pytest.raises(MalformedAnswerError, match="another form") as caught:
            await anext(RunsClient("http://gateway").follow("page"))
        assert caught.value.provider == "gateway"


class Spans(tracing._Tracer):
    """What a tracer hears of calls."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    @contextmanager
    def call(self, request: Any, mode: str, secrets: tuple[str, ...]) -> Iterator[tracing.Tell]:
        answers: list[Any] = []
        outcome = "ok"
        try:
            yield answers.append
        except SparklioError as exc:
            outcome = exc.code
            raise
        finally:
            self.told.append((request.request_id, outcome, answers[0].provider if answers else None, secrets))


async def test_each_call_of_a_gateway_is_a_span(
    scripted: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans, threads = Spans(), set[int]()

    def tracers() -> tuple[Spans]:
        threads.add(threading.get_ident())
        return (spans,)

    monkeypatch.setattr(tracing, "_tracers", tracers)
    answer = await build_gateways(load_settings()).llm.generate(asked())
    spans.told.clear()
    request, image = asked(), wished()
    black = JobError("black", hint="again", provider="someone").to_dict()
    failed = {"job_id": "k", "status": "failed", "version": 2, **black}
    scripted(READY, READY, httpx.Response(200, text=answer.model_dump_json()), httpx.Response(202, json=failed))
    llm = LLMGatewayClient("http://gateway", KEY)
    media = MediaGatewayClient("http://gateway", KEY, store=ImageStore(tmp_path))
    threads.clear()
    await llm.prepare()
    await media.prepare()
    assert threads, "its packages are imported before the first call"
    assert threading.get_ident() not in threads, "and hold nobody up"
    await llm.generate(request)
    with pytest.raises(JobError):
        await media.generate_image(image)
    assert spans.told == [
        (request.request_id, "ok", answer.provider, (KEY,)),
        (image.request_id, JobError.code, None, (KEY,)),
    ]
