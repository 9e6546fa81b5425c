"""Who follows a run: the log is the queue, and each reads on from where they are, at their own pace, in any process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar
from weakref import WeakValueDictionary

from graph.events import Event
from graph.store import RunStore, Status
from providers.errors import UnknownNameError

__all__ = ["Bells", "follow"]

T = TypeVar("T")
_POLL_S = 0.25
_SELDOM_S = 2.0


class Bells:
    """Wakes those of this event loop who follow a run; where nobody does, nothing is kept.

    Attributes:
        hears_others: runs ring that other processes drive, too.
    """

    def __init__(self) -> None:
        self.hears_others = False
        self._bells: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()
        self._driven: set[str] = set()

    def bell(self, run_id: str) -> asyncio.Event:
        """Set at the run's next event; all who follow it share one."""
        return self._bells.setdefault(run_id, asyncio.Event())

    def ring(self, run_id: str) -> None:
        bell = self._bells.pop(run_id, None)
        if bell is not None:
            bell.set()

    def hear_others(self, hears: bool) -> None:
        """Who follows a run looks again whenever this changes: bells may have rung unheard."""
        if hears != self.hears_others:
            self.hears_others = hears
            for run_id in list(self._bells):
                self.ring(run_id)

    @contextmanager
    def driving(self, run_id: str) -> Iterator[None]:
        """While the block lasts the run is driven here, and all its events ring."""
        self._driven.add(run_id)
        self.ring(run_id)
        try:
            yield
        finally:
            self._driven.remove(run_id)
            self.ring(run_id)

    def is_driven(self, run_id: str) -> bool:
        return run_id in self._driven

    async def heard(self, run_id: str, bell: asyncio.Event, pause_s: float) -> None:
        """Wait for the bell; a run that somebody else drives rings none, and is looked at again after ``pause_s``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(None if self.is_driven(run_id) else pause_s):
                await bell.wait()


async def follow(store: RunStore, run_id: str, after: int, bells: Bells) -> AsyncGenerator[Event, None]:
    """The events after number ``after``: those in the log, then those that come, until the run is over.

    Its status is asked before the log is read on: whoever ends a run has written its last event by then. One that
    stays queued is looked at ever less often, as many may wait for many, and who drives it here rings.

    Raises:
        StorageError: the log or the record cannot be read.
    """
    reader = store.event_reader(run_id, after)
    standing, pause_s = _Standing(store, run_id, bells), 0.0
    while True:
        bell = bells.bell(run_id)  # before anything is looked at, so that nothing rings unheard
        status = await _aside(store, standing.status)
        while (events := await _aside(store, reader.read)) is not None:
            for event in events:
                yield event
            await asyncio.sleep(0)  # a long log keeps nobody else of this event loop waiting
        if status not in ("queued", "running"):
            return
        often_s = _SELDOM_S if bells.hears_others else _POLL_S
        pause_s = min(pause_s + often_s, _SELDOM_S) if status == "queued" else often_s
        await bells.heard(run_id, bell, pause_s)


async def _aside(store: RunStore, work: Callable[[], T]) -> T:
    """Reading files takes no time; another machine may keep us waiting, but nobody else of this event loop."""
    return await asyncio.to_thread(work) if store.shared else work()


class _Standing:
    """How a run stands. The record of one that is queued is read again only when it has been written anew."""

    def __init__(self, store: RunStore, run_id: str, bells: Bells) -> None:
        self._store, self._run_id, self._bells = store, run_id, bells
        self._queued: Hashable | None = None

    def status(self) -> Status:
        """Cancelled, too, where it was deleted since."""
        if self._bells.is_driven(self._run_id):
            return "running"
        stamp = self._store.stamp(self._run_id)
        if stamp is not None and stamp == self._queued:
            return "queued"
        try:
            status = self._store.status_of(self._run_id)
            if status == "interrupted" and self._store.goes_on(self._run_id):
                status = "running"
        except UnknownNameError:
            return "cancelled"
        self._queued = stamp if status == "queued" else None
        return status
