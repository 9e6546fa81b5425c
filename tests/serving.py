"""Real servers on free loopback ports: in the test's own event loop, or in a process of its own.

In the loop, with settings by their names and any application of one's own instead of the whole::

    async with serving(tmp_path, SPARKLIO_MAX_RUNS="1") as client:
        answer = await client.get("/health")
    async with serving_app(app) as client: ...

As a process, which a test may kill and start again on the same data folder::

    with server_process(tmp_path, GENERATOR_MODE="live") as server:
        async with server.client() as client: ...
        server.kill()
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx
from fastapi import FastAPI

from sparklio.server import serve

__all__ = ["ServerProcess", "client_of", "free_port", "server_process", "serving", "serving_app"]

ROOT = Path(__file__).resolve().parent.parent
_STARTS_WITHIN_S = 60.0
_ENDS_WITHIN_S = 30.0
_LISTENING = "listening on "


def client_of(url: str, *, key: str | None = None, headers: Mapping[str, str] | None = None) -> httpx.AsyncClient:
    """A client of the server at ``url``, with its key if it wants one. It waits for up to 30 s."""
    authorization = {"authorization": f"Bearer {key}"} if key else {}
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    every = {**authorization, **(headers or {})}
    return httpx.AsyncClient(base_url=url, headers=every, timeout=30, limits=limits, trust_env=False, verify=False)


@asynccontextmanager
async def serving_app(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Any application on a real server in this event loop; its lifespan is open meanwhile."""
    with serve.bind("127.0.0.1", 0, keyed=True) as listener:
        async with serve.serving(app, listener), client_of(serve.url_of(listener)) as client:
            yield client


@asynccontextmanager
async def serving(home: Path, **settings: str) -> AsyncIterator[httpx.AsyncClient]:
    """The whole application on a real server in this event loop.

    Args:
        home: the data folder.
        settings: variables by their names, e.g. ``GENERATOR_MODE="live"``; the environment's hold as well. The client
            has the first of SPARKLIO_API_KEYS where there are any.
    """
    from sparklio.server.app import create_app

    app = create_app(home=home, settings=settings)
    async with serving_app(app) as client:
        if keys := app.state.settings.words("SPARKLIO_API_KEYS"):
            client.headers["authorization"] = f"Bearer {keys[0]}"
        yield client


class ServerProcess:
    """``sparklio serve`` as a process. :func:`server_process` makes one that listens, and cleans up behind it.

    Attributes:
        url: where it listens, without a slash at the end.
        popen: the process.
    """

    def __init__(self, home: Path, *words: str, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        environ = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT), "SPARKLIO_HOME": str(home), **settings}
        command = [sys.executable, "-m", "sparklio", "serve", *words]
        with tempfile.NamedTemporaryFile(delete=False) as out, tempfile.NamedTemporaryFile(delete=False) as err:
            self._out, self._err = Path(out.name), Path(err.name)
            self.popen = subprocess.Popen(command, env=environ, stdout=out, stderr=err)
        self._key = settings.get("SPARKLIO_API_KEYS", "").partition(",")[0].strip()
        self.url = ""

    def wait_until_it_listens(self) -> None:
        until = time.monotonic() + _STARTS_WITHIN_S
        while not (self.stdout.startswith(_LISTENING) and "\n" in self.stdout):
            assert self.popen.poll() is None, f"it ended with {self.popen.returncode}: {self.stderr}"
            assert time.monotonic() < until, f"it never listened: {self.stderr}"
            time.sleep(0.02)
        self.url = self.stdout.splitlines()[0].removeprefix(_LISTENING)

    @property
    def stdout(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        return self._err.read_text(encoding="utf-8")

    def client(self, *, key: str | None = None) -> httpx.AsyncClient:
        """A client with ``key``, or the first of its SPARKLIO_API_KEYS."""
        return client_of(self.url, key=key or self._key)

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def wait(self) -> int:
        """Its exit code."""
        return self.popen.wait(_ENDS_WITHIN_S)

    def stop(self) -> int:
        """Stop it as a service manager does; its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self.popen.kill()
        self.wait()

    def clean_up(self) -> None:
        if self.popen.poll() is None:
            self.kill()
        self._out.unlink()
        self._err.unlink()


@contextmanager
def server_process(home: Path, *words: str, port: int | str = 0, **settings: str) -> Iterator[ServerProcess]:
    """``sparklio serve`` in a process of its own, killed at the block's end unless it has ended by then.

    Args:
        home: the data folder.
        words: more of its options, e.g. ``"--host", "0.0.0.0"``.
        port: where it listens; 0: on a free port. :func:`free_port` finds one that a second server can take over.
        settings: variables by their names.
    """
    server = ServerProcess(home, "--port", str(port), *words, settings=settings)
    try:
        server.wait_until_it_listens()
        yield server
    finally:
        server.clean_up()


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
