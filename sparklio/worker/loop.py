"""One event loop for each worker process, in a thread of its own, with one studio; tasks wait in the main thread.

So Celery's time limits, which are signals to the main thread, cancel what runs in the loop, and a task finds
connections open that the one before it has used.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, TypeVar

from providers.errors import SparklioError
from sparklio.studio import Sparklio

__all__ = ["WorkerLoop"]

log = logging.getLogger(__name__)

T = TypeVar("T")
_CLOSED_WITHIN_S = 5.0
_OPENED_AGAIN_S = 1.0


class WorkerLoop:
    """
    Args:
        studio: makes one that is not entered yet; called in the loop.
        stop_fd: the reading end of a pipe whose closing tells every task to give back what it does; None: nobody does.
    """

    def __init__(self, studio: Callable[[], Sparklio], stop_fd: int | None = None) -> None:
        self._make_studio = studio
        self._stop_fd = stop_fd
        self._loop = asyncio.new_event_loop()
        self._studio: asyncio.Future[Sparklio] = self._loop.create_future()
        self._close = asyncio.Event()
        self.stopping = asyncio.Event()
        """Set once this process is to end soon."""
        self._thread = threading.Thread(target=self._serve, name="worker loop", daemon=True)
        self._thread.start()

    def run(self, task: Callable[[Sparklio], Coroutine[Any, Any, T]]) -> T:
        """What ``task`` comes to in the loop.

        An exception that a signal raises here cancels it, waits until it has cleaned up behind itself, and goes on.
        """
        done: Future[T] = Future()
        begun: list[asyncio.Task[T]] = []

        def begin() -> None:
            begun.append(asyncio.create_task(self._with_studio(task)))
            begun[0].add_done_callback(lambda ended: _copy(ended, done))

        self._loop.call_soon_threadsafe(begin)
        try:
            return done.result()
        finally:
            if not done.done():
                self._loop.call_soon_threadsafe(lambda: begun[0].cancel())  # noqa: PLW0108  # begun by then
                wait([done])

    def close(self) -> None:
        """Close the studio and end the thread; what does not end in time is left to the end of the process."""
        self._loop.call_soon_threadsafe(self._close.set)
        self._thread.join(_CLOSED_WITHIN_S)

    async def _with_studio(self, task: Callable[[Sparklio], Coroutine[Any, Any, T]]) -> T:
        return await task(await asyncio.shield(self._studio))

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        if self._stop_fd is not None:
            self._loop.add_reader(self._stop_fd, self._hear_stop, self._stop_fd)
        self._loop.run_until_complete(self._live())
        self._loop.close()

    def _hear_stop(self, fd: int) -> None:
        """Nobody writes to the pipe: it is readable when its other end is closed, or its owner is dead."""
        self._loop.remove_reader(fd)
        os.read(fd, 1)
        self.stopping.set()

    async def _live(self) -> None:
        """The studio is entered and left in one task; one that cannot be opened is tried again for ever."""
        closing = asyncio.ensure_future(self._close.wait())
        while not self._close.is_set():
            try:
                async with self._make_studio() as studio:
                    self._studio.set_result(studio)
                    await closing
            except SparklioError as exc:
                log.warning("the worker cannot begin yet: %s", exc)
                with suppress(TimeoutError):
                    await asyncio.wait_for(asyncio.shield(closing), _OPENED_AGAIN_S)


def _copy(ended: asyncio.Task[T], done: Future[T]) -> None:
    if ended.cancelled():
        done.set_exception(asyncio.CancelledError())
    elif error := ended.exception():
        done.set_exception(error)
    else:
        done.set_result(ended.result())
