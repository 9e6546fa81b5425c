"""Keeps the server's runs by having workers drive them: the server books, stops and asks, and PostgreSQL remembers.

Nothing of the queue stands in this process, so that any number of servers share it, and none of them is needed for what
is booked. Redis may be away: what is booked then is sent when it is back.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from graph.runs import Runs
from graph.store import RunRecord
from providers.errors import QueueFullError
from sparklio.cancelling import STOPS_WITHIN_S, stop_anywhere
from sparklio.server.queue_view import QueueView, Standing
from sparklio.server.run_keeper import Submit
from sparklio.server.run_list import RunLister
from sparklio.worker.queue import KEEPER, Queue

__all__ = ["Dispatcher"]

_LEAST_WAIT_S, _GUESSED_WAIT_S, _LONGEST_WAIT_S = 1, 30, 600


class Dispatcher:
    """
    Args:
        runs: the book of runs.
        queue: of the same runs.
        runs_list: all runs there are.
        queued: how many runs may wait, over all servers.
        wake: has the feeder look at once whether there is something to send.
        stops_within_s: how long a worker has for stopping a run, before it is told that it is still at it.

    Attributes:
        keeper: what the records of our runs name.
        list: all runs there are.
        ended: how many runs this server has cancelled; how the others end, the workers see.
    """

    def __init__(
        self,
        runs: Runs,
        queue: Queue,
        runs_list: RunLister,
        *,
        queued: int,
        wake: Callable[[], None],
        stops_within_s: float = STOPS_WITHIN_S,
    ) -> None:
        self.keeper = KEEPER
        self.list = runs_list
        self.ended: Counter[str] = Counter()
        self._runs, self._queue, self._store = runs, queue, queue.store
        self._view = QueueView(queue.store)
        self._queued = queued
        self._wake = wake
        self._stops_within_s = stops_within_s
        self._booking: set[object] = set()
        self._counting = asyncio.Lock()
        self._cancelling: dict[str, asyncio.Task[RunRecord]] = {}

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Submit]:
        """As :meth:`RunKeeper.place`. Of servers that look at the same moment each may let one more in."""
        async with self._counting:
            if await asyncio.to_thread(self._view.queued) + len(self._booking) >= self._queued:
                raise self._full(await asyncio.to_thread(self._view.standing))
            self._booking.add(place := object())

        def submit(record: RunRecord) -> None:
            self._booking.discard(place)  # the table counts it from now on
            self.submit(record)

        try:
            yield submit
        finally:
            self._booking.discard(place)

    def submit(self, record: RunRecord) -> None:
        """It is in the queue since it was booked; a worker is to hear of it soon."""
        self._wake()

    async def resume(self, run_id: str) -> RunRecord:
        """As :meth:`RunKeeper.resume`. It counts as never delivered."""
        record = await asyncio.to_thread(self._runs.resumable, run_id)
        if record.status == "finished" or (record.status == "queued" and record.keeper == KEEPER):
            return record
        async with self.place() as submit:
            record = await asyncio.to_thread(self._requeue, run_id)
            submit(record)
        return record

    def _requeue(self, run_id: str) -> RunRecord:
        with self._store.lock(run_id):
            record = self._store.read(run_id)
            if record.status != "finished":
                record.status, record.keeper = "queued", KEEPER
                record.error = record.finished_at = None
                self._view.afresh(run_id)
                self._store.save(record)
        return record

    async def cancel(self, run_id: str) -> RunRecord:
        """As :meth:`RunKeeper.cancel`; a run that a worker drives is stopped by that worker."""
        if (task := self._cancelling.get(run_id)) is None:
            task = self._cancelling[run_id] = asyncio.create_task(self._cancel(run_id), name=f"cancelling {run_id}")
            task.add_done_callback(lambda _: self._cancelling.pop(run_id))
        return await asyncio.shield(task)  # several may ask at once, and leave before it is done

    async def _cancel(self, run_id: str) -> RunRecord:
        record = await stop_anywhere(self._runs, self._store, run_id, self._stops_within_s)
        if record.status == "cancelled":
            self.ended["cancelled"] += 1
        return record

    async def position(self, run_id: str) -> int | None:
        """As :meth:`RunKeeper.position`; by which turn each batch has, so that it may also grow."""
        return await asyncio.to_thread(self._queue.position, run_id)

    async def booked(self, request: str) -> str | None:
        """As :meth:`RunKeeper.booked`, by any server."""
        return await asyncio.to_thread(self._store.booked, request)

    def counts(self) -> dict[str, int]:
        """Nothing is driven here."""
        return {}

    def _full(self, standing: Standing) -> QueueFullError:
        wait_s = _seconds(standing.wait_s(standing.queued + 1 - self._queued))
        return QueueFullError(
            f"{standing.queued} runs are waiting for workers, and the servers take no more",
            hint=f"try again in {wait_s} s, start more workers, or raise SPARKLIO_MAX_QUEUED",
            retry_after=wait_s,
        )


def _seconds(wait_s: float | None) -> int:
    """As a client is to be told; a guess where no run has ended of late."""
    if wait_s is None:
        return _GUESSED_WAIT_S
    return min(_LONGEST_WAIT_S, max(_LEAST_WAIT_S, math.ceil(wait_s)))
