"""Drives the server's runs: so many at once, the others in the order in which they were booked.

A run belongs to the server and not to whoever asked for it. What the server has not ended when it stops, or is killed,
it goes on with when it starts again: that stands in the runs' records (``keeper``), so nothing is kept beside them.
Of several servers on one folder those that live take over what a dead one has left.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from random import uniform
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError

from graph.runs import Runs
from graph.store import RunRecord
from providers.errors import (
    QueueFullError,
    RunBusyError,
    SparklioError,
    StorageError,
    UnknownNameError,
    describe,
)
from sparklio.cancelling import ENDED, STOPS_WITHIN_S, check_open, stop_anywhere
from sparklio.server.run_keeper import Submit
from sparklio.server.run_list import TO_RUN, run_list

if TYPE_CHECKING:
    from graph.run_table import PostgresRunStore

__all__ = ["KEEPER", "Runner"]

log = logging.getLogger(__name__)

KEEPER = "server"
"""What the records of our runs name: who goes on with them."""

_STOPPED_WITHIN_S = 1.8  # 2 s are promised, and the database is still to be closed
_GUESSED_AT_MOST_S = 30.0
_LOOKS_EVERY_S = 20.0  # what was left is taken when it is seen twice
_FIRST_DELAY_S, _LONGEST_DELAY_S = 1.0, 30.0
_HEEDS_EVERY_S = 0.5
_REMEMBERED_TIMES = 20
_REMEMBERED_REQUESTS = 5_000


class Runner:
    """``async with Runner(runs, at_once=2, queued=1000) as runner``: goes on with what an earlier server has left.

    Leaving stops what is driven, which can be gone on with, and leaves in the queue what waits.

    Args:
        runs: the book of runs.
        at_once: how many runs are driven at a time.
        queued: how many more may wait. What waited when the server stopped is taken again, however much it is.
        looks_every_s: how often it is seen whether another server has left something to be gone on with.
        table: the store of the runs, where other machines have it, too.
        clock: seconds, to tell how long runs take.

    Attributes:
        keeper: :data:`KEEPER`.
        list: all runs there are, those of others too.
        ended: how many runs have ended here since the server began, by status.
    """

    def __init__(
        self,
        runs: Runs,
        *,
        at_once: int,
        queued: int,
        looks_every_s: float = _LOOKS_EVERY_S,
        table: PostgresRunStore | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.keeper = KEEPER
        self.list = run_list(runs.store)
        self._runs = runs
        self._at_once = at_once
        self._places = at_once + queued
        self._waiting: dict[str, None] = {}  # ids alone: a record is read when its turn has come
        self._driven: dict[str, asyncio.Task[None]] = {}
        self._put_off: dict[str, asyncio.TimerHandle] = {}
        self._cancelling: dict[str, asyncio.Task[RunRecord]] = {}
        self._refused: Counter[str] = Counter()
        self._began_at: dict[str, float] = {}
        self._looks_every_s = looks_every_s
        self._table = table
        self._looking: list[asyncio.Task[None]] = []
        self._clock = clock
        self._booking = 0
        self._booked: dict[str, str] = {}
        self._took_s: deque[float] = deque(maxlen=_REMEMBERED_TIMES)
        self._stopping = False
        self.ended: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        found = await asyncio.to_thread(lambda: self._taken(self._left_behind()))
        if found:
            log.info("going on with %d runs", len(found))
        self._waiting = dict.fromkeys(found)
        self._begin_waiting()
        self._looking = [asyncio.create_task(self._take_over(), name="runs that another server has left")]
        if self._table is not None:
            self._looking.append(asyncio.create_task(self._heed(self._table), name="what other servers cancel"))
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stopping = True
        for timer in self._put_off.values():
            timer.cancel()
        driven = dict(self._driven)
        tasks = [*driven.values(), *self._looking]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOPPED_WITHIN_S)
        for run_id in self._driven:
            log.warning("run %s did not stop in time", run_id)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Submit]:
        """As :meth:`RunKeeper.place`; the block gets :meth:`submit`."""
        if len(self._queue_now()) + len(self._driven) + self._booking >= self._places:
            wait_s = self._next_place_s()
            raise QueueFullError(
                f"{self._places} runs are under way or waiting, and the server takes no more",
                hint=f"try again in {wait_s} s, or raise SPARKLIO_MAX_QUEUED",
                retry_after=wait_s,
            )
        self._booking += 1
        try:
            yield self.submit
        finally:
            self._booking -= 1

    def submit(self, record: RunRecord) -> None:
        """Drive a booked run when its turn comes. Whoever books one holds a :meth:`place` for it."""
        if record.request:
            self._remember(record.request, record.run_id)
        self._enqueue([record.run_id])

    async def resume(self, run_id: str) -> RunRecord:
        """As :meth:`RunKeeper.resume`."""
        record = await asyncio.to_thread(self._runs.resumable, run_id)
        if record.status == "finished" or run_id in self._waiting:
            return record
        async with self.place() as submit:
            record = await asyncio.to_thread(self._queue, run_id)
            if record.status == "queued":
                submit(record)
        return record

    async def cancel(self, run_id: str) -> RunRecord:
        """As :meth:`RunKeeper.cancel`; a process that works on the same folder cannot be told."""
        if (task := self._cancelling.get(run_id)) is None:
            task = self._cancelling[run_id] = asyncio.create_task(self._cancel(run_id), name=f"cancelling {run_id}")
            task.add_done_callback(lambda _: self._cancelling.pop(run_id))
        return await asyncio.shield(task)  # several may ask at once, and leave before it is done

    async def _cancel(self, run_id: str) -> RunRecord:
        record = await asyncio.to_thread(self._runs.store.load, run_id)
        if run_id in self._waiting:
            del self._waiting[run_id]
        elif timer := self._put_off.pop(run_id, None):
            timer.cancel()
        elif task := self._driven.get(run_id):
            task.cancel()
            await asyncio.wait({task})
            record = await asyncio.to_thread(self._runs.store.load, run_id)
        check_open(record)
        if record.status == "running" and self._table is not None:
            return await self._stop_elsewhere(self._table, run_id)
        if record.status == "running":
            raise RunBusyError(f"run {run_id!r} is run by another process", hint="cancel it there")
        await self._stop_images(run_id)
        record = self._runs.cancelled(run_id)
        if record.status != "cancelled":  # another process was faster
            check_open(record)
        self.ended["cancelled"] += 1
        return record

    async def _stop_elsewhere(self, table: PostgresRunStore, run_id: str) -> RunRecord:
        record = await stop_anywhere(self._runs, table, run_id, STOPS_WITHIN_S)
        if record.status == "cancelled":
            self.ended["cancelled"] += 1
        return record

    async def _heed(self, table: PostgresRunStore) -> None:
        """Stop what is driven here and cancelled at another server; the beat of its lease has told that."""
        while True:
            await asyncio.sleep(_HEEDS_EVERY_S)
            for run_id in [run_id for run_id in self._driven if table.wants_cancel(run_id)]:
                try:
                    await self.cancel(run_id)
                except SparklioError as exc:  # it has ended, or the database is away, and it is asked for again
                    log.info("run %s is not cancelled: %s", run_id, exc)

    async def position(self, run_id: str) -> int | None:
        """The place of a run in the queue, the next one's is 1; None for a run that does not wait here."""
        queue = self._queue_now()
        return queue.index(run_id) + 1 if run_id in queue else None

    def counts(self) -> dict[str, int]:
        """How many runs are ``running`` and ``queued`` here now."""
        return {"running": len(self._driven), "queued": len(self._queue_now())}

    async def booked(self, request: str) -> str | None:
        """As :meth:`RunKeeper.booked`."""
        if (run_id := self._booked.get(request)) is None and self._table is not None:
            run_id = await asyncio.to_thread(self._table.booked, request)
        return run_id

    def _queue_now(self) -> list[str]:
        """The ids of all that waits; behind the others those which the disk has refused."""
        return [*self._waiting, *self._put_off]

    def _left_behind(self) -> list[str]:
        """Ids of the runs that are to be gone on with, the oldest first. Reads every record that has changed."""
        ours = self.list.kept_by(KEEPER)
        for run in ours:
            if run.request:
                self._remember(run.request, run.run_id)
        return [run.run_id for run in ours if run.status in TO_RUN and run.mode == self._runs.mode]

    async def _take_over(self) -> None:
        """Go on with what nobody holds, from time to time: its server may have been killed.

        Who waits in the queue of a server that lives looks the same, and is driven by whoever is faster; so few at a
        time, that nobody's queue is full of others' runs. What is new may still be being booked: it is left alone until
        it is seen again. With nothing else to do the rest is looked for sooner.
        """
        seen, sooner = set[str](), False
        while True:
            await asyncio.sleep(self._looks_every_s * uniform(0.9, 1.1) / (10 if sooner else 1))  # servers not as one
            try:
                found = await asyncio.to_thread(self._left_behind)
            except (OSError, SparklioError) as exc:
                log.warning("cannot look for runs that were left: %s", exc)
                continue
            known = {*self._driven, *self._queue_now()}
            left = [run_id for run_id in found if run_id not in known]
            wanted = [run_id for run_id in left if run_id in seen][: self._at_once]
            taken = await asyncio.to_thread(self._taken, wanted)
            self._enqueue(taken)
            seen = seen if sooner else set(left)
            sooner = bool(taken) and not self._waiting

    def _remember(self, request: str, run_id: str) -> None:
        """The latest ones alone: a request is repeated soon, or never."""
        self._booked[request] = run_id
        while len(self._booked) > _REMEMBERED_REQUESTS:
            del self._booked[next(iter(self._booked))]

    def _taken(self, run_ids: Iterable[str]) -> list[str]:
        """Those of the runs that wait here from now on, as any other does: a follower must not see them over."""
        return [run_id for run_id in run_ids if self._is_taken(run_id)]

    def _is_taken(self, run_id: str) -> bool:
        try:
            return self._queue(run_id, unless=ENDED).status == "queued"
        except (RunBusyError, UnknownNameError):  # another server was faster, or somebody has deleted it
            return False
        except StorageError:
            return True  # to be tried again when its turn has come

    def _queue(self, run_id: str, *, unless: Collection[str] = ("finished",)) -> RunRecord:
        """Write down that the run is ours and waits, unless it has come to its end meanwhile."""
        store = self._runs.store
        with store.lock(run_id):
            record = store.read(run_id)
            if record.status not in {"queued", *unless}:
                record.status, record.keeper = "queued", KEEPER
                record.error = record.finished_at = None
                store.save(record)
        return record

    async def _stop_images(self, run_id: str) -> None:
        """A service that cannot be asked must not keep the run from being cancelled."""
        try:
            await self._runs.cancel_jobs(run_id)
        except SparklioError as exc:
            log.warning("run %s is cancelled, its image could not be: %s", run_id, exc)

    def _enqueue(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            if timer := self._put_off.pop(run_id, None):
                timer.cancel()
            if run_id not in self._driven:
                self._waiting.setdefault(run_id)
        self._begin_waiting()

    def _begin_waiting(self) -> None:
        while self._waiting and len(self._driven) < self._at_once and not self._stopping:
            run_id = next(iter(self._waiting))
            del self._waiting[run_id]
            self._driven[run_id] = task = asyncio.create_task(self._drive(run_id), name=f"run {run_id}")
            task.add_done_callback(partial(self._left, run_id))

    def _left(self, run_id: str, _task: asyncio.Task[None]) -> None:
        del self._driven[run_id]
        self._began_at.pop(run_id, None)
        if run_id not in self._put_off:
            del self._refused[run_id]
        self._begin_waiting()

    async def _drive(self, run_id: str) -> None:
        """Run it to its end, whatever that is: how it failed stands in its record, and the others go on."""
        started = self._began_at[run_id] = self._clock()
        try:
            record = await asyncio.to_thread(self._runs.store.load, run_id)
            if record.status not in TO_RUN:
                return  # cancelled, or another server on this folder was faster
            async with aclosing(self._runs.drive(record)) as events:
                async for event in events:
                    if event["type"] == "run_finished":
                        self.ended["finished"] += 1
        except RunBusyError as exc:
            log.info("%s", exc)
            return
        except Exception as exc:  # noqa: BLE001  # a defect of one run must not stop the others; logged with its trace
            if await asyncio.to_thread(self._is_still_to_run, run_id, exc):
                self._try_later(run_id, exc)
                return
            self.ended["failed"] += 1
            _log_failure(run_id, exc)
        self._took_s.append(self._clock() - started)

    def _is_still_to_run(self, run_id: str, error: Exception) -> bool:
        """Whether the disk alone has kept the run from its end. What else it failed of stands in its record then.

        Who follows a queued run waits for somebody to begin it: none may be left behind as one.
        """
        try:
            if self._runs.store.load(run_id).status not in TO_RUN:
                return False
            if isinstance(error, StorageError):
                return True
            self._write_failure(run_id, error)
        except (UnknownNameError, RunBusyError):  # deleted, or another server's meanwhile
            return False
        except StorageError as exc:
            return not isinstance(exc.__cause__, ValidationError)  # a damaged record stays damaged
        return False

    def _write_failure(self, run_id: str, error: Exception) -> None:
        store = self._runs.store
        with store.lock(run_id):
            record = store.read(run_id)
            if record.status in ("queued", "running", "interrupted"):
                record.status, record.error, record.finished_at = "failed", describe(error), datetime.now(UTC)
                store.save(record)

    def _try_later(self, run_id: str, error: Exception) -> None:
        delay_s = _delay_s(self._refused[run_id])
        self._refused[run_id] += 1
        log.warning("run %s is tried again in %.0f s: %s", run_id, delay_s, error)
        if not self._stopping:
            self._put_off[run_id] = asyncio.get_running_loop().call_later(delay_s, self._enqueue, [run_id])

    def _next_place_s(self) -> int:
        """Seconds, at least 1: one of those that are driven ends, on average, that often.

        Before any has ended it is as long again as they have taken so far: who comes too early learns more.
        """
        if self._took_s:
            wait_s = sum(self._took_s) / len(self._took_s) / self._at_once
        else:
            now = self._clock()
            wait_s = min(_GUESSED_AT_MOST_S, max((now - began for began in self._began_at.values()), default=0.0))
        return max(1, math.ceil(wait_s))


def _delay_s(refused: int) -> float:
    """Seconds until a run is tried again that the disk has refused so many times before."""
    return min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(refused, 10))


def _log_failure(run_id: str, error: Exception) -> None:
    trace = None if isinstance(error, SparklioError) else error
    log.log(logging.WARNING if trace is None else logging.ERROR, "run %s failed: %s", run_id, error, exc_info=trace)
