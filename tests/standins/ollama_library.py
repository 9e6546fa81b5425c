"""The stand-in of Ollama with what concerns its models themselves: /api/show and /api/pull."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from aiohttp import web

from tests.standins.chat import wait
from tests.standins.ollama import DEFAULT_MODELS, OllamaStandIn

__all__ = ["PULLED_BYTES", "OllamaLibraryStandIn"]

_FILES = (("sha256:aa", 4_000_000_000), ("sha256:bb", 700_000_000))
PULLED_BYTES = sum(size for _, size in _FILES)


class OllamaLibraryStandIn(OllamaStandIn):
    """As its base, and the models can be looked at and pulled.

    Attributes:
        shown, pulled: bodies of all calls to /api/show and /api/pull.
        context_length: what each model was made for, in tokens; None leaves ``model_info`` empty.
        capabilities: of each model; None leaves them out, as old servers do.
        show_status: status of the answers of /api/show.
        pull_error: the words of an error line in the middle of a pull.
        pull_text: sent instead of the lines of a pull, after the first of them.
        pull_stalls: whether a pull stops half-way and says no more.
    """

    def __init__(self, models: Iterable[str] = DEFAULT_MODELS) -> None:
        super().__init__(models)
        self.shown: list[dict[str, Any]] = []
        self.pulled: list[dict[str, Any]] = []
        self.context_length: int | None = 32768
        self.capabilities: list[str] | None = ["completion", "tools"]
        self.show_status = 200
        self.pull_error: str | None = None
        self.pull_text: bytes | None = None
        self.pull_stalls = False
        self.app.add_routes([web.post("/api/show", self._show), web.post("/api/pull", self._pull)])

    async def _show(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.shown.append(body)
        name = body["model"]
        if self.show_status != 200:
            return web.json_response({"error": "runner busy"}, status=self.show_status)
        if _tagged(name) not in map(_tagged, self.models):
            return web.json_response({"error": f"model '{name}' not found"}, status=404)
        answer: dict[str, Any] = {
            "details": {"family": "qwen2", "parameter_size": "7.6B", "quantization_level": "Q4_K_M"},
            "model_info": {"general.architecture": "qwen2"},
        }
        if self.context_length is not None:
            answer["model_info"]["qwen2.context_length"] = self.context_length
        if self.capabilities is not None:
            answer["capabilities"] = self.capabilities
        return web.json_response(answer)

    async def _pull(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.pulled.append(body)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        with suppress(ConnectionResetError):  # the client has gone
            await self._write(response, {"status": "pulling manifest"})
            if self.pull_text is not None:
                await response.write(self.pull_text)
            else:
                await self._write_files(request, response, body["model"])
        return response

    async def _write_files(self, request: web.Request, response: web.StreamResponse, model: str) -> None:
        for digest, size in _FILES:
            for completed in (None, size // 2, size):  # the real one leaves `completed` out where it is 0
                line = {"status": f"pulling {digest[7:]}", "digest": digest, "total": size}
                await self._write(response, line if completed is None else {**line, "completed": completed})
            if self.pull_stalls:
                await wait(request, float("inf"))
            if self.pull_error is not None:
                await self._write(response, {"error": self.pull_error})
                return
        for status in ("verifying sha256 digest", "writing manifest", "success"):
            await self._write(response, {"status": status})
        self.models.append(model)

    async def _write(self, response: web.StreamResponse, line: dict[str, Any]) -> None:
        await response.write(json.dumps(line).encode() + b"\n")


def _tagged(name: str) -> str:
    return name if ":" in name else f"{name}:latest"
