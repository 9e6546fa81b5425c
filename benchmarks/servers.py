"""Ollama and ComfyUI for the benchmarks, in a process of their own: fixed times, any number of calls at once.

::

    python benchmarks/servers.py    # prints {"OLLAMA_BASE_URL": ..., "COMFYUI_BASE_URL": ...}; serves until stdin ends

A chat call takes 0.2 s and streams a hundred lines over them; an image takes 1 s, its steps told on the websocket. The
stand-ins of the tests misbehave on request and keep books; these have only what three clients of a healthy server need,
on bare asyncio protocols, so that they are not what a hundred concurrent runs wait for. A line that is late goes out
with the next one, so an answer ends on time however busy the machine is.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import io
import itertools
import json
import os
import struct
import sys
import uuid
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from tests.standins.ollama import default_answer, estimated_prompt_tokens

CHAT_S, IMAGE_S, LINES = 0.2, 1.0, 100
TICK_S = 0.001
WEBSOCKET_KEY = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class _Connection(asyncio.Protocol, ABC):
    """One keep-alive HTTP connection; clients do not pipeline."""

    slow = 1.0

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._is_websocket = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._is_websocket:
            if data[0] & 0x0F == 8:
                self.transport.write(b"\x88\x00")
                self.transport.close()
            return
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if len(body) < int(headers.get("content-length", 0)):
            return
        self._buffer = b""
        method, target, _ = first.split(" ")
        self.serve(method, target, headers, body)

    @abstractmethod
    def serve(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        """Answer one request."""

    def answer(self, body: bytes, content_type: str = "application/json", status: str = "200 OK") -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
        self.transport.write(head.encode() + body)

    def upgrade(self, key: str) -> None:
        accept = base64.b64encode(hashlib.sha1((key + WEBSOCKET_KEY).encode(), usedforsecurity=False).digest()).decode()
        self._is_websocket = True
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            + f"sec-websocket-accept: {accept}\r\n\r\n".encode()
        )

    def tell(self, kind: str, data: dict[str, Any]) -> None:
        """One event on the websocket."""
        if self.transport.is_closing():
            return
        text = json.dumps({"type": kind, "data": data}).encode()
        size = bytes([len(text)]) if len(text) < 126 else b"\x7e" + struct.pack(">H", len(text))
        self.transport.write(b"\x81" + size + text)

    def spread(self, seconds: float, count: int, send: Callable[[int, int], None]) -> None:
        """Call ``send(first, last)`` so that ``count`` things are sent evenly over ``seconds``, times ``slow``."""
        seconds *= self.slow
        started, sent = self._loop.time(), 0

        def step() -> None:
            nonlocal sent
            due = min(count, int((self._loop.time() - started) / seconds * count))
            if due > sent:
                send(sent, due)
                sent = due
            if due < count:
                self._loop.call_at(max(self._loop.time() + TICK_S, started + seconds * (due + 1) / count), step)

        self._loop.call_later(seconds / count, step)


class _Ollama(_Connection):
    def serve(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        if target == "/api/chat":
            self._chat(json.loads(body))
        elif target == "/api/version":
            self.answer(b'{"version":"0.30.0"}')
        else:
            self.answer(b'{"models":[]}')

    def _chat(self, body: dict[str, Any]) -> None:
        lines = [b"%x\r\n%b\r\n" % (len(line), line) for line in _chat_lines(body)]
        lines[-1] += b"0\r\n\r\n"
        lines[0] = (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n" + lines[0]
        )

        def send(first: int, last: int) -> None:
            if not self.transport.is_closing():
                self.transport.write(b"".join(lines[first:last]))

        self.spread(CHAT_S, len(lines), send)


def _chat_lines(body: dict[str, Any]) -> list[bytes]:
    answer = default_answer(body)
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    cuts = [len(text) * index // LINES for index in range(LINES + 1)]
    pieces = [text[start:end] for start, end in itertools.pairwise(cuts) if end > start]
    head = {"model": body["model"], "created_at": "2026-01-01T00:00:00.000000Z"}
    end = {
        "done": True,
        "done_reason": "stop",
        "total_duration": int(CHAT_S * 1e9),
        "load_duration": 1_000_000,
        "prompt_eval_count": estimated_prompt_tokens(body),
        "prompt_eval_duration": 1_000_000,
        "eval_count": len(pieces),
        "eval_duration": int(CHAT_S * 1e9),
    }
    lines = [{**head, "message": {"role": "assistant", "content": piece}, "done": False} for piece in pieces]
    lines.append({**head, "message": {"role": "assistant", "content": ""}, **end})
    return [json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines]


class _ComfyUI(_Connection):
    sockets: dict[str, _ComfyUI] = {}  # noqa: RUF012  # the server's, shared by its connections
    waiting: dict[str, bytes] = {}  # noqa: RUF012
    history: dict[str, bytes] = {}  # noqa: RUF012
    image = b""

    def serve(self, method: str, target: str, headers: dict[str, str], body: bytes) -> None:
        url = urlsplit(target)
        query = parse_qs(url.query)
        if url.path == "/ws":
            self.upgrade(headers["sec-websocket-key"])
            self.sockets[query["clientId"][0]] = self
            self.tell("status", {"status": {"exec_info": {"queue_remaining": len(self.waiting)}}})
        elif url.path == "/prompt":
            self._queue(json.loads(body))
        elif url.path == "/queue":
            self.answer(b'{"queue_running":[%b],"queue_pending":[]}' % b",".join(self.waiting.values()))
        elif url.path.startswith("/history/"):
            self.answer(self.history.get(url.path.removeprefix("/history/"), b"{}"))
        elif url.path == "/view":
            self.answer(_labelled(self.image, query["filename"][0].encode()), "image/png")
        elif url.path == "/system_stats":
            self.answer(b'{"system":{"comfyui_version":"0.3"},"devices":[]}')
        else:
            self.answer(b"{}", status="404 Not Found")

    def _queue(self, body: dict[str, Any]) -> None:
        """Run the job beside all others: a GPU of the benchmark's own for each."""
        job, graph, client = body.get("prompt_id") or str(uuid.uuid4()), body["prompt"], body.get("client_id", "")
        sampler = next(node for node, entry in graph.items() if entry["class_type"] == "KSampler")
        steps = int(graph[sampler]["inputs"]["steps"])
        item = [len(self.history), job, graph, {"client_id": client}, ["9"]]
        self.waiting[job] = json.dumps(item).encode()

        def tell(kind: str, data: dict[str, Any]) -> None:
            if client in self.sockets:
                self.sockets[client].tell(kind, {**data, "prompt_id": job})

        def step(first: int, last: int) -> None:
            if first == 0:
                tell("execution_start", {})
            for value in range(first + 1, last + 1):
                tell("progress", {"value": value, "max": steps, "node": sampler})
            if last == steps:
                self.history[job] = _history(job, item)
                del self.waiting[job]
                tell("execution_success", {})
                tell("executing", {"node": None})
                self.sockets.pop(client, None)

        self.spread(IMAGE_S, steps, step)
        self.answer(json.dumps({"prompt_id": job, "number": item[0], "node_errors": {}}).encode())


def _history(job: str, item: list[Any]) -> bytes:
    files = [{"filename": f"{job}.png", "subfolder": "", "type": "output"}]
    status = {"status_str": "success", "completed": True, "messages": []}
    return json.dumps({job: {"prompt": item, "outputs": {"9": {"images": files}}, "status": status}}).encode()


def _png(kilobytes: int) -> bytes:
    """A picture of 1344x768 pixels with a private chunk that brings it to the size of a photograph."""
    drawn = io.BytesIO()
    Image.linear_gradient("L").resize((1344, 768)).convert("RGB").save(drawn, "PNG")
    png = drawn.getvalue()
    return _labelled(png, os.urandom(max(0, kilobytes * 1024 - len(png))))


def _labelled(png: bytes, label: bytes) -> bytes:
    """The same picture as another file: with a private chunk before its end."""
    chunk = b"spLk" + label
    return png[:-12] + struct.pack(">I", len(label)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[-12:]


async def serve() -> None:
    loop = asyncio.get_running_loop()
    addresses = {}
    for name, protocol in (("OLLAMA_BASE_URL", _Ollama), ("COMFYUI_BASE_URL", _ComfyUI)):
        server = await loop.create_server(protocol, "127.0.0.1", 0, backlog=1024)
        addresses[name] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(json.dumps(addresses), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-kb", type=int, default=200, help="size of an image in kilobytes")
    parser.add_argument("--slow", type=float, default=1, help="how many times their usual time calls take")
    options = parser.parse_args()
    _ComfyUI.image, _Connection.slow = _png(options.image_kb), options.slow
    asyncio.run(serve())
