"""Server-sent events as they come off the wire (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass, field

from providers.errors import ServerError

__all__ = ["EVENT_STREAM", "SILENCE_S", "ServerEvent", "read_events"]

EVENT_STREAM = "text/event-stream"
SILENCE_S = 60.0
"""What a stream of a server's may say nothing before it is taken for dead; the server speaks every 15 s."""

_LINE_END = re.compile(rb"\r\n|\n|\r")  # and nothing else: str.splitlines would cut a text at U+2028
_LARGEST_EVENT = 16 * 2**20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ServerEvent:
    """``id`` is the last one that the server told, with this event or before it."""

    type: str
    data: str
    id: str = ""


async def read_events(chunks: AsyncIterable[bytes]) -> AsyncGenerator[ServerEvent, None]:
    """Every event that came whole; what the end of the body cuts off is none.

    Raises:
        ServerError: a line, or the data of an event, has more than 16 MiB.
    """
    fields = _Fields()
    first = True
    async for line in _lines(chunks):
        text = line.removeprefix(_BOM) if first else line
        first = False
        event = fields.take(text.decode("utf-8", "replace"))
        if event is not None:
            yield event


async def _lines(chunks: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    held, size, after_cr = list[bytes](), 0, False  # in parts, so that a long line is searched and copied once
    async for chunk in chunks:
        if not chunk:
            continue
        *ends, rest = _LINE_END.split(chunk.removeprefix(b"\n") if after_cr else chunk)
        after_cr = chunk.endswith(b"\r")  # an LF that comes next belongs to it
        for end in ends:
            yield b"".join((*held, end))
            held, size = [], 0
        held.append(rest)
        size += len(rest)
        if size > _LARGEST_EVENT:
            raise _endless()


@dataclass
class _Fields:
    """Those of the event that is coming in."""

    type: str = ""
    data: list[str] = field(default_factory=list)
    id: str = ""
    size: int = 0

    def take(self, line: str) -> ServerEvent | None:
        """The event that ``line`` completes, if it does: the empty one."""
        if not line:
            return self._complete()
        name, _, value = line.partition(":")  # a comment has no name
        value = value.removeprefix(" ")
        if name == "event":
            self.type = value
        elif name == "data":
            self.data.append(value)
            self.size += len(line)
            if self.size > _LARGEST_EVENT:
                raise _endless()
        elif name == "id" and "\0" not in value:
            self.id = value
        return None

    def _complete(self) -> ServerEvent | None:
        event = ServerEvent(self.type or "message", "\n".join(self.data), self.id) if self.data else None
        self.type, self.data, self.size = "", [], 0
        return event


def _endless() -> ServerError:
    return ServerError("an event of the stream has no end", provider="gateway", hint="is it a Sparklio server?")
