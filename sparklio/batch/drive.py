"""Makes rows' pages, so many at once. Who makes one stands behind :class:`Maker`: here it is this process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import aclosing
from typing import Protocol

from graph.inputs import RunInput
from graph.store import RunRecord
from providers.errors import InputError, SparklioError
from routing.logs import masked_description
from sparklio.batch.book import Job, Outcome, outcome_of_error
from sparklio.batch.forms import Forms
from sparklio.batch.plan import Key, finished_outcome, record_of
from sparklio.studio import Sparklio

__all__ = ["Listener", "LocalMaker", "Maker", "drive"]

log = logging.getLogger(__name__)


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


class LocalMaker:
    """Runs in this process.

    Args:
        studio: entered already.
        forms: makes inputs of rows.
        key: what ids follow from.
    """

    def __init__(self, studio: Sparklio, forms: Forms, key: Key) -> None:
        self._studio = studio
        self._runs = studio.runs
        self._forms = forms
        self._key = key

    async def make(self, job: Job, before: Outcome) -> Outcome:
        try:
            record = await self._record(job)
            async with aclosing(self._runs.drive(record)) as events:
                async for _ in events:
                    pass
            record = await asyncio.to_thread(self._runs.store.load, job.run_id)
            return await asyncio.to_thread(finished_outcome, before, self._runs.store, record, kept=False)
        except SparklioError as exc:
            log.warning("run %s failed: %s", job.run_id, exc)
            return outcome_of_error(before, masked_description(exc, self._studio.settings.secrets))
        except Exception as exc:
            log.exception("run %s failed", job.run_id)
            return outcome_of_error(before, masked_description(exc, self._studio.settings.secrets))

    async def _record(self, job: Job) -> RunRecord:
        """The run of an earlier batch, or a new one."""
        if await asyncio.to_thread(record_of, self._runs.store, job.run_id) is not None:
            return self._runs.resumable(job.run_id)
        inputs = await self._inputs(job)
        file = None if self._forms.shared else job.row.file  # alone it does not say all that the page was made from
        return await self._runs.start(inputs, run_id=job.run_id, stage=self._key.stage, input_file=file)

    async def _inputs(self, job: Job) -> RunInput:
        filled = await asyncio.to_thread(self._forms.fill, job.row)
        if await asyncio.to_thread(self._key.run_id, job.row, filled) != job.run_id:
            raise InputError(
                f"{job.row.place}: its photo or materials have changed since the batch began",
                hint="give the same command again",
            )
        if filled.photo is None:
            return filled.inputs
        photo = await self._studio.add_photo(filled.photo)
        product = filled.inputs.product.model_copy(update={"photo": photo})
        return filled.inputs.model_copy(update={"product": product})
