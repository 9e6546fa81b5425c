"""Server-sent events as they come off the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.errors import ServerError
from routing import sse
from routing.sse import ServerEvent, read_events

STREAM = (
    "\ufeffid: 1\nevent: token\ndata: 한\u2028글\n\n"
    ": ping\r\n\r\nevent: nothing\r\n\r\n"
    "data: a\rdata:b\rid\r\r"
    "retry: 10\nid: x\0y\nunknown: z\ndata:  two\n\nevent: cut\ndata: off\n"
).encode()
EVENTS = [
    ServerEvent("token", "한\u2028글", "1"),
    ServerEvent("message", "a\nb", ""),
    ServerEvent("message", " two", ""),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
async def test_events_are_the_same_however_their_bytes_arrive(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]

    async def chunks() -> AsyncIterator[bytes]:
        for begin, end in pairwise(edges):
            yield STREAM[begin:end]

    assert [event async for event in read_events(chunks())] == EVENTS


async def test_a_long_line_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = 0

    class Counting:
        def split(self, text: bytes) -> list[bytes]:
            nonlocal searched
            searched += len(text)
            return real.split(text)

    real = sse._LINE_END
    monkeypatch.setattr(sse, "_LINE_END", Counting())
    stream = b"data: " + b"x" * 2**20 + b"\n\n"

    async def chunks() -> AsyncIterator[bytes]:
        for begin in range(0, len(stream), 2**12):
            yield stream[begin : begin + 2**12]

    assert [len(event.data) async for event in read_events(chunks())] == [2**20]
    assert searched <= len(stream)


@pytest.mark.parametrize("part", [b"x", b"data: x\n"], ids=["line", "lines"])
async def test_what_has_no_end_is_no_event(part: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_LARGEST_EVENT", 2**16)

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield part * 2**10

    with pytest.raises(ServerError, match="no end"):
        await anext(read_events(chunks()))


async def test_many_events_of_some_size_are_no_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_LARGEST_EVENT", 2**10)

    async def chunks() -> AsyncIterator[bytes]:
        stream = (b"data: " + b"x" * 2**9 + b"\n\n: " + b"y" * 2**9 + b"\n") * 10
        for begin in range(0, len(stream), 100):
            yield stream[begin : begin + 100]

    assert len([event async for event in read_events(chunks())]) == 10
