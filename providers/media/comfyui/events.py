"""ComfyUI's websocket: progress while it works. Never the truth: that is /queue and /history."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from providers.http import CONNECT_TIMEOUT_S

__all__ = ["Event", "EventStream", "open_events", "parse_event"]

CLOSE_TIMEOUT_S = 0.2
"""For the closing handshake. It cannot end while unread frames are in the way, and nothing depends on it."""


@dataclass(frozen=True)
class Event:
    """One JSON message, e.g. ``progress`` with ``{value, max, node, prompt_id}``."""

    type: str
    data: dict[str, Any] = field(repr=False)


class EventStream:
    """Events one by one. Without a connection, or after it closed, it is merely silent."""

    def __init__(self, connection: ClientConnection | None) -> None:
        self._connection = connection

    @property
    def connected(self) -> bool:
        """Whether there may be more to hear."""
        return self._connection is not None

    async def next(self, timeout_s: float) -> Event | None:
        """The next event, or None when there is none within ``timeout_s`` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._receive()
        except TimeoutError:
            return None

    async def _receive(self) -> Event | None:
        while self._connection is not None:
            try:
                event = parse_event(await self._connection.recv())
            except ConnectionClosed:
                self._connection = None
            else:
                if event is not None:
                    return event
        await asyncio.Event().wait()  # silent until the caller's timeout
        return None


@asynccontextmanager
async def open_events(url: str) -> AsyncIterator[EventStream]:
    """The events at websocket ``url``; a silent stream when it cannot be opened. Always closed at the end.

    No size limit, because a preview frame of 1024x1024 pixels is 3 MB; no keepalive pings, because ComfyUI may leave
    them unanswered while it loads a model, and polling notices a dead server anyway.
    """
    connection: ClientConnection | None = None
    with suppress(OSError, WebSocketException):
        connection = await connect(
            url,
            proxy=None,
            compression=None,
            max_size=None,
            open_timeout=CONNECT_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=None,
        )
    try:
        yield EventStream(connection)
    finally:
        if connection is not None:
            try:
                await connection.close()
            finally:
                # For a close that is cut short: by another cancellation, or by its own time limit, which Python before
                # 3.11.3 reports as a cancellation in a task that is being cancelled (python/cpython#102780).
                connection.transport.abort()


def parse_event(message: str | bytes) -> Event | None:
    """The event in a websocket message; None for preview frames and for what is no event."""
    if isinstance(message, bytes):
        return None
    try:
        body = json.loads(message)
    except ValueError:
        return None
    if not isinstance(body, dict) or not isinstance(body.get("data"), dict):
        return None
    return Event(str(body.get("type", "")), body["data"])
