"""Lines of a fast model are joined, and nothing of what they say is lost."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from itertools import accumulate
from types import SimpleNamespace

import httpx
import pytest

from providers.llm.ollama import lines
from providers.llm.ollama.lines import join_lines

NDJSON = {"content-type": "application/x-ndjson"}


class Body(httpx.AsyncByteStream):
    """A body that comes in these chunks."""

    def __init__(self, chunks: Sequence[bytes]) -> None:
        self.chunks = chunks
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk

    async def aclose(self) -> None:
        self.closed = True


def text(content: str, **more: object) -> bytes:
    return _line({"model": "m", "message": {"role": "assistant", "content": content, **more}, "done": False})


def _line(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode() + b"\n"


def _parsed(text: bytes) -> list[object]:
    return [json.loads(line) for line in text.splitlines()]


END = _line({"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "eval_count": 3})


async def read(
    monkeypatch: pytest.MonkeyPatch, chunks: Sequence[bytes], *, apart_s: float, **headers: str
) -> list[bytes]:
    """The chunks as they are passed on, each coming ``apart_s`` after the one before."""
    clock = accumulate([100.0] + [apart_s] * len(chunks))
    monkeypatch.setattr(lines, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    response = httpx.Response(200, headers=NDJSON | headers, stream=Body(chunks))
    await join_lines(response)
    return [chunk async for chunk in response.aiter_raw()]


async def test_a_slow_models_lines_pass_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [text("가"), text("나"), text("다"), END]
    assert await read(monkeypatch, chunks, apart_s=0.11) == chunks


async def test_a_fast_models_text_comes_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = await read(monkeypatch, [*map(text, "가나다라마바사"), END], apart_s=0.03)
    assert [_parsed(chunk) for chunk in passed] == [
        _parsed(text("가")),
        _parsed(text("나다라마")),
        _parsed(text("바사") + END),
    ]


async def test_only_mere_text_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    special = [
        text("", thinking="음"),
        _line({**json.loads(text("반")), "error": "stopped"}),
        text("", tool_calls=[{"function": {"name": "f", "arguments": {}}}]),
        _line({"error": "out of memory"}),
        b"[1]\n",
    ]
    chunks = [text("처음"), text("가"), *special, text("나"), text("다"), b"not JSON\n", END]
    *passed, broken, end = b"".join(await read(monkeypatch, chunks, apart_s=0.0)).splitlines(keepends=True)
    assert _parsed(b"".join(passed)) == _parsed(b"".join([text("처음"), text("가"), *special, text("나다")]))
    assert (broken, end) == (b"not JSON\n", END)


async def test_lines_cut_anywhere_are_whole_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = b"".join([*map(text, "가나다라"), END])
    for size in range(1, len(whole)):
        chunks = [whole[at : at + size] for at in range(0, len(whole), size)]
        passed = b"".join(await read(monkeypatch, chunks, apart_s=0.04))
        pieces = [json.loads(line) for line in passed.splitlines()]
        assert "".join(piece["message"]["content"] for piece in pieces) == "가나다라"
        assert pieces[-1]["eval_count"] == 3


async def test_what_came_before_the_connection_broke_is_passed_on_first(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            async for chunk in super().__aiter__():
                yield chunk
            raise httpx.ReadError("gone")

    chunks = [text("가"), text("나"), _line({"error": "CUDA error: out of memory"})]
    response = httpx.Response(200, headers=NDJSON, stream=Broken(chunks))
    await join_lines(response)
    passed = []
    with pytest.raises(httpx.ReadError):
        async for chunk in response.aiter_raw():
            passed.append(chunk)
    assert _parsed(b"".join(passed)) == _parsed(b"".join(chunks))


async def test_half_a_line_at_the_end_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    half = text("끊긴 줄")[:40]
    assert b"".join(await read(monkeypatch, [text("가"), half], apart_s=0.0)) == text("가") + half + b"\n"


@pytest.mark.parametrize("headers", [{"content-type": "application/json"}, {"content-encoding": "gzip"}])
async def test_other_bodies_are_let_alone(monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]) -> None:
    chunks = [text("가"), text("나"), text("다")]
    assert await read(monkeypatch, chunks, apart_s=0.0, **headers) == chunks


async def test_closing_closes_the_connections_body() -> None:
    body = Body([text("가")])
    response = httpx.Response(200, headers=NDJSON, stream=body)
    await join_lines(response)
    await response.aclose()
    assert body.closed
