"""One request to the LLM gateway over HTTP, whole and as events, and clients that leave in the middle of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from routing import attempts
from sparklio import Sparklio
from sparklio.server.routes.llm import _EXAMPLES
from tests.serving import serving
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import Fault, OllamaStandIn
from tests.waiting import NEVER_S, until

GENERATE = "/api/v1/llm/generate"
ASKED = {"role": "brand", "task": "brand_summary", "mode": "json", "payload": {"brand": {"name": "소리결"}}}
EVENTS = {"accept": "text/event-stream"}
STORM = 200


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with serving(tmp_path) as client:
        yield client


async def events_of(response: httpx.Response) -> list[tuple[str, Any]]:
    """Kind and data of each event; comments are left out."""
    found = []
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            found.append((kind, json.loads(line.removeprefix("data: "))))
    return found


async def streamed(client: httpx.AsyncClient, asked: Any, **headers: str) -> list[tuple[str, Any]]:
    async with client.stream("POST", GENERATE, json=asked, headers={**EVENTS, **headers}) as response:
        assert response.status_code == 200
        return await events_of(response)


@pytest.mark.parametrize("name", _EXAMPLES)
async def test_each_example_is_answered_as_the_python_api_answers_it(client: httpx.AsyncClient, name: str) -> None:
    response = await client.post(GENERATE, json=_EXAMPLES[name]["value"])
    assert response.status_code == 200
    answer = response.json()
    assert set(answer) == {"provider", "model", "usage", "output", "meta", "timestamp"}
    assert answer["output"]["type"] == "json"
    assert answer["output"]["parsed"]
    assert answer["meta"]["role"] == name
    assert answer["meta"]["generator_mode"] == "mock"


async def test_input_is_another_name_for_payload(client: httpx.AsyncClient) -> None:
    named = {**ASKED, "options": {"seed": 1}}
    other = {**{key: value for key, value in named.items() if key != "payload"}, "input": ASKED["payload"]}
    answers = [(await client.post(GENERATE, json=asked)).json()["output"] for asked in (named, other)]
    assert answers[0] == answers[1]


async def test_any_words_and_any_json_are_answered(client: httpx.AsyncClient) -> None:
    payloads: list[Any] = [None, 7, "그냥 글", [1, {"a": [None]}], {"깊": {"이": []}}]
    for payload in payloads:
        response = await client.post(GENERATE, json={"role": "시인", "task": "시", "payload": payload})
        assert response.status_code == 200
        assert response.json()["output"]["content"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"role": "a", "task": "b", "payload": "\\ud800"}',
        b'{"role": "a", "task": "b", "payload": {"\\udfff": 1}}',
        b'{"role": "a", "task": "b", "payload": NaN}',
        b'{"role": "a", "task": "b", "options": {"budget_usd": Infinity}}',
        b'{"role": "a", "task": "b", "payload": ' + b"[" * 70 + b"]" * 70 + b"}",
        b'{"role": "a", "task": "b", "elsewhere": 1}',
        b'{"role": "a", "task": "b", "payload": 1, "input": 2}',
        b'{"role": "", "task": "b"}',
        b'{"role": "a", "task": "b", "request_id": "../x"}',
        b"[]",
        b"",
    ],
)
async def test_what_is_no_request_is_refused_in_the_one_form(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post(GENERATE, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "bad_input"
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b'{"payload": ' + b"[" * 90_000 + b"]" * 90_000 + b"}", b"\xff"])
async def test_what_is_no_json_is_a_bad_request(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post(GENERATE, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"]


async def test_a_request_without_an_id_takes_the_one_of_its_header(client: httpx.AsyncClient) -> None:
    headers = {"X-Request-ID": "from-the-proxy"}
    for asked, expected in ((ASKED, "from-the-proxy"), ({**ASKED, "request_id": "mine"}, "mine")):
        answer = await client.post(GENERATE, json=asked, headers=headers)
        assert answer.json()["meta"]["request_id"] == expected
        assert answer.headers["x-request-id"] == "from-the-proxy"


async def test_a_stream_tells_the_tokens_and_then_the_whole_answer(client: httpx.AsyncClient) -> None:
    async with client.stream("POST", GENERATE, json=ASKED, headers=EVENTS) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        events = await events_of(response)
    kinds = [kind for kind, _ in events]
    assert kinds == ["token"] * (len(events) - 1) + ["answer"]
    assert len(kinds) > 1
    assert "".join(data["text"] for kind, data in events if kind == "token") == events[-1][1]["output"]["content"]
    assert {data["attempt"] for kind, data in events if kind == "token"} == {1}


async def test_the_option_asks_for_a_stream_as_well_and_reaches_no_provider(
    live: None, ollama: OllamaStandIn, tmp_path: Path
) -> None:
    async with serving(tmp_path) as client:
        async with client.stream("POST", GENERATE, json={**ASKED, "options": {"stream": True, "top_k": 7}}) as response:
            events = await events_of(response)
        assert events[-1][0] == "answer"
        again = {**ASKED, "options": {"top_k": 7}}
        assert (await client.post(GENERATE, json=again)).status_code == 200
    streamed_chat, plain_chat = ollama.chats
    assert streamed_chat == plain_chat


async def test_a_failure_has_its_status_and_inside_a_stream_an_event(
    live: None, ollama: OllamaStandIn, tmp_path: Path
) -> None:
    ollama.fail_always(Fault.STATUS_500)
    async with serving(tmp_path) as client:
        response = await client.post(GENERATE, json={**ASKED, "request_id": "mine"})
        assert response.status_code == 502
        assert response.json()["error"]["request_id"] == "mine"
        assert response.headers["x-request-id"] != "mine", "that is the server's own"
        events = await streamed(client, {**ASKED, "request_id": "mine"})
    assert [kind for kind, _ in events] == ["error"]
    told, plain = events[0][1]["error"], response.json()["error"]
    for error in (told, plain):
        for attempt in error["details"].pop("attempts"):
            assert attempt["outcome"] == "provider_server_error"
    assert told == plain


async def test_a_second_attempt_is_told_apart(live: None, ollama: OllamaStandIn, tmp_path: Path) -> None:
    ollama.fail(Fault.CUT)
    async with serving(tmp_path) as client:
        events = await streamed(client, ASKED)
    attempts_told = [data["attempt"] for kind, data in events if kind == "token"]
    assert set(attempts_told) == {1, 2}
    assert attempts_told == sorted(attempts_told)
    last = "".join(data["text"] for kind, data in events if kind == "token" and data["attempt"] == 2)
    assert last == events[-1][1]["output"]["content"]


async def test_fingerprints_are_those_of_the_python_api(client: httpx.AsyncClient, tmp_path: Path) -> None:
    from routing.contracts import LLMRequest

    response = await client.post("/api/v1/llm/fingerprint", json={**ASKED, "options": {"stream": True, "seed": 3}})
    async with Sparklio(home=tmp_path / "other") as studio:
        asked = LLMRequest.model_validate({**ASKED, "options": {"seed": 3}})
        assert response.json() == {"fingerprint": dict(await studio.gateways.llm.fingerprint(asked))}


@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["whole", "events"])
async def test_a_key_is_answered_once(
    live: None, ollama: OllamaStandIn, tmp_path: Path, headers: dict[str, str]
) -> None:
    headers = {**headers, "Idempotency-Key": "k 1"}
    async with serving(tmp_path) as client:
        first, again = [await client.post(GENERATE, json=ASKED, headers=headers) for _ in range(2)]
        assert again.content == first.content
        assert again.headers["content-type"] == first.headers["content-type"]
        assert again.headers["idempotency-replayed"] == "true"
        other = await client.post(GENERATE, json={**ASKED, "payload": 1}, headers=headers)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    assert len(ollama.chats) == 1


@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["whole", "events"])
async def test_a_failure_is_tried_again_with_its_key(
    live: None, ollama: OllamaStandIn, tmp_path: Path, headers: dict[str, str]
) -> None:
    headers = {**headers, "Idempotency-Key": "k"}
    ollama.fail_always(Fault.STATUS_500)
    async with serving(tmp_path) as client:
        assert "provider_server_error" in (await client.post(GENERATE, json=ASKED, headers=headers)).text
        ollama.fail_always(None)
        assert '"output"' in (await client.post(GENERATE, json=ASKED, headers=headers)).text


@pytest.mark.parametrize("headers", [{}, EVENTS], ids=["whole", "events"])
@pytest.mark.parametrize("fault", [Fault.HANG, Fault.STALL])
async def test_a_client_that_leaves_cancels_its_call(
    live: None,
    ollama: OllamaStandIn,
    comfyui: ComfyUIStandIn,
    tmp_path: Path,
    headers: dict[str, str],
    fault: Fault,
) -> None:
    ollama.fail_always(fault)
    async with serving(tmp_path) as client:
        await client.post("/api/v1/llm/fingerprint", json=ASKED)
        quiet = asyncio.all_tasks()
        asking = asyncio.create_task(client.post(GENERATE, json=ASKED, headers=headers))
        await until(lambda: ollama.chats)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: not ollama.active and _ours() <= _ours(quiet))
        ollama.fail_always(None)
        answer = await client.post(GENERATE, json=ASKED)
        assert answer.status_code == 200


async def test_a_key_is_free_again_when_its_client_has_left(
    live: None, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    ollama.fail_always(Fault.HANG)
    key = {"Idempotency-Key": "k"}
    async with serving(tmp_path) as client:
        asking = asyncio.create_task(client.post(GENERATE, json=ASKED, headers=key))
        await until(lambda: ollama.chats)
        busy = await client.post(GENERATE, json=ASKED, headers=key)
        assert (busy.status_code, busy.json()["error"]["code"]) == (409, "conflict")
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: not ollama.active)
        ollama.fail_always(None)
        async with asyncio.timeout(NEVER_S):
            while (answer := await client.post(GENERATE, json=ASKED, headers=key)).status_code == 409:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.01)
        assert answer.status_code == 200


@pytest.mark.no_cover
async def test_a_storm_of_clients_that_leave_in_mid_stream_leaves_nothing(
    live: None, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    ollama.fail_always(Fault.STALL)
    async with serving(tmp_path) as client:
        await client.post("/api/v1/llm/fingerprint", json=ASKED)
        before = _ours()

        async def leave_after_the_first_token() -> None:
            async with client.stream("POST", GENERATE, json=ASKED, headers=EVENTS) as response:
                async for line in response.aiter_lines():
                    if line.startswith("event: token"):
                        return

        async with asyncio.timeout(60):
            await asyncio.gather(*(leave_after_the_first_token() for _ in range(STORM)))
        assert len(ollama.chats) == STORM
        await until(lambda: not (ollama.active or ollama.open_connections) and _ours() <= before)
        ollama.fail_always(None)
        answer = await client.post(GENERATE, json=ASKED)
        assert answer.status_code == 200


def _ours(tasks: set[asyncio.Task[Any]] | None = None) -> set[asyncio.Task[Any]]:
    """Tasks but the one that sse-starlette keeps for the whole loop."""
    tasks = asyncio.all_tasks() if tasks is None else tasks
    return {task for task in tasks if "_shutdown_watcher" not in repr(task.get_coro())}
