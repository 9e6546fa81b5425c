"""What the bodies of requests have in common: they come from strangers, and tell whose they are."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Coroutine, Iterator
from itertools import chain
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from providers.errors import InputError
from routing.contracts import REQUEST_ID
from routing.sse import EVENT_STREAM

__all__ = ["DEEPEST", "LARGEST", "MOST", "JsonRoute", "check_json", "request_id_of", "wants_events"]

DEEPEST = 64
"""Levels of lists and objects inside each other; what is deeper would only find the end of Python's stack."""
MOST = 100_000
"""Values and names in a body; one of a few bytes costs a hundred in memory, and all of them are looked at in turn."""
LARGEST = 4_000_000
"""Bytes of a body of JSON, which is parsed in one go while all others wait."""

_TOKEN = re.compile(rb'"[^"\\]*+(?:\\(?:.|\Z)[^"\\]*+)*+(?:"|\Z)|[\[{,:]', re.DOTALL)  # linear, whatever comes
_LARGE = 1_000_000


class JsonRoute(APIRoute):
    """A route whose body is JSON, and is parsed only where that takes little time and memory."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def checked(request: Request) -> Response:
            await _check_body(request)
            return await handle(request)

        return checked


async def _check_body(request: Request) -> None:
    """Raises HTTPException 413 or InputError; the body is kept for who reads it next."""
    if int(request.headers.get("content-length", "0")) > LARGEST:  # a number, or HTTP itself has refused it
        raise _too_large()
    body = await request.body()
    if len(body) > LARGEST:
        raise _too_large()
    if sum(map(body.count, (b",", b":", b"[", b"{"))) <= MOST:
        return
    if len(body) > _LARGE:
        await asyncio.to_thread(_check_number, body)
    else:
        _check_number(body)


def _too_large() -> HTTPException:
    return HTTPException(413, f"the body is JSON of more than {LARGEST / 1_000_000:g} MB; only uploads may be larger")


def _check_number(body: bytes) -> None:
    """Raises InputError: more values than may be. Each comes with one such sign; those within texts are none."""
    seen = 0
    for token in _TOKEN.finditer(body):
        seen += token[0][:1] != b'"'
        if seen > MOST:
            raise InputError(f"body: holds more than {MOST:,} values", hint="send less at a time")


def check_json(value: Any) -> Any:
    """``value``, if all of it can be written as JSON again; a pydantic validator of mode ``before``.

    Raises:
        ValueError: it holds half a character (a lone surrogate), NaN or an infinity, too many values, or is too deep.
    """
    seen, levels = 0, [iter((value,))]
    while levels:
        for one in levels[-1]:
            seen += 1
            if seen > MOST:
                raise ValueError(f"holds more than {MOST:,} values")
            if isinstance(one, (dict, list)):
                if len(levels) > DEEPEST:
                    raise ValueError(f"is nested deeper than {DEEPEST} levels")
                levels.append(_parts(one))
                break
            _check_scalar(one)
        else:
            levels.pop()
    return value


def _parts(one: dict[str, Any] | list[Any]) -> Iterator[Any]:
    return chain(one, one.values()) if isinstance(one, dict) else iter(one)


def _check_scalar(one: Any) -> None:
    if isinstance(one, float) and not math.isfinite(one):
        raise ValueError("holds NaN or an infinite number, which JSON does not know")
    if isinstance(one, str) and not _is_whole(one):
        raise ValueError("holds half a character (a lone surrogate)")


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def request_id_of(body: BaseModel, request: Request) -> str:
    """The body's own ``request_id``, or else the one under which the server keeps the request, where it is one."""
    own: str = body.request_id  # type: ignore[attr-defined]  # of both gateways' requests
    kept: str = getattr(request.state, "request_id", own)
    return kept if "request_id" not in body.model_fields_set and re.fullmatch(REQUEST_ID, kept) else own


def wants_events(request: Request) -> bool:
    """Whether the client's ``Accept`` names event streams."""
    return EVENT_STREAM in request.headers.get("accept", "").lower()
