"""The clients of a server under test: requests, a wire that breaks, and a server that answers as a test says."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image as Picture

from providers.errors import SparklioError
from routing import attempts, remote
from routing.clients import LLMGatewayClient, MediaGatewayClient
from routing.contracts import (
    Attempt,
    ImageAnswer,
    ImageOptions,
    ImageRequest,
    LLMAnswer,
    LLMOptions,
    LLMRequest,
)
from routing.image_store import ImageStore
from routing.remote import Remote
from tests.conftest import BRAND

KEY = "a-key-of-the-gateway"
Script = Callable[..., list[httpx.Request]]
"""Is told what the server answers, one thing after the other, and tells the requests that it gets."""


def asked(**options: Any) -> LLMRequest:
    wish = LLMOptions(seed=7, **options)
    return LLMRequest(role="brand", task="brand_summary", mode="json", payload={"brand": BRAND}, options=wish)


def wished(**options: Any) -> ImageRequest:
    return ImageRequest(prompt="a jar on a table", options=ImageOptions(seed=7, width=256, height=256, **options))


@asynccontextmanager
async def llm_client(url: str, key: str | None = None, **how: Any) -> AsyncIterator[LLMGatewayClient]:
    client = LLMGatewayClient(url, key, **how)
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def media_client(url: str, folder: Path, key: str | None = None) -> AsyncIterator[MediaGatewayClient]:
    client = MediaGatewayClient(url, key, store=ImageStore(folder))
    try:
        yield client
    finally:
        await client.aclose()


def untimed(answer: LLMAnswer | ImageAnswer) -> dict[str, Any]:
    """An answer without what differs from call to call."""
    body = answer.model_dump(mode="json", exclude={"timestamp"})
    for timed in (body["meta"], *body["meta"]["attempts"]):
        timed.pop("latency_ms")
    body["meta"].get("provider", {}).pop("total_duration_ms", None)
    for image in body.get("images", []):
        image.pop("url")
    return body


def be_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between two tries, however long a busy machine takes to answer."""
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0.01)
    monkeypatch.setattr(remote, "_OUTAGE_PAUSE_S", 0.05)
    monkeypatch.setattr(remote, "_PREPARED_WITHIN_S", 60)


def photo(**saving: Any) -> bytes:
    file = io.BytesIO()
    Picture.new("RGB", (96, 64), "teal").save(file, "PNG", **saving)
    return file.getvalue()


ATTEMPT = Attempt(provider="someone", model="big", outcome="refused", latency_ms=3, cost_usd=0.25)


def raising(error: SparklioError) -> Callable[..., Awaitable[Any]]:
    async def generate(*_: object, **__: object) -> None:
        error.details["attempts"] = [ATTEMPT.model_dump()]
        raise error

    return generate


class Wire:
    """A port of one's own in front of a server, which may lose what the server answers.

    Attributes:
        losing: how many answers to a path that holds ``where`` it will still lose, each after its last byte has come.
    """

    def __init__(self, url: str) -> None:
        self._to = httpx.URL(url)
        self.losing, self.where = 0, "/generate"
        self.lost = 0

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await asyncio.sleep(0)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and its answer; HTTP's own framing is left to the server, which is told to close."""
        there, back = None, None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line), 0
            )
            body = await reader.readexactly(length)
            there, back = await asyncio.open_connection(self._to.host, self._to.port)
            back.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body)
            if self.losing and self.where.encode() in head.split(b"\r\n")[0]:
                self.losing -= 1
                self.lost += 1
                await there.read()  # all of it, and then nobody hears of it
            else:
                while data := await there.read(65536):
                    writer.write(data)
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for end in (back, writer):
                if end is not None:
                    end.close()
                    with suppress(OSError):
                        await end.wait_closed()


def scripting(monkeypatch: pytest.MonkeyPatch) -> Script:
    """In place of any server, one that answers as the test says."""

    def script(*answers: httpx.Response | Exception) -> list[httpx.Request]:
        got: list[httpx.Request] = []
        left = list(answers)

        def handle(request: httpx.Request) -> httpx.Response:
            got.append(request)
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        built: list[httpx.AsyncClient] = []

        def client(of: Remote) -> httpx.AsyncClient:
            built.append(httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://gateway"))
            return built[-1]

        monkeypatch.setattr(Remote, "_client", client)
        return got

    return script


READY = httpx.Response(200, json={"ready": True, "mode": "mock", "providers": {}, "more": "than we know"})
