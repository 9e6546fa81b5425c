"""A stand-in for ComfyUI that speaks its wire format, draws real PNGs and misbehaves on request.

::

    with ComfyUIStandIn(step_delay=0.05) as comfyui:        # comfyui.url is its address
        comfyui.inject(Fault.EXECUTION_ERROR)               # the next prompt fails, the one after it is well again
        comfyui.inject(None, Fault.RESTART)                 # the second next prompt is hit by a restart
        comfyui.always(Fault.WS_REFUSED)                    # until heal()
        comfyui.answer_next("/queue", 503, times=2)         # plain HTTP faults of any route
        comfyui.hang("/queue")                              # no answers there any more
        comfyui.hold()                                      # samplers stop after their first step ...
        comfyui.release()                                   # ... until now
        await until(lambda: comfyui.running)                # of tests.waiting: no sleeping
        comfyui.requests, comfyui.prompts, comfyui.executed, comfyui.interrupted, ...   # the books

Shapes and the order of events are held against recordings of the real thing in ``tests/data/comfyui`` by
``tests/test_comfyui_client.py``.
"""

from __future__ import annotations

import asyncio
import io
import json
import struct
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web
from PIL import Image, ImageDraw, ImageStat

from tests.standins.server import StandIn
from tests.waiting import NEVER_S

__all__ = ["ComfyUIStandIn", "Fault"]

DATA = Path(__file__).parent.parent / "data" / "comfyui"
PREVIEW_IMAGE, JPEG = 1, 1
TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"

Graph = dict[str, dict[str, Any]]
RGB = tuple[int, int, int]


class Fault(StrEnum):
    """What may go wrong. Each prompt meets at most one queued fault, those of :meth:`ComfyUIStandIn.always` besides."""

    # at POST /prompt
    OVERLOADED_503 = "overloaded_503"
    ERROR_500 = "error_500"
    OK_200_WITH_NODE_ERRORS = "ok_200_with_node_errors"
    AMBIGUOUS_POST = "ambiguous_post"  # the prompt is accepted, then the connection is cut
    LOST_POST = "lost_post"  # the connection is cut and the prompt is not accepted
    # while it waits or runs
    STALLED = "stalled"  # the worker is dead: the prompt stays pending and so does everything behind it
    HANGS = "hangs"  # it runs for ever, unless interrupted
    SLOW = "slow"  # it takes `slow_seconds` longer
    EXECUTION_ERROR = "execution_error"
    OUT_OF_MEMORY = "out_of_memory"
    INTERRUPTED = "interrupted"  # by somebody else
    VANISH = "vanish"  # out of the queue without history and without event
    RESTART = "restart"  # queue and history empty, sockets dropped, away for `restart_seconds`
    NO_IMAGES = "no_images"  # success without outputs
    IMAGE_404 = "image_404"  # success, but the files are gone
    # of the websocket
    WS_CLOSED = "ws_closed"  # dropped after the first step
    WS_REFUSED = "ws_refused"
    WS_SILENT = "ws_silent"  # accepted, never speaks


_AT_CONNECT = frozenset({Fault.WS_REFUSED, Fault.WS_SILENT})
_AT_PROMPT = frozenset(Fault) - _AT_CONNECT


@dataclass
class Job:
    """One prompt on its way: an item of /queue and, later, of /history."""

    number: int
    id: str
    graph: Graph
    client_id: str | None
    outputs: list[str]
    faults: set[Fault]
    create_time: int = field(default_factory=lambda: int(time.time() * 1000))
    interrupted: bool = False
    current_node: str | None = None
    finished_nodes: list[str] = field(default_factory=list)
    messages: list[list[Any]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)

    def item(self) -> list[Any]:
        extra: dict[str, Any] = {"client_id": self.client_id} if self.client_id else {}
        return [self.number, self.id, self.graph, {**extra, "create_time": self.create_time}, self.outputs]


@dataclass
class Socket:
    response: web.WebSocketResponse
    transport: asyncio.Transport | None
    silent: bool


class _ExecutionFailed(Exception):  # noqa: N818
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Interrupted(Exception):  # noqa: N818
    pass


class ComfyUIStandIn(StandIn):
    """See the module. All times are in seconds.

    Args:
        checkpoints: what stands in ``models/checkpoints``.
        seconds_per_image: spread over the sampler's steps.
        step_delay: of each step, on top of that.
        history_delay: between ``execution_success`` and the history entry.
        restart_seconds: how long a restart keeps it away.
        slow_seconds: how much longer ``Fault.SLOW`` takes.
        previews: whether the sampler sends preview frames.
        old_interrupt: as of versions that do not know the id in the body of POST /interrupt: whatever runs is stopped.

    Attributes:
        requests: (method, path) of every request, the websocket's included.
        prompts: every body that POST /prompt understood, refused ones included.
        accepted: prompt ids in the order in which they were queued; an id that comes twice was submitted twice.
        executed: prompt ids that ran to a success.
        interrupted: prompt ids that POST /interrupt stopped.
        interrupts: bodies of POST /interrupt.
        deleted: prompt ids that POST /queue named.
        freed: bodies of POST /free.
        uploads: names of every upload that arrived whole, in order.
        files: (type, subfolder, filename) -> bytes.
        chance: which of these a prompt or websocket meets for which no fault is queued; asked in the server's thread.
    """

    def __init__(
        self,
        *,
        checkpoints: Iterable[str] = ("sd_xl_base_1.0.safetensors",),
        seconds_per_image: float = 0.0,
        step_delay: float = 0.0,
        history_delay: float = 0.02,
        restart_seconds: float = 0.0,
        slow_seconds: float = 1.0,
        previews: bool = True,
        old_interrupt: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoints = list(checkpoints)
        self.seconds_per_image = seconds_per_image
        self.step_delay = step_delay
        self.history_delay = history_delay
        self.restart_seconds = restart_seconds
        self.slow_seconds = slow_seconds
        self.previews = previews
        self.old_interrupt = old_interrupt
        self.requests: list[tuple[str, str]] = []
        self.prompts: list[dict[str, Any]] = []
        self.accepted: list[str] = []
        self.executed: list[str] = []
        self.interrupted: list[str] = []
        self.interrupts: list[dict[str, Any]] = []
        self.deleted: list[str] = []
        self.freed: list[dict[str, Any]] = []
        self.uploads: list[str] = []
        self.files: dict[tuple[str, str, str], bytes] = {}
        self.chance: Callable[[frozenset[Fault]], Fault | None] = lambda faults: None
        self._faults: deque[Fault | None] = deque()
        self._socket_faults: deque[Fault] = deque()
        self._upload_cuts = 0
        self._always: set[Fault] = set()
        self._answers: list[tuple[str, int, dict[str, str]]] = []
        self._hung: set[str] = set()
        self._running: Job | None = None
        self._pending: list[Job] = []
        self._history: dict[str, dict[str, Any]] = {}
        self._cache: dict[str, dict[str, Any] | None] = {}
        self._counters: Counter[str] = Counter()
        self._sockets: dict[str, Socket] = {}
        self._transports: list[asyncio.BaseTransport] = []
        self._down_until = 0.0
        self._number = 0
        self._hold_after = 1
        self._go = threading.Event()
        self._go.set()
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._nodes: dict[str, dict[str, Any]] = _node_classes()
        self._add_routes()

    # what tests say and ask

    @property
    def running(self) -> str | None:
        """The prompt id that runs."""
        return self._running.id if self._running else None

    @property
    def pending(self) -> list[str]:
        return [job.id for job in self._pending]

    @property
    def finished(self) -> dict[str, dict[str, Any]]:
        """The history by prompt id."""
        return dict(self._history)

    @property
    def open_connections(self) -> int:
        """TCP connections that are open now, idle ones in a client's pool and websockets included."""
        return sum(not transport.is_closing() for transport in list(self._transports))

    def inject(self, *faults: Fault | None) -> None:
        """Queue faults: each is met by one coming prompt, in this order; None lets one pass unharmed.

        WS_REFUSED and WS_SILENT are met by the next websocket instead.
        """
        self._socket_faults.extend(fault for fault in faults if fault in _AT_CONNECT)
        self._faults.extend(fault for fault in faults if fault not in _AT_CONNECT)

    def always(self, *faults: Fault) -> None:
        """Let every prompt or websocket from now on meet these, until :meth:`heal`."""
        self._always.update(faults)

    def heal(self) -> None:
        """Forget all faults that have not struck yet."""
        self._faults.clear()
        self._socket_faults.clear()
        self._always.clear()
        self._answers.clear()
        self._hung.clear()
        self._upload_cuts = 0

    def answer_next(self, path: str, status: int, *, times: int = 1, headers: Mapping[str, str] | None = None) -> None:
        """Answer the next ``times`` requests whose path starts with ``path`` with a bare ``status``."""
        self._answers.extend([(path, status, dict(headers or {}))] * times)

    def hang(self, path: str) -> None:
        """Take requests whose path starts with ``path``, and do nothing about them until :meth:`heal`."""
        self._hung.add(path)

    def cut_uploads(self, times: int = 1) -> None:
        """Break the connection of the next ``times`` uploads."""
        self._upload_cuts += times

    def hold(self, after_step: int = 1) -> None:
        """Let samplers stop after that step (0: before the first) until :meth:`release`."""
        self._hold_after = after_step
        self._go.clear()

    def release(self) -> None:
        self._go.set()

    def restart(self) -> None:
        """Restart the server now, as ``Fault.RESTART`` does in the middle of a prompt."""
        self._call(self._restart())

    def drop_sockets(self) -> None:
        """Cut every websocket without a closing handshake."""
        self._call(self._drop_sockets())

    def submit(self, graph: Graph, prompt_id: str | None = None) -> str:
        """Queue a prompt as another user of the server would, unchecked; returns its id."""
        job = Job(0, prompt_id or str(uuid.uuid4()), graph, None, self._output_nodes(graph), set())
        self._call(self._put(job))
        return job.id

    def _call(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(NEVER_S)

    # routes

    def _add_routes(self) -> None:
        routes: list[tuple[str, str, Callable[[web.Request], Awaitable[web.StreamResponse]]]] = [
            ("GET", "/ws", self._get_ws),
            ("POST", "/prompt", self._post_prompt),
            ("GET", "/queue", self._get_queue),
            ("POST", "/queue", self._post_queue),
            ("GET", "/history/{prompt_id}", self._get_history),
            ("GET", "/view", self._get_view),
            ("POST", "/upload/image", self._post_upload),
            ("POST", "/interrupt", self._post_interrupt),
            ("POST", "/free", self._post_free),
            ("GET", "/system_stats", self._get_system_stats),
            ("GET", "/object_info/{class_type}", self._get_object_info),
            ("GET", "/models/{folder}", self._get_models),
        ]
        for method, path, handler in routes:
            self.app.router.add_route(method, path, handler)
            self.app.router.add_route(method, "/api" + path, handler)
        self.app.middlewares.append(self._gate)
        self.app.on_startup.append(self._start)
        self.app.on_shutdown.append(self._stop)

    async def _start(self, _app: web.Application) -> None:
        self._worker = asyncio.create_task(self._work())

    async def _stop(self, _app: web.Application) -> None:
        if self._worker:
            self._worker.cancel()
        await self._drop_sockets()

    @web.middleware
    async def _gate(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if time.monotonic() < self._down_until:
            return _cut(request)
        self.requests.append((request.method, request.path))
        if request.transport is not None and request.transport not in self._transports:
            self._transports.append(request.transport)
        for index, (path, status, headers) in enumerate(self._answers):
            if request.path.startswith(path):
                del self._answers[index]
                return web.Response(status=status, headers=headers)
        while any(request.path.startswith(path) for path in self._hung):
            await asyncio.sleep(0.01)
            if request.transport is None or request.transport.is_closing():
                return _cut(request)
        try:
            return await handler(request)
        except ConnectionResetError:  # the client has gone
            return web.Response(status=499)

    async def _post_prompt(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.json()
            graph = body.get("prompt")
        except (ValueError, AttributeError):
            return web.Response(status=500, text=TROUBLE)
        if isinstance(graph, str):
            return web.Response(status=500, text=TROUBLE)
        self.prompts.append(body)
        faults = self._next_faults()
        if Fault.OVERLOADED_503 in faults:
            return web.Response(status=503, headers={"Retry-After": "1"})
        if Fault.ERROR_500 in faults:
            return web.Response(status=500, text=TROUBLE)
        if Fault.LOST_POST in faults:
            return _cut(request)
        if graph is None:
            nothing = _error("no_prompt", "No prompt provided", "No prompt provided")
            return web.json_response({"error": nothing, "node_errors": {}}, status=400)
        error, outputs, node_errors = self._validate(graph)
        if error:
            return web.json_response({"error": error, "node_errors": node_errors}, status=400)
        if Fault.OK_200_WITH_NODE_ERRORS in faults:
            node_errors = _made_up_node_errors(graph)
        job = Job(0, body.get("prompt_id") or str(uuid.uuid4()), graph, body.get("client_id"), outputs, faults)
        await self._put(job)
        if Fault.AMBIGUOUS_POST in faults:
            return _cut(request)
        return web.json_response({"prompt_id": job.id, "number": job.number, "node_errors": node_errors})

    def _next_faults(self) -> set[Fault]:
        queued = self._faults.popleft() if self._faults else self.chance(_AT_PROMPT)
        return ({queued} if queued else set()) | (self._always - _AT_CONNECT)

    async def _get_queue(self, _request: web.Request) -> web.Response:
        running = [self._running.item()] if self._running else []
        return web.json_response(
            {"queue_running": running, "queue_pending": [job.item() for job in reversed(self._pending)]}
        )

    async def _post_queue(self, request: web.Request) -> web.Response:
        body = await request.json()
        ids = body.get("delete", [])
        self.deleted.extend(ids)
        before = len(self._pending)
        self._pending = [job for job in self._pending if job.id not in ids and not body.get("clear")]
        if len(self._pending) != before:
            await self._send_status()
        self._wake.set()
        return web.Response()

    async def _get_history(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        found = self._history.get(prompt_id)
        return web.json_response({prompt_id: found} if found else {})

    async def _get_view(self, request: web.Request) -> web.Response:
        filename, subfolder = request.query.get("filename", ""), request.query.get("subfolder", "")
        kind = request.query.get("type", "output")
        if ".." in filename or filename.startswith("/") or kind not in ("output", "temp", "input"):
            return web.Response(status=400)
        if ".." in subfolder or subfolder.startswith("/"):
            return web.Response(status=403)
        content = self.files.get((kind, subfolder, filename))
        if content is None:
            return web.Response(status=404)
        return web.Response(
            body=content,
            content_type="image/png",
            headers={"Content-Disposition": f'filename="{filename}"'},
        )

    async def _post_upload(self, request: web.Request) -> web.Response:
        if self._upload_cuts:
            self._upload_cuts -= 1
            return _cut(request)
        form = await request.post()
        image = form.get("image")
        if not isinstance(image, web.FileField):
            return web.Response(status=400)
        subfolder, kind = str(form.get("subfolder", "")), str(form.get("type", "input"))
        name, number = image.filename, 1
        while (kind, subfolder, name) in self.files and str(form.get("overwrite")).lower() not in ("true", "1"):
            name = f"{Path(image.filename).stem} ({number}){Path(image.filename).suffix}"
            number += 1
        self.files[kind, subfolder, name] = image.file.read()
        self.uploads.append(name)
        return web.json_response({"name": name, "subfolder": subfolder, "type": kind})

    async def _post_interrupt(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else {}
        self.interrupts.append(body)
        wanted = None if self.old_interrupt else body.get("prompt_id")
        if self._running and wanted in (None, self._running.id):
            self._running.interrupted = True
            self.interrupted.append(self._running.id)
        return web.Response()

    async def _post_free(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.freed.append(body)
        if body.get("free_memory"):
            self._cache.clear()
        return web.Response()

    async def _get_system_stats(self, _request: web.Request) -> web.Response:
        return web.json_response(_recorded("system_stats"))

    async def _get_object_info(self, request: web.Request) -> web.Response:
        class_type = request.match_info["class_type"]
        info = self._class(class_type)
        return web.json_response({class_type: info} if info else {})

    async def _get_models(self, request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        if folder not in ("checkpoints", "loras", "vae", "diffusion_models", "text_encoders"):
            return web.Response(status=404)
        return web.json_response(self.checkpoints if folder == "checkpoints" else [])

    # the websocket

    async def _get_ws(self, request: web.Request) -> web.StreamResponse:
        fault = self._socket_faults.popleft() if self._socket_faults else self.chance(_AT_CONNECT)
        if Fault.WS_REFUSED in self._always or fault is Fault.WS_REFUSED:
            return web.Response(status=403)
        silent = Fault.WS_SILENT in self._always or fault is Fault.WS_SILENT
        response = web.WebSocketResponse(max_msg_size=0)
        await response.prepare(request)
        sid = request.query.get("clientId") or uuid.uuid4().hex
        # One socket per id, and the first to close takes the id away: the real server silences a second one so.
        self._sockets[sid] = Socket(response, request.transport, silent)
        try:
            await self._send("status", {**self._status(), "sid": sid}, sid)
            if self._running and self._running.client_id == sid and self._running.current_node:
                await self._send("executing", {"node": self._running.current_node}, sid)
            async for message in response:
                if message.type is WSMsgType.TEXT and json.loads(message.data).get("type") == "feature_flags":
                    await self._send("feature_flags", FEATURES, sid)
        finally:
            self._sockets.pop(sid, None)
        return response

    def _status(self) -> dict[str, Any]:
        remaining = len(self._pending) + (self._running is not None)
        return {"status": {"exec_info": {"queue_remaining": remaining}}}

    async def _send_status(self) -> None:
        await self._send("status", self._status())

    async def _send(self, kind: str, data: dict[str, Any], sid: str | None = None) -> None:
        """To one client, or to all where ``sid`` is None."""
        await self._write(json.dumps({"type": kind, "data": data}), sid)

    async def _write(self, message: str | bytes, sid: str | None) -> None:
        for name, socket in list(self._sockets.items()):
            if socket.silent or socket.response.closed or sid not in (None, name):
                continue
            try:
                if isinstance(message, bytes):
                    await socket.response.send_bytes(message)
                else:
                    await socket.response.send_str(message)
            except ConnectionResetError:
                self._sockets.pop(name, None)

    async def _drop_sockets(self) -> None:
        for socket in self._sockets.values():
            if socket.transport:
                socket.transport.abort()
        self._sockets.clear()

    # the queue and its one worker

    async def _put(self, job: Job) -> None:
        job.number, self._number = self._number, self._number + 1
        self.accepted.append(job.id)
        self._pending.append(job)
        await self._send_status()
        self._wake.set()

    async def _restart(self) -> None:
        self._down_until = time.monotonic() + self.restart_seconds
        if self._worker:
            self._worker.cancel()
        self._running = None
        self._pending.clear()
        self._history.clear()
        self._cache.clear()
        await self._drop_sockets()
        self._worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while True:
            if not self._pending or Fault.STALLED in self._pending[0].faults:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._running = job = self._pending.pop(0)
            await self._send_status()
            entry = await self._run(job)
            if entry is not None:
                await asyncio.sleep(self.history_delay)
                self._history[job.id] = entry
            self._running = None
            await self._send_status()
            if entry is not None:
                await self._send("executing", {"node": None, "prompt_id": job.id}, job.client_id or "")

    async def _run(self, job: Job) -> dict[str, Any] | None:
        """Run a prompt and return its history entry; None if it vanishes."""
        cached = [node for node in job.graph if _signature(job.graph, node) in self._cache]
        await self._tell(job, "execution_start", {"prompt_id": job.id})
        await self._tell(job, "execution_cached", {"nodes": cached, "prompt_id": job.id})
        await self._tell_cached(job, cached)
        try:
            for node in _execution_order(job.graph, job.outputs, cached):
                await self._run_node(job, node)
        except _Vanished:
            return None
        except _Interrupted:
            await self._tell(job, "execution_interrupted", {**_where(job), "executed": list(job.finished_nodes)})
        except _ExecutionFailed as exc:
            await self._tell(job, "execution_error", _failure(job, exc))
        else:
            await self._tell(job, "execution_success", {"prompt_id": job.id})
            self._succeed(job, cached)
            return self._entry(job, succeeded=True)
        self._remember(job, cached)
        return self._entry(job, succeeded=False)

    def _succeed(self, job: Job, cached: list[str]) -> None:
        self.executed.append(job.id)
        self._remember(job, cached)
        if Fault.NO_IMAGES in job.faults:
            job.results = {}
        if Fault.IMAGE_404 in job.faults:
            self.files = {key: content for key, content in self.files.items() if key[0] != "output"}

    def _remember(self, job: Job, cached: list[str]) -> None:
        """As the real one, the cache keeps only what the last prompt had."""
        old = self._cache
        self._cache = {}
        for node in [*cached, *job.finished_nodes]:
            name = _signature(job.graph, node)
            self._cache[name] = job.results.get(node) or old.get(name)

    async def _tell_cached(self, job: Job, cached: list[str]) -> None:
        for node in job.outputs:
            # Without a client nobody is told, and what nobody is told does not reach the history either.
            output = self._cache.get(_signature(job.graph, node)) if node in cached and job.client_id else None
            if output is not None:
                job.results[node] = output
                await self._tell_executed(job, node, output)
                await self._tell_progress(job, node, 1, 1, "finished")

    async def _run_node(self, job: Job, node: str) -> None:
        if job.interrupted:
            raise _Interrupted
        job.current_node = node
        await self._tell_progress(job, node, 0.0, 1.0, "running")
        await self._send("executing", {"node": node, "display_node": node, "prompt_id": job.id}, job.client_id or "")
        kind = job.graph[node]["class_type"]
        value, maximum = (1.0, 1.0)
        if kind == "KSampler":
            value = maximum = int(job.graph[node]["inputs"]["steps"])
            await self._sample(job, node, maximum)
        elif self._nodes[kind]["output_node"]:
            await self._save(job, node)
        await self._tell_progress(job, node, value, maximum, "finished")
        job.finished_nodes.append(node)

    async def _sample(self, job: Job, node: str, steps: int) -> None:
        if Fault.SLOW in job.faults:
            await asyncio.sleep(self.slow_seconds)
        for step in range(1, steps + 1):
            await asyncio.sleep(self.step_delay + self.seconds_per_image / steps)
            await self._pause(job, step)
            await self._tell_progress(job, node, step, steps, "running")
            await self._send("progress", {"value": step, "max": steps, "prompt_id": job.id, "node": node})
            if self.previews:
                await self._write(struct.pack(">II", PREVIEW_IMAGE, JPEG) + _preview(), job.client_id or "")
            if step == 1:
                await self._strike(job)

    async def _pause(self, job: Job, step: int) -> None:
        while (step > self._hold_after and not self._go.is_set()) or (step > 1 and Fault.HANGS in job.faults):
            if job.interrupted:
                raise _Interrupted
            await asyncio.sleep(0.002)
        if job.interrupted:
            raise _Interrupted

    async def _strike(self, job: Job) -> None:
        """The faults in the middle of a run."""
        if Fault.WS_CLOSED in job.faults:
            await self._drop_sockets()
        if Fault.VANISH in job.faults:
            raise _Vanished
        if Fault.RESTART in job.faults:
            task = asyncio.create_task(self._restart())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await asyncio.Event().wait()  # the restart cancels this worker
        if Fault.INTERRUPTED in job.faults:
            raise _Interrupted
        if Fault.EXECUTION_ERROR in job.faults:
            raise _ExecutionFailed("RuntimeError", EXECUTION_ERROR)
        if Fault.OUT_OF_MEMORY in job.faults:
            raise _ExecutionFailed("torch.OutOfMemoryError", OUT_OF_MEMORY)

    async def _save(self, job: Job, node: str) -> None:
        inputs = job.graph[node]["inputs"]
        if not _is_link(inputs["images"]):
            raise _ExecutionFailed("AttributeError", "'str' object has no attribute 'shape'\n")
        kind = "output" if "filename_prefix" in inputs else "temp"
        prefix = str(inputs.get("filename_prefix", "ComfyUI_temp"))
        subfolder, _, name = prefix.rpartition("/")
        self._counters[prefix] += 1
        filename = f"{name}_{self._counters[prefix]:05}_.png"
        self.files[kind, subfolder, filename] = self._draw(job.graph, node)
        output = {"images": [{"filename": filename, "subfolder": subfolder, "type": kind}]}
        job.results[node] = output
        await self._tell_executed(job, node, output)

    def _draw(self, graph: Graph, node: str) -> bytes:
        above = [graph[name] for name in _execution_order(graph, [node], ())]
        width, height, seed, ground = 512, 512, 0, None
        for found in above:
            inputs = found["inputs"]
            if found["class_type"] in ("EmptyLatentImage", "EmptyImage"):
                width, height = inputs["width"], inputs["height"]
            if found["class_type"] == "ResizeAndPadImage":
                width, height = inputs["target_width"], inputs["target_height"]
            if found["class_type"] == "LoadImage":
                (width, height), ground = self._look_at(inputs["image"])
            seed = inputs.get("seed", seed)
        return _picture(int(width), int(height), int(seed), ground)

    def _look_at(self, name: str) -> tuple[tuple[int, int], RGB]:
        """Size and mean colour of an uploaded picture."""
        with Image.open(io.BytesIO(self.files[_input_key(name)])) as picture:
            red, green, blue = (round(mean) for mean in ImageStat.Stat(picture.convert("RGB")).mean)
            return picture.size, (red, green, blue)

    async def _tell(self, job: Job, name: str, data: dict[str, Any]) -> None:
        """A message that is also kept in the history; only the prompt's own client hears it."""
        data = {**data, "timestamp": _now()}
        job.messages.append([name, data])
        await self._send(name, data, job.client_id or "")

    async def _tell_executed(self, job: Job, node: str, output: dict[str, Any]) -> None:
        data = {"node": node, "display_node": node, "output": output, "prompt_id": job.id}
        await self._send("executed", data, job.client_id or "")

    async def _tell_progress(self, job: Job, node: str, value: float, maximum: float, state: str) -> None:
        """Broadcast, as the real one does: others hear of it too."""
        job.progress[node] = {
            "value": value,
            "max": maximum,
            "state": state,
            "node_id": node,
            "prompt_id": job.id,
            "display_node_id": node,
            "parent_node_id": None,
            "real_node_id": node,
        }
        await self._send("progress_state", {"prompt_id": job.id, "nodes": job.progress})

    def _entry(self, job: Job, *, succeeded: bool) -> dict[str, Any]:
        return {
            "prompt": job.item(),
            "outputs": job.results,
            "status": {
                "status_str": "success" if succeeded else "error",
                "completed": succeeded,
                "messages": job.messages,
            },
            "meta": {
                node: {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}
                for node in job.results
            },
        }

    # checking a graph

    def _class(self, class_type: str) -> dict[str, Any] | None:
        """``/object_info`` of a class, with the model files and uploads that are there now."""
        info = self._nodes.get(class_type)
        if info is None:
            return None
        info = json.loads(json.dumps(info))
        required = info["input"]["required"]
        if "ckpt_name" in required:
            required["ckpt_name"][0] = list(self.checkpoints)
        if class_type == "LoadImage":
            required["image"][0] = [name for kind, _, name in self.files if kind == "input"]
        return dict(info)

    def _output_nodes(self, graph: Graph) -> list[str]:
        return [node for node, body in graph.items() if self._nodes[body["class_type"]]["output_node"]]

    def _validate(self, graph: Graph) -> tuple[dict[str, Any] | None, list[str], dict[str, Any]]:
        """The error, the outputs that are fit to run, and the errors by node."""
        for node, body in graph.items():
            kind = body.get("class_type")
            if kind not in self._nodes:
                message = f"Cannot execute because node {kind} does not exist."
                return _error("invalid_prompt", message, f"Node ID '#{node}'"), [], {}
        outputs = self._output_nodes(graph)
        if not outputs:
            return _error("prompt_no_outputs", "Prompt has no outputs", ""), [], {}
        node_errors: dict[str, Any] = {}
        good = []
        for output in outputs:
            bad = {node: errors for node in _upstream(graph, output) if (errors := list(self._problems(graph, node)))}
            for node, errors in bad.items():
                entry = {"errors": errors, "dependent_outputs": [], "class_type": graph[node]["class_type"]}
                node_errors.setdefault(node, entry)["dependent_outputs"].append(output)
            if not bad:
                good.append(output)
        if good:
            return None, good, node_errors
        return _error("prompt_outputs_failed_validation", "Prompt outputs failed validation", ""), [], node_errors

    def _problems(self, graph: Graph, node: str) -> Iterator[dict[str, Any]]:
        inputs = graph[node]["inputs"]
        info = self._class(graph[node]["class_type"])
        assert info is not None
        for name, config in info["input"]["required"].items():
            if name not in inputs:
                yield _error("required_input_missing", "Required input is missing", name, input_name=name)
            elif _is_link(inputs[name]):
                yield from self._link_problems(graph, name, config, inputs[name])
            elif (graph[node]["class_type"], name) == ("LoadImage", "image"):
                yield from self._upload_problems(name, str(inputs[name]))
            else:
                yield from _value_problems(name, config, inputs[name])

    def _upload_problems(self, name: str, value: str) -> Iterator[dict[str, Any]]:
        """LoadImage looks for the file itself: one in a subfolder is not among the values that it lists."""
        if _input_key(value) not in self.files:
            message, details = "Custom validation failed for node", f"{name} - Invalid image file: {value}"
            yield _error("custom_validation_failed", message, details, input_name=name)

    def _link_problems(self, graph: Graph, name: str, config: list[Any], link: list[Any]) -> Iterator[dict[str, Any]]:
        if link[0] not in graph:
            yield _error(
                "exception_during_validation",
                "Exception when validating node",
                repr(link[0]),
                exception_type="KeyError",
                traceback=TRACEBACK,
            )
            return
        received = self._nodes[graph[link[0]]["class_type"]]["output"][link[1]]
        if received != config[0]:
            yield _error(
                "return_type_mismatch",
                "Return type mismatch between linked nodes",
                f"{name}, received_type({received}) mismatch input_type({config[0]})",
                input_name=name,
                input_config=config,
                received_type=received,
                linked_node=link,
            )


class _Vanished(Exception):  # noqa: N818
    pass


FEATURES = {
    "supports_preview_metadata": True,
    "max_upload_size": 104857600,
    "extension": {"manager": {"supports_v4": True}},
}
_FRAME = '  File "/srv/comfyui/comfy/samplers.py", line 984, in outer_sample\n    output = executor.execute(noise)\n'
TRACEBACK = [_FRAME + "             " + "^" * 40 + "\n"] * 24
EXECUTION_ERROR = (
    "Error while deserializing header in /srv/comfyui/models/checkpoints/sd_xl_base_1.0.safetensors: "
    "tensor([[0.1250, 0.5000], [0.2500, 0.7500]])\nThis may be due to a broken download.\n"
)
OUT_OF_MEMORY = (
    "Allocation on device 0 would exceed allowed memory. (out of memory)\n"
    "Currently allocated     : 11.02 GiB\nRequested               : 2.25 GiB\n"
    "Device limit            : 11.99 GiB\n"
)


def _now() -> int:
    return int(time.time() * 1000)


def _recorded(name: str) -> Any:
    return json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))


def _node_classes() -> dict[str, dict[str, Any]]:
    """The recorded /object_info, and four classes that were not recorded."""
    classes: dict[str, dict[str, Any]] = {
        name: answer[name] for name, answer in _recorded("object_info").items() if answer
    }
    side = ["INT", {"default": 1024, "min": 0, "max": 16384}]
    text = ["STRING", {"multiline": True, "dynamicPrompts": True}]
    size = ["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}]
    sdxl = dict.fromkeys(("width", "height", "crop_w", "crop_h", "target_width", "target_height"), side)
    classes["CLIPTextEncodeSDXL"] = _class_info(
        {"clip": ["CLIP"], **sdxl, "text_g": text, "text_l": text}, ["CONDITIONING"]
    )
    classes["EmptyImage"] = _class_info(
        {
            "width": size,
            "height": size,
            "batch_size": ["INT", {"default": 1, "min": 1, "max": 4096}],
            "color": ["INT", {"default": 0, "min": 0, "max": 0xFFFFFF}],
        },
        ["IMAGE"],
    )
    classes["ResizeAndPadImage"] = _class_info(
        {
            "image": ["IMAGE"],
            "target_width": size,
            "target_height": size,
            "padding_color": [["white", "black"]],
            "interpolation": [["area", "bicubic", "nearest-exact", "bilinear", "lanczos"]],
        },
        ["IMAGE"],
    )
    classes["PreviewImage"] = _class_info({"images": ["IMAGE"]}, [], output_node=True)
    return classes


def _class_info(required: dict[str, Any], output: list[str], *, output_node: bool = False) -> dict[str, Any]:
    return {
        "input": {"required": required},
        "input_order": {"required": list(required)},
        "output": output,
        "output_node": output_node,
    }


def _error(kind: str, message: str, details: str, **extra_info: Any) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def _made_up_node_errors(graph: Graph) -> dict[str, Any]:
    recorded: dict[str, Any] = _recorded("ok_200_with_node_errors")[0]["body"]["node_errors"]["3"]
    node = list(graph)[-1]
    return {node: {**recorded, "dependent_outputs": [node], "class_type": graph[node]["class_type"]}}


def _value_problems(name: str, config: list[Any], value: Any) -> Iterator[dict[str, Any]]:
    kind, limits = config[0], config[1] if len(config) > 1 else {}
    extra = {"input_name": name, "input_config": config, "received_value": value}
    if isinstance(kind, list):
        if value not in kind:
            yield _error("value_not_in_list", "Value not in list", f"{name}: {value!r} not in {kind!r}", **extra)
        return
    if kind not in ("INT", "FLOAT"):
        return
    try:
        number = int(value) if kind == "INT" else float(value)
    except (TypeError, ValueError) as exc:
        message = f"Failed to convert an input value to a {kind} value"
        yield _error("invalid_input_type", message, f"{name}, {value}, {exc}", **extra, exception_message=str(exc))
        return
    if number < limits.get("min", number):
        message = f"Value {number} smaller than min of {limits['min']}"
        yield _error("value_smaller_than_min", message, name, **extra)
    elif number > limits.get("max", number):
        yield _error("value_bigger_than_max", f"Value {number} bigger than max of {limits['max']}", name, **extra)


def _input_key(name: str) -> tuple[str, str, str]:
    """Where a LoadImage node's ``subfolder/name`` stands among the files."""
    subfolder, _, filename = name.rpartition("/")
    return "input", subfolder, filename


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2


def _links(graph: Graph, node: str) -> list[str]:
    return [value[0] for value in graph[node]["inputs"].values() if _is_link(value) and value[0] in graph]


def _upstream(graph: Graph, node: str) -> list[str]:
    """``node`` and everything that it needs."""
    found, stack = [], [node]
    while stack:
        name = stack.pop()
        if name not in found:
            found.append(name)
            stack.extend(_links(graph, name))
    return found


def _execution_order(graph: Graph, outputs: Iterable[str], cached: Iterable[str]) -> list[str]:
    """What is left to run, in the real executor's order: first met (depth first, last input first), first ready."""
    known, met, stack = set(cached), [], list(outputs)
    while stack:
        node = stack.pop()
        if node not in known and node not in met:
            met.append(node)
            stack.extend(_links(graph, node))
    order: list[str] = []
    while met:
        ready = next(node for node in met if all(n in known or n in order for n in _links(graph, node)))
        order.append(ready)
        met.remove(ready)
    return order


def _signature(graph: Graph, node: str) -> str:
    inputs = {
        name: [_signature(graph, value[0]), value[1]] if _is_link(value) and value[0] in graph else value
        for name, value in graph[node]["inputs"].items()
    }
    return json.dumps([graph[node]["class_type"], inputs], sort_keys=True)


def _where(job: Job) -> dict[str, Any]:
    node = job.current_node or ""
    return {"prompt_id": job.id, "node_id": node, "node_type": job.graph[node]["class_type"]}


def _failure(job: Job, exc: _ExecutionFailed) -> dict[str, Any]:
    inputs = {name: [str(value)] for name, value in job.graph[job.current_node or ""]["inputs"].items()}
    hidden = {"prompt": [str(job.graph)], "extra_pnginfo": [None]} if "images" in inputs else {}
    return {
        **_where(job),
        "executed": list(job.finished_nodes),
        "exception_message": str(exc),
        "exception_type": exc.kind,
        "traceback": TRACEBACK,
        "current_inputs": {**inputs, **hidden},
        "current_outputs": list(job.graph),
    }


def _cut(request: web.Request) -> web.Response:
    """Break the connection without an answer."""
    if request.transport:
        request.transport.abort()
    return web.Response()


def _picture(width: int, height: int, seed: int, ground: RGB | None = None) -> bytes:
    """A PNG that tells its size and seed, on a ground of the seed's colour or of the photo that it started from."""
    of_seed = ((seed * 53) % 200 + 30, (seed * 97) % 200 + 30, (seed * 31) % 200 + 30)
    image = Image.new("RGB", (width, height), ground or of_seed)
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.3, height * 0.2, width * 0.7, height * 0.8), fill=(245, 240, 230))
    draw.text((8, 8), f"{width}x{height} seed {seed}", fill=(255, 255, 255))
    return _encoded(image, "PNG")


def _preview() -> bytes:
    return _encoded(Image.new("RGB", (16, 16), (90, 90, 90)), "JPEG")


def _encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"compress_level": 1} if kind == "PNG" else {}))
    return file.getvalue()
