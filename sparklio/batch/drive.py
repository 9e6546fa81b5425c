"""Makes rows' pages, so many at once. Who makes one stands behind :class:`Maker`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Protocol

from sparklio.batch.book import Job, Outcome

__all__ = ["Listener", "Maker", "drive"]


class Maker(Protocol):
    async def make(self, job: Job, before: Outcome) -> Outcome:
        """Bring a row's run to its end, whatever that is, and tell it; a failure is an outcome, too.

        Cancelled, it leaves a run that can be gone on with.
        """


class Listener(Protocol):
    """Who keeps the book. ``broken_off``: the row was cancelled."""

    def begun(self, job: Job) -> Outcome: ...

    def ended(self, job: Job, outcome: Outcome) -> None: ...

    def broken_off(self, job: Job) -> None: ...


async def drive(jobs: Iterator[Job], maker: Maker, at_once: int, listener: Listener) -> None:
    """Make all ``jobs``, ``at_once`` at a time; each is taken when its turn has come.

    Raises:
        StorageError: the book cannot be kept.
    """

    async def hand() -> None:
        for job in jobs:
            before = listener.begun(job)
            try:
                outcome = await maker.make(job, before)
            except asyncio.CancelledError:
                listener.broken_off(job)
                raise
            listener.ended(job, outcome)

    try:
        async with asyncio.TaskGroup() as hands:
            for _ in range(at_once):
                hands.create_task(hand())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
