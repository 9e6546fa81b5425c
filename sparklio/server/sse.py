"""Answers that take their time: awaited for as long as the client is there, or sent to it event by event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import anyio
from fastapi import Request, Response
from pydantic import BaseModel
from sse_starlette import EventSourceResponse, ServerSentEvent

from routing.contracts import OnProgress, Progress
from routing.sse import EVENT_STREAM
from sparklio.server.errors import error_response
from sparklio.server.once import Once

__all__ = [
    "PING_S",
    "answered",
    "event",
    "event_content",
    "event_response",
    "while_there",
]

PING_S = 15
"""Seconds between the comments that keep a silent stream from being taken for dead."""
Call = Callable[[str | None, OnProgress | None], Coroutine[Any, Any, BaseModel]]
"""Is given the request's token (see :class:`Once`) and, where events are wanted, what hears its progress."""

_LEFT = 499  # as nginx logs it; nobody is there to read it


def event(kind: str, data: Any, *, id: str | None = None) -> ServerSentEvent:
    """``data`` as JSON in one line; what is bytes already is JSON."""
    text = data.decode() if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return ServerSentEvent(text, event=kind, id=id, sep="\n")


def event_content(*kinds: str) -> dict[str, Any]:
    """What OpenAPI tells of a stream: each of its events has one of these kinds, and JSON as its data."""
    properties = {"event": {"type": "string", "enum": list(kinds)}, "data": {"type": "string"}}
    return {EVENT_STREAM: {"schema": {"type": "object", "properties": properties, "required": list(properties)}}}


def event_response(events: AsyncGenerator[ServerSentEvent, None]) -> EventSourceResponse:
    """The answer that sends ``events``; they are closed when the client leaves. No proxy keeps them back."""
    return EventSourceResponse(events, ping=PING_S, sep="\n", headers={"Cache-Control": "no-store"})


async def answered(
    request: Request,
    once: Once,
    call: Call,
    step: Callable[[Progress], ServerSentEvent],
    *,
    events: bool,
) -> Response:
    """What ``call`` answers, once for an Idempotency-Key; it is cancelled when the client leaves.

    With ``events`` what it reports is sent as ``step`` shapes it, then ``answer``, or ``error`` where it failed.
    """
    failures: list[Exception] = []

    async def make(token: str | None) -> Response:
        if events:
            return event_response(_events(request, partial(call, token), step, failures))
        return await while_there(request, _whole(call(token, None)))

    return await once.answer(request, make, good=lambda: not failures)


async def while_there(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The answer of ``work``, which is cancelled if the client leaves before: Starlette itself would let it go on.

    The request's body must have been read.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        leaving.result()  # raises what is wrong with the request's body
        return Response(status_code=_LEFT)
    finally:
        await _ended(working, leaving)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _whole(answer: Awaitable[BaseModel]) -> Response:
    return Response((await answer).model_dump_json(), media_type="application/json")


async def _events(
    request: Request,
    call: Callable[[OnProgress], Coroutine[Any, Any, BaseModel]],
    step: Callable[[Progress], ServerSentEvent],
    failures: list[Exception],
) -> AsyncGenerator[ServerSentEvent, None]:
    reported: asyncio.Queue[Progress | None] = asyncio.Queue()
    working = asyncio.create_task(call(reported.put_nowait))
    working.add_done_callback(lambda _: reported.put_nowait(None))
    try:
        while (progress := await reported.get()) is not None:
            yield step(progress)
        try:
            answer = await working
        except Exception as exc:  # noqa: BLE001  # told to the client, as a status can no more tell it
            failures.append(exc)
            yield event("error", _failure(request, exc))
        else:
            yield event("answer", answer.model_dump_json().encode())
    finally:
        await _ended(working)


def _failure(request: Request, error: Exception) -> bytes:
    """The body that the failed request would get, where a status can no more be sent."""
    request_id = getattr(request.state, "request_id", None)
    settings = request.app.state.settings
    return bytes(error_response(error, request_id, settings.secrets, settings.home).body)


async def _ended(*tasks: asyncio.Task[Any]) -> None:
    """Cancel what is not done and see it end, though we may be being cancelled ourselves."""
    for task in tasks:
        task.cancel()
    with anyio.CancelScope(shield=True):
        await asyncio.gather(*tasks, return_exceptions=True)
