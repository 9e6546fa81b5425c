"""Ollama's lines, joined where a model writes faster than anyone reads."""

from __future__ import annotations

import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx

__all__ = ["join_lines"]

_STEP_S = 0.1  # the terminal view is drawn eight times a second


async def join_lines(response: httpx.Response) -> None:
    """Hook: pieces of text that come within 100 ms of the last ones are read as one line.

    ChatOllama makes half a dozen objects of each line, and each line becomes an event. The pieces of a slow model pass
    as they come. There is no timer: the last pieces pass with the end of the body, and what a model wrote in the 100 ms
    before it stalled, with the next line.
    """
    lines = response.headers.get("content-type", "").startswith("application/x-ndjson")
    if lines and "content-encoding" not in response.headers and isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = _JoinedLines(response.stream)


class _JoinedLines(httpx.AsyncByteStream):
    def __init__(self, body: httpx.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        held, passed_at = b"", -math.inf
        broken: Exception | None = None
        try:
            async for data in self._body:
                held += data
                now = time.monotonic()
                if now >= passed_at + _STEP_S and b"\n" in data:
                    whole, _, held = held.rpartition(b"\n")
                    yield _joined(whole.splitlines())
                    passed_at = now
        except (httpx.TransportError, OSError) as exc:
            broken = exc
        if held:  # the last line may tell why the connection broke
            yield _joined(held.splitlines())
        if broken is not None:
            raise broken

    async def aclose(self) -> None:
        await self._body.aclose()


def _joined(lines: list[bytes]) -> bytes:
    """The same lines, but those of mere text that follow each other are one."""
    joined: list[bytes | dict[str, Any]] = []
    for line in lines:
        piece = _mere_text(line) if len(lines) > 1 else None
        last = joined[-1] if joined else None
        if piece is not None and isinstance(last, dict):
            last["message"]["content"] += piece["message"]["content"]
        else:
            joined.append(line if piece is None else piece)
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in joined)


def _mere_text(line: bytes) -> dict[str, Any] | None:
    """The piece that ``line`` holds, where it holds nothing but text of an answer that goes on."""
    try:
        piece = json.loads(line)
        mere_text = piece["done"] is False and piece["message"].keys() == {"role", "content"} and "error" not in piece
    except (ValueError, TypeError, LookupError, AttributeError):
        return None
    return piece if mere_text else None
