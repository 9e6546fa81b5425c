"""Runs an aiohttp application on a free loopback port in a thread of its own.

In its own thread, so that a test may be synchronous, asynchronous or start ``sparklio`` as a process.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from typing import Self

from aiohttp import web

from tests.waiting import NEVER_S

__all__ = ["StandIn", "free_port"]


def free_port() -> int:
    """A loopback port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class StandIn:
    """Base of a stand-in: subclasses add their routes to ``self.app`` and keep their own books of calls."""

    def __init__(self) -> None:
        self.app = web.Application(client_max_size=100 * 2**20)
        self.loop = asyncio.new_event_loop()
        self.port = 0
        self._thread = threading.Thread(target=self._serve, name=type(self).__name__, daemon=True)
        self._ready = threading.Event()
        self._runner = web.AppRunner(self.app, access_log=None, shutdown_timeout=0.2)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(NEVER_S), "the stand-in did not start"
        return self

    def __exit__(self, *exc: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(NEVER_S)

    def leave(self) -> None:
        """Cut every connection and refuse new ones until :meth:`come_back`; what it knows it keeps."""
        asyncio.run_coroutine_threadsafe(self._leave(), self.loop).result(NEVER_S)

    def come_back(self) -> None:
        """Listen again, on the same port."""
        asyncio.run_coroutine_threadsafe(self._listen(), self.loop).result(NEVER_S)

    async def _leave(self) -> None:
        self.loop.remove_reader(self._door)
        await asyncio.sleep(0.01)  # asyncio loses what it is just accepting where its server closes meanwhile
        for site in tuple(self._runner.sites):
            await site.stop()
        for connection in self._runner.server.connections if self._runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()

    async def _listen(self) -> None:
        self._door = socket.create_server(("127.0.0.1", self.port))
        self.port = self._door.getsockname()[1]
        await web.SockSite(self._runner, self._door).start()

    def _serve(self) -> None:
        sys.settrace(None)  # nothing that is measured runs here, and measuring would double its time
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._runner.setup())
        self.loop.run_until_complete(self._listen())
        self._ready.set()
        self.loop.run_forever()
        self.loop.run_until_complete(self._runner.cleanup())
        self.loop.close()
