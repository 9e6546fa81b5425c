"""A wire to a server on this machine, which a test may cut: nothing passes then, and nobody is told.

with Cable(server_port) as cable:
    cable.port
    cable.cut()
    cable.mend()
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Self

__all__ = ["Cable"]

_CHUNK_BYTES = 64 * 1024
_CLOSED_WITHIN_S = 0.05


class Cable:
    """Forwards from a port of its own to ``target`` of 127.0.0.1. What is cut stays open, as in a network that drops
    packets; what was under way arrives when it is mended.

    Args:
        target: a port.
        host: where it listens.
    """

    def __init__(self, target: int, host: str = "127.0.0.1") -> None:
        self.port = 0
        self._target, self._host = target, host
        self._loop = asyncio.new_event_loop()
        self._whole = asyncio.Event()
        self._ready = threading.Event()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.clear)

    def mend(self) -> None:
        self._loop.call_soon_threadsafe(self._whole.set)

    async def _serve(self) -> None:
        self._whole.set()
        server = await asyncio.start_server(self._forward, self._host, 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        forwarding = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in forwarding:
            task.cancel()
        await asyncio.gather(*forwarding, return_exceptions=True)
        await asyncio.sleep(_CLOSED_WITHIN_S)  # transports close in a later turn of the loop

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._whole.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        ways = [
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump(far_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, far_writer):
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                await self._whole.wait()
                writer.write(chunk)
                await writer.drain()
