"""What a worker does with one run: drives it, stops it where somebody wants that, and says what is to become of it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from functools import partial

from graph.runs import Runs
from graph.sqlite import until_done
from graph.store import RunRecord
from providers.errors import (
    AttemptTimeoutError,
    DeadlineError,
    RunBusyError,
    SparklioError,
    StorageError,
    UnknownNameError,
)
from sparklio.worker.queue import Queue, delay_s

__all__ = ["RunDriver", "is_transient"]

log = logging.getLogger(__name__)

_LOOKS_EVERY_S = 0.5
_TO_RUN = ("queued", "interrupted")


def is_transient(error: BaseException) -> bool:
    """Whether a run that failed so may well succeed a little later: of a service that was away, or too slow."""
    if isinstance(error, AttemptTimeoutError | DeadlineError | StorageError):
        return True
    return isinstance(error, SparklioError) and error.retryable


class RunDriver:
    """
    Args:
        runs: the book of runs of this process.
        queue: of the same runs.
        stopping: set once this process is to end: what is driven then is given back.
        most_deliveries: how often a run is begun before it stays failed.
    """

    def __init__(self, runs: Runs, queue: Queue, stopping: asyncio.Event, most_deliveries: int) -> None:
        self._runs = runs
        self._queue = queue
        self._stopping = stopping
        self._most_deliveries = most_deliveries

    async def execute(self, run_id: str) -> str:
        """Drive the run of a message; what came of it, in a word. A message that came twice finds nothing to do."""
        if self._stopping.is_set():
            await asyncio.to_thread(self._queue.unsent, [run_id])
            return "given back"
        try:
            record = await asyncio.to_thread(self._runs.store.load, run_id)
        except UnknownNameError:
            return "deleted"
        if record.status not in _TO_RUN:
            return record.status
        if record.mode != self._runs.mode:
            log.warning("run %s is for workers in mode %s, and this one is in %s", run_id, record.mode, self._runs.mode)
            return "for another mode"
        if record.status == "queued" and await self._is_given_up(run_id):
            return "failed"
        return await self._execute(record)

    async def _is_given_up(self, run_id: str) -> bool:
        """Of a run that ends each process which begins it, so early that its record still says "queued"."""
        deliveries = await asyncio.to_thread(self._queue.deliveries, run_id)
        return deliveries >= self._most_deliveries and await asyncio.to_thread(self._queue.give_up, run_id, deliveries)

    async def _execute(self, record: RunRecord) -> str:
        run_id = record.run_id
        driving = asyncio.create_task(self._drive(record), name=f"run {run_id}")
        watching = asyncio.create_task(self._cancel_wanted(run_id), name=f"watching {run_id}")
        stopping = asyncio.create_task(self._stopping.wait(), name=f"stopping {run_id}")
        try:
            await asyncio.wait({driving, watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not driving.done():
                return await (self._cancel(run_id, driving) if watching.done() else self._give_back(run_id, driving))
            return await driving
        except RunBusyError as exc:  # the sweeper brings the run back, if nobody holds it after all
            log.info("%s", exc)
            return "busy"
        except SparklioError as exc:
            return await self._failed(run_id, exc)
        finally:
            for task in (driving, watching, stopping):
                task.cancel()
            await until_done(driving)

    async def _drive(self, record: RunRecord) -> str:
        """It counts as delivered as soon as it is ours: from then on a death of ours is one of it."""
        goes_on = partial(self._is_tried_again, record.run_id)
        begin = partial(asyncio.to_thread, self._queue.begun, record.run_id)
        async with aclosing(self._runs.drive(record, goes_on=goes_on, begin=begin)) as events:
            async for _ in events:
                pass
        return "finished"

    async def _cancel_wanted(self, run_id: str) -> None:
        while True:
            await asyncio.sleep(_LOOKS_EVERY_S)
            if self._runs.store.wants_cancel(run_id):
                return

    async def _cancel(self, run_id: str, driving: asyncio.Task[str]) -> str:
        await _stopped(driving)
        try:
            await self._runs.cancel_jobs(run_id)
        except SparklioError as exc:
            log.warning("run %s is cancelled, its image could not be: %s", run_id, exc)
        return (await asyncio.to_thread(self._runs.cancelled, run_id)).status

    async def _give_back(self, run_id: str, driving: asyncio.Task[str]) -> str:
        """Queue it again at once; that this process ends is no fault of the run's."""
        await _stopped(driving)
        await asyncio.to_thread(self._queue.requeue, run_id, forgive=1)
        return "given back"

    def _is_tried_again(self, run_id: str, error: SparklioError) -> bool:
        """Where nobody can be asked the run is left as it is, and the sweeper finds it when its lease has ended."""
        try:
            return is_transient(error) and self._queue.deliveries(run_id) < self._most_deliveries
        except StorageError:
            return True

    async def _failed(self, run_id: str, error: SparklioError) -> str:
        """Its record says so already, or cannot be written now; then its lease ends, and the sweeper finds it."""
        if not await asyncio.to_thread(self._is_tried_again, run_id, error):
            log.warning("run %s failed: %s", run_id, error)
            return "failed"
        wait_s = delay_s(await asyncio.to_thread(self._queue.deliveries, run_id))
        await asyncio.to_thread(self._queue.requeue, run_id, delay_s=wait_s)
        log.warning("run %s is tried again in %.0f s: %s", run_id, wait_s, error)
        return "queued again"


async def _stopped(driving: asyncio.Task[str]) -> None:
    driving.cancel()
    await until_done(driving)
