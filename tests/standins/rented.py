"""What the stand-ins of rented models have in common: a key, known models, answers as server-sent events, and faults.

A subclass tells how its vendor writes an event, an end, a whole answer and each refusal; see
``tests/standins/openai.py`` for the shortest. Faults of a stream become the nearest thing that one JSON object allows
where a call asks for no stream.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from aiohttp import web

from tests.standins.answers import estimated_tokens, text_of
from tests.standins.chat import BREAKS_HALFWAY, REWRITES, Body, ChatStandIn, Fault, split, wait

__all__ = ["IMAGES", "MODELS", "Refusal", "RentedStandIn", "Reply", "sse"]

IMAGES = "images"
"""The task of calls for images: ``fail("hang", task=IMAGES)``."""
MODELS = ("test-large", "test-small", "test-image")

Refusal = tuple[int, Body]
"""HTTP status and the vendor's body of an error."""


@dataclass
class Reply:
    """One answer on its way out.

    Attributes:
        text: the words, or the arguments of the tool's call as JSON; cut where the fault says so.
        pieces: the same, as it is streamed.
        tool: the name of the tool that is called; None for words.
        prompt_tokens, output_tokens: for the vendor's usage.
    """

    id: str
    body: Body
    fault: Fault
    text: str
    pieces: list[str]
    tool: str | None
    prompt_tokens: int

    @property
    def output_tokens(self) -> int:
        return len(self.pieces)

    @property
    def model(self) -> str:
        name: str = self.body["model"]
        return name

    def arguments(self) -> Body:
        """The arguments of the tool's call; nothing where a fault left no object."""
        with suppress(json.JSONDecodeError):
            value = json.loads(self.text)
            if isinstance(value, dict):
                return value
        return {}


class RentedStandIn(ChatStandIn):
    """A vendor's API without a model.

    Attributes:
        key: the only key that is let in.
        models: names that are known; others get the vendor's 404.
        max_prompt_tokens: prompts of more than that get the vendor's 400.
        id_header: the header that names a request.
        streams_arguments: whether a tool's arguments come in pieces.
    """

    id_header: ClassVar[str]
    streams_arguments: ClassVar[bool] = True

    def __init__(self, key: str, models: Iterable[str]) -> None:
        super().__init__()
        self.key = key
        self.models = list(models)
        self.max_prompt_tokens = 200_000
        self._ids = itertools.count(1)
        self.app.on_response_prepare.append(self._name_the_request)

    # -- what a vendor tells -------------------------------------------------------------------------------------------

    def tool_of(self, body: Body) -> tuple[str, Mapping[str, Any]] | None:
        """Name and schema of the tool that an answer calls; None where it is to be words."""
        raise NotImplementedError

    def refusals(self, fault: Fault) -> Refusal | None:
        """The vendor's error for a fault that is one."""
        raise NotImplementedError

    def objection(self, request: web.Request, body: Body) -> Refusal | None:
        """What the vendor finds wrong with the request itself."""
        raise NotImplementedError

    def opening(self, reply: Reply) -> Iterator[bytes]:
        """Events before the first piece."""
        yield from ()

    def piece(self, reply: Reply, text: str) -> bytes:
        raise NotImplementedError

    def closing(self, reply: Reply) -> Iterator[bytes]:
        """Events after the last piece: the reason why it ends, usage, the end's mark."""
        raise NotImplementedError

    def error_event(self) -> bytes:
        """The error that breaks a stream off."""
        raise NotImplementedError

    def whole(self, reply: Reply) -> Body:
        """The answer without a stream."""
        raise NotImplementedError

    def retry_headers(self, status: int) -> dict[str, str]:
        return {"Retry-After": self.retry_after} if self.retry_after is not None and status in (429, 503, 529) else {}

    # -- one call ------------------------------------------------------------------------------------------------------

    async def serve(self, request: web.Request, body: Body, *, stream: bool) -> web.StreamResponse:
        """Answer a chat."""
        self.enter(body)
        objection = self.objection(request, body)
        if objection is not None:
            return self.refuse(objection)
        fault = Fault(self.next_fault(self.task_of(body)))
        met = await self.meet(request, fault)
        if met is not None:
            return met
        reply = self._reply(body, fault)
        if stream:
            return await self._stream(request, reply)
        if fault is Fault.ERROR_LINE:
            return self.refuse(self.refusals(Fault.STATUS_500) or (500, {}))
        return await self.send(request, json.dumps(self.whole(reply), ensure_ascii=False).encode(), fault)

    async def meet(self, request: web.Request, fault: Fault) -> web.StreamResponse | None:
        """What a fault puts in place of any answer."""
        await wait(request, self.delay_s)
        if fault is Fault.HANG:
            await wait(request, float("inf"))
        if fault is Fault.REDIRECT:
            return web.Response(status=307, headers={"Location": "/elsewhere"})
        if fault is Fault.MALFORMED:
            return web.Response(text="<html><body>Sign in to the network</body></html>", content_type="text/html")
        refusal = self.refusals(fault)
        return None if refusal is None else self.refuse(refusal)

    def refuse(self, refusal: Refusal) -> web.Response:
        status, body = refusal
        return web.json_response(body, status=status, headers=self.retry_headers(status))

    async def send(self, request: web.Request, data: bytes, fault: Fault) -> web.StreamResponse:
        """A JSON body as a whole, or as much of it as the fault leaves."""
        if fault not in (Fault.STALL, Fault.CUT):
            data = data[: len(data) // 2] if fault is Fault.HALF_JSON else data
            return web.Response(body=data, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        return await _break_off(request, response, fault)

    def next_id(self, prefix: str) -> str:
        return f"{prefix}{next(self._ids):016d}"

    def prompt_tokens(self, body: Body) -> int:
        """An estimate, as the vendor's own count would be."""
        system = body.get("system") or body.get("systemInstruction") or ""
        turns = [*(body.get("messages") or ()), *(body.get("contents") or ()), _turn(system)]
        return estimated_tokens("".join(map(text_of, turns)))

    def _reply(self, body: Body, fault: Fault) -> Reply:
        text = REWRITES.get(fault, str)(self.next_answer(body))
        tool = self.tool_of(body)
        pieces = [text] if tool and not self.streams_arguments else split(text, self.chunk_chars)
        if fault in BREAKS_HALFWAY:
            pieces = pieces[: max(1, len(pieces) // 2)]
        name = tool[0] if tool else None
        return Reply(self.next_id(""), body, fault, "".join(pieces), pieces, name, self.prompt_tokens(body))

    async def _stream(self, request: web.Request, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        with suppress(ConnectionResetError):  # the client has gone
            await response.prepare(request)
            for event in self._events(reply):
                await wait(request, self.token_delay_s)
                await response.write(event)
            await _break_off(request, response, reply.fault)
        return response

    def _events(self, reply: Reply) -> Iterator[bytes]:
        yield from self.opening(reply)
        if reply.fault not in (Fault.REFUSAL, Fault.REFUSAL_PROMPT):
            yield from (self.piece(reply, text) for text in reply.pieces)
        if reply.fault is Fault.HALF_JSON:
            yield self.piece(reply, "a broken line")[:-10] + b"\n\n"
        elif reply.fault is Fault.ERROR_LINE:
            yield self.error_event()
        elif reply.fault not in (Fault.STALL, Fault.CUT, Fault.NO_DONE):
            yield from self.closing(reply)

    async def _name_the_request(self, _request: web.Request, response: web.StreamResponse) -> None:
        response.headers[self.id_header] = self.next_id("req_")


async def _break_off(request: web.Request, response: web.StreamResponse, fault: Fault) -> web.StreamResponse:
    if fault is Fault.STALL:
        await wait(request, float("inf"))
    if fault is Fault.CUT and request.transport is not None:
        request.transport.abort()
    return response


def _turn(system: Any) -> Mapping[str, Any]:
    """A system prompt as a message: Anthropic's text or parts, or Google's turn."""
    return system if isinstance(system, dict) else {"content": system}


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event; text goes out as it is."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {event}\n" if event else "").encode() + f"data: {text}\n\n".encode()
