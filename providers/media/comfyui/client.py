"""ComfyUI's wire protocol over HTTP: one method per thing that a server can be asked."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Any
from urllib.parse import quote

import httpx

from providers.errors import ConfigError, JobError, ProviderError, RejectedError, UnreachableError
from providers.http import PerLoop, client_options, is_http_url, unknown_host, without_credentials
from providers.media.comfyui.errors import (
    MissingImageError,
    UnansweredError,
    job_failure,
    rejection,
    status_error,
)
from providers.media.comfyui.events import EventStream, open_events
from providers.media.comfyui.shapes import Download, HistoryEntry, OutputFile, QueueState
from providers.media.comfyui.watch import Patience, Step, watch
from providers.media.comfyui.workflow import Graph

__all__ = ["ComfyUIClient"]

READ_TIMEOUT_S = 30.0
"""Longest silence within one answer. ComfyUI may answer late while it loads a model; jobs are polled, never awaited."""


_FREE_POLL_S = 0.25


class ComfyUIClient:
    """One ComfyUI server. Every method raises the leaves of ``ProviderError`` and nothing else.

    Args:
        base_url: http or https; may hold user and password, which are never shown.
        provider: the name that errors carry.

    Raises:
        ConfigError: ``base_url`` is no http(s) URL.
    """

    def __init__(self, base_url: str, *, provider: str = "comfyui") -> None:
        if not is_http_url(base_url):
            raise ConfigError(
                "COMFYUI_BASE_URL is not an http or https URL",
                hint="set it to the address of ComfyUI, e.g. http://localhost:8188",
            )
        self._url = httpx.URL(base_url)
        self._provider = provider
        self._http = PerLoop(self._build, httpx.AsyncClient.aclose)

    @property
    def shown_url(self) -> str:
        """The server's address without credentials and query."""
        return str(self._url.copy_with(userinfo=b"", query=None, fragment=None))

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        await self._http.aclose()

    async def queue_prompt(self, graph: Graph, *, prompt_id: str, client_id: str) -> None:
        """Submit a graph. The server does not dedupe: the same ``prompt_id`` sent twice runs twice.

        Args:
            graph: in API format.
            prompt_id: a canonical lower-case UUID of our own.
            client_id: whose websocket hears of it; without one a fully cached prompt ends without outputs.

        Raises:
            ModelNotFoundError: the graph names a model file that is not there.
            RejectedError: the graph does not validate; also when only some of its outputs do, in which case the
                server has queued the rest and it is withdrawn again.
            UnansweredError: the connection broke after sending; ask :meth:`knows` before sending again.
        """
        body = {"prompt": graph, "prompt_id": prompt_id, "client_id": client_id}
        # ASCII-only JSON: a lone surrogate in a prompt must not break the encoding of the body.
        response = await self._request(
            "POST", "/prompt", ok=(200, 400), content=json.dumps(body), headers={"content-type": "application/json"}
        )
        answer = self._object(response)
        if response.status_code == 200 and not answer.get("node_errors"):
            return
        if response.status_code == 200:
            await self.withdraw(prompt_id)
        raise rejection(answer, provider=self._provider, status=response.status_code)

    def events(self, client_id: str) -> AbstractAsyncContextManager[EventStream]:
        """The websocket's events for ``client_id``. A socket that cannot be opened gives a silent stream."""
        scheme = "wss" if self._url.scheme == "https" else "ws"
        path = self._url.path.rstrip("/") + "/ws"
        return open_events(str(self._url.copy_with(scheme=scheme, path=path, params={"clientId": client_id})))

    async def wait_for_completion(self, prompt_id: str, *, patience: Patience | None = None) -> HistoryEntry:
        """Wait for a submitted job and return its history entry.

        Raises:
            JobError: it failed, was interrupted, got lost or stalled.
            AttemptTimeoutError: it ran longer than ``patience.run_s`` and was interrupted.
        """
        async with self.events(str(uuid.uuid4())) as events, aclosing(self.watch(prompt_id, events, patience)) as items:
            async for item in items:
                if isinstance(item, HistoryEntry):
                    return item
        raise JobError("the job ended without a history entry", provider=self._provider)

    def watch(
        self, prompt_id: str, events: EventStream, patience: Patience | None = None
    ) -> AsyncGenerator[Step | HistoryEntry, None]:
        """Progress of a submitted job and, last, its history entry; raises as :meth:`wait_for_completion`."""
        return watch(self, prompt_id, events, patience or Patience(), provider=self._provider)

    async def history(self, prompt_id: str) -> HistoryEntry | None:
        """A finished job, or None: pending, running, deleted and unknown look alike here."""
        answer = self._object(await self._request("GET", f"/history/{quote(prompt_id, safe='')}"))
        item = answer.get(prompt_id)
        return HistoryEntry.read(prompt_id, item) if isinstance(item, dict) else None

    async def get_queue(self) -> QueueState:
        return QueueState.read(self._object(await self._request("GET", "/queue")))

    async def knows(self, prompt_id: str) -> bool:
        """Whether the job is in the queue or in the history. The queue is asked first: jobs move that way."""
        return prompt_id in await self.get_queue() or await self.history(prompt_id) is not None

    async def get_images(self, entry: HistoryEntry) -> list[Download]:
        """The images of a finished job: the saved ones, or the previews where nothing is saved.

        Raises:
            JobError: the job failed or was interrupted.
            MissingImageError: a file is no longer there (a cached prompt names old files).
        """
        if not entry.succeeded:
            raise job_failure(entry.prompt_id, entry.last_message, provider=self._provider)
        saved = [file for file in entry.files if file.type == "output"]
        return [await self.download_image(file) for file in saved or entry.files]

    async def download_image(self, file: OutputFile) -> Download:
        """The bytes of one file.

        Raises:
            MissingImageError: it is not there.
        """
        params = {"filename": file.filename, "subfolder": file.subfolder, "type": file.type}
        response = await self._request("GET", "/view", ok=(200, 404), params=params)
        if response.status_code == 404:
            raise MissingImageError(
                f"ComfyUI no longer has the image {file.filename!r} that it made",
                provider=self._provider,
                status=404,
                hint="mark @filename_prefix in the workflow, so that a repeated prompt writes a new file",
                details={"reason": "missing_image"},
            )
        return Download(file, response.content)

    async def upload_image(
        self, content: bytes, filename: str, *, subfolder: str = "", overwrite: bool = False
    ) -> OutputFile:
        """Put an image into the server's input folder; the server may choose another name."""
        answer = self._object(
            await self._request(
                "POST",
                "/upload/image",
                files={"image": (filename, content)},
                data={"type": "input", "subfolder": subfolder, "overwrite": str(overwrite).lower()},
            )
        )
        file = OutputFile.read(answer, name_key="name")
        if file is None:
            raise self._not_comfyui("/upload/image")
        return file

    async def interrupt(self, prompt_id: str) -> None:
        """Stop this job if it is the one that runs. Never without an id: that would stop anybody's."""
        await self._request("POST", "/interrupt", json={"prompt_id": prompt_id})

    async def delete_from_queue(self, prompt_id: str) -> None:
        """Take a pending job out of the queue; an unknown one is no error."""
        await self._request("POST", "/queue", json={"delete": [prompt_id]})

    async def stop(self, prompt_id: str) -> None:
        """Take a job of our own out of the queue, or interrupt it if it runs. One that is neither is no error."""
        await self.delete_from_queue(prompt_id)
        # Servers that do not know the id in the body of /interrupt would stop somebody else's job.
        if prompt_id in (await self.get_queue()).running:
            await self.interrupt(prompt_id)

    async def withdraw(self, prompt_id: str) -> None:
        """As :meth:`stop`, but a server that does not answer is no error."""
        with suppress(ProviderError):
            await self.stop(prompt_id)

    async def free(self, *, wanted_bytes: int = 0, within_s: float = 10.0) -> int:
        """Unload models, and wait until ``wanted_bytes`` of the first device's memory are free, ``within_s`` at most.

        ComfyUI acts at its worker's next turn and may not free at all; returns the bytes that are free at the end.
        """
        await self._request("POST", "/free", json={"unload_models": True, "free_memory": True})
        until = asyncio.get_running_loop().time() + within_s
        while True:
            devices = (await self.get_system_stats()).get("devices") or [{}]
            free = int(devices[0].get("vram_free") or 0)
            if free >= wanted_bytes or asyncio.get_running_loop().time() >= until:
                return free
            await asyncio.sleep(_FREE_POLL_S)

    async def get_system_stats(self) -> dict[str, Any]:
        """``{system: {comfyui_version, ...}, devices: [{name, vram_total, vram_free, ...}]}``, memory in bytes."""
        return self._object(await self._request("GET", "/system_stats"))

    async def models(self, folder: str) -> list[str]:
        """File names in a model folder such as ``checkpoints``."""
        answer = self._json(await self._request("GET", f"/models/{quote(folder, safe='')}"))
        if not isinstance(answer, list):
            raise self._not_comfyui("/models")
        return [str(name) for name in answer]

    async def object_info(self, class_type: str) -> dict[str, Any] | None:
        """A node class's ``{input, output, output_node, ...}``, or None when the server does not know it."""
        answer = self._object(await self._request("GET", f"/object_info/{quote(class_type, safe='')}"))
        info = answer.get(class_type)
        return info if isinstance(info, dict) else None

    async def health(self) -> bool:
        """Whether ComfyUI answers there. Loads nothing."""
        try:
            return "system" in await self.get_system_stats()
        except ProviderError:
            return False

    def _build(self) -> httpx.AsyncClient:
        # httpx logs each request's URL as it is, so the credentials go beside it.
        auth = httpx.BasicAuth(self._url.username, self._url.password) if self._url.userinfo else None
        url = without_credentials(self._url)
        options = client_options(str(url), read_timeout_s=READ_TIMEOUT_S, local=True)
        return httpx.AsyncClient(base_url=url, auth=auth, **options)

    async def _request(self, method: str, path: str, *, ok: tuple[int, ...] = (200,), **kwargs: Any) -> httpx.Response:
        try:
            async with self._http.borrow() as http:
                response = await http.request(method, path, **kwargs)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as exc:
            raise UnreachableError(
                f"no connection to ComfyUI at {self.shown_url}",
                provider=self._provider,
                hint=f"no host of the name {self._url.host!r} is known here: mend COMFYUI_BASE_URL, or give its IP"
                if unknown_host(exc)
                else "start ComfyUI, or check COMFYUI_BASE_URL",
            ) from exc
        except httpx.RequestError as exc:
            raise UnansweredError(
                f"the connection to ComfyUI at {self.shown_url} broke ({type(exc).__name__})",
                provider=self._provider,
                hint="check whether ComfyUI still runs, and its log",
            ) from exc
        if response.status_code not in ok:
            raise status_error(response, provider=self._provider)
        return response

    def _json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as exc:
            raise self._not_comfyui(response.request.url.path) from exc

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        body = self._json(response)
        if not isinstance(body, dict):
            raise self._not_comfyui(response.request.url.path)
        return body

    def _not_comfyui(self, path: str) -> RejectedError:
        return RejectedError(
            f"what answers {path} at {self.shown_url} is not ComfyUI",
            provider=self._provider,
            hint="check COMFYUI_BASE_URL",
        )
