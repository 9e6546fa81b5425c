"""uvicorn around the application: from the address that it is bound to, to an end that leaves nothing half done."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from ipaddress import ip_address

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from graph.sqlite import until_done
from providers.errors import ConfigError, ListenError

__all__ = ["allow_many_files", "bind", "serving", "url_of"]

log = logging.getLogger(__name__)

_KEEP_ALIVE_S = 65  # longer than a proxy keeps its connections, so that none of its requests meets a closing one
_REQUEST_S = 15.0
"""In which the head of a request must be there, or what is left of one's body that was answered before it came."""
_GRACE_S = 0.3
"""What requests have at the server's stop to end by themselves; streams never do."""
_BACKLOG = 2048
"""Connections that the kernel keeps until we take them."""
_TAKEN_AT_ONCE = 8
"""Connections taken in one turn of the loop. Where no file can be opened asyncio tries as often, and logs each."""
_FILES = 65_536
"""Files and connections that we want to have open at most; each entry costs the kernel memory."""
_RESERVE = 256
"""Of them for all but the callers: databases, runs, connections to the models; half of them where there are few."""
_SELDOM_S = 60.0
"""Between two warnings of the same kind, of which strangers could cause as many as they like."""


def bind(host: str, port: int, *, keyed: bool) -> socket.socket:
    """A socket that listens on ``host`` (a name or address) and ``port`` (0: a free one).

    Args:
        keyed: whether callers need a key.

    Raises:
        ConfigError: the address is not loopback, and callers need no key.
        ListenError: there is no such address, or somebody listens there already.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as exc:
        raise ListenError(f"there is no address {host!r} to listen on: {exc}", hint="see --host") from exc
    family, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    if not keyed and not ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise ConfigError(
            f"others could reach the server on {host}, and it has no keys",
            hint="set SPARKLIO_API_KEYS, or leave --host at 127.0.0.1",
        )
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # by which asyncio knows TCP: no Nagle
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as exc:
        listener.close()
        raise ListenError(
            f"cannot listen on {host}, port {port}: {exc.strerror or exc}",
            hint="stop what listens there, or choose another port: --port 0 takes a free one",
        ) from exc
    listener.setblocking(False)
    return listener


def allow_many_files() -> None:
    """Let this process open as many files as it may; shells and service managers often start it with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):  # macOS allows fewer than its limit says; then it stays at what it was
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _most_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _FILES if soft == resource.RLIM_INFINITY else soft
    return files - min(_RESERVE, files // 2)


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def serving(app: FastAPI, listener: socket.socket) -> AsyncGenerator[None, None]:
    """Answer on ``listener`` while the block lasts; from its beginning on the server is ready.

    The application's lifespan is opened here and not by uvicorn, so that its failure comes out as what it is.
    """
    config = uvicorn.Config(
        app,
        http=_ImpatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        proxy_headers=False,
        server_header=False,
        backlog=_TAKEN_AT_ONCE,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )
    server = _Server(config, app)
    async with app.router.lifespan_context(app):
        answering = asyncio.create_task(server.serve([listener]))
        ready = asyncio.create_task(server.ready.wait())
        try:
            await asyncio.wait({answering, ready}, return_when=asyncio.FIRST_COMPLETED)
            if ready.done():
                yield
        finally:
            ready.cancel()
            server.should_exit = True
            await until_done(answering)
            answering.result()


class _Server(uvicorn.Server):
    """Signals are somebody else's business; requests under way are brought to an end when it stops."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._requests = getattr(app.state, "requests", None)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        with _seldom_warned():
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)  # asyncio has made it as small as what it takes at once
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._requests is None:
            await super().shutdown(sockets)
        else:
            await asyncio.gather(super().shutdown(sockets), self._requests.end(_GRACE_S))


@contextmanager
def _seldom_warned() -> Generator[None, None, None]:
    loggers = [log, *map(logging.getLogger, ("uvicorn.error", "python_multipart.multipart"))]
    seldom = _Seldom()
    for logger in loggers:
        logger.addFilter(seldom)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(seldom)


class _Seldom(logging.Filter):
    """Holds back a warning that was given a moment ago; the next one tells how many were."""

    def __init__(self) -> None:
        super().__init__()
        self._given: dict[str, float] = {}
        self._held: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        kind, now = str(record.msg), time.monotonic()
        if kind in self._given and now - self._given[kind] < _SELDOM_S:
            self._held[kind] += 1
            return False
        self._given[kind] = now
        if held := self._held.pop(kind, 0):
            record.msg = f"{kind} (and {held} times since this was last told)"
        return True


class _ImpatientProtocol(H11Protocol):
    """Closes a connection that neither waits for an answer nor comes up with its request; uvicorn waits for ever.

    Neither does it take more connections than there is room for: asyncio's loop would only spin, and log.
    """

    _impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > (most := _most_connections()):
            log.warning("%d connections are open, more are turned away; see ulimit -n", most)
            self.transport.abort()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.conn.trailing_data[0] or self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._calm_down()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._calm_down()
        elif self._impatience is None:
            self._impatience = self.loop.call_later(_REQUEST_S, self.transport.close)

    def _calm_down(self) -> None:
        if self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
