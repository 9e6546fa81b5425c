"""Who makes a row's page: this process, or workers anywhere."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, Self

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, stop_after_delay, wait_fixed

from graph.inputs import RunInput
from graph.sqlite import until_done
from graph.store import RunRecord, RunStore
from providers.errors import InputError, RunBusyError, SparklioError, StorageError
from routing.logs import masked_description
from sparklio.batch.book import Job, Outcome, outcome_of_error
from sparklio.batch.forms import Forms
from sparklio.batch.plan import Kept, Key, finished_outcome, record_of
from sparklio.studio import Sparklio

__all__ = ["LocalMaker", "Rows", "WorkersMaker"]

log = logging.getLogger(__name__)

_LOOKS_EVERY_S = 1.0
_SILENCE_S = 10.0
_LEASE_S = 15.0  # and a little more


class Rows:
    """Books rows' runs.

    Args:
        studio: entered already.
        forms: makes inputs of rows.
        key: what ids follow from.
        how: further words of :meth:`graph.runs.Runs.start`.
    """

    def __init__(self, studio: Sparklio, forms: Forms, key: Key, **how: Any) -> None:
        self._studio = studio
        self._runs = studio.runs
        self._forms = forms
        self._key = key
        self._how = how

    async def record(self, job: Job) -> RunRecord:
        """The run of an earlier batch, or a new one."""
        if await asyncio.to_thread(record_of, self._runs.store, job.run_id) is not None:
            return self._runs.resumable(job.run_id)
        inputs = await self._inputs(job)
        file = None if self._forms.shared else job.row.file  # alone it does not say all that the page was made from
        return await self._runs.start(
            inputs, run_id=job.run_id, stage=self._key.stage, input_file=file, batch=self._key.batch, **self._how
        )

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


class LocalMaker:
    """Drives the runs in this process; the arguments are those of :class:`Rows`."""

    def __init__(self, studio: Sparklio, forms: Forms, key: Key) -> None:
        self._runs = studio.runs
        self._kept = Kept(studio.runs.store, studio.images)
        self._rows = Rows(studio, forms, key)
        self._secrets = studio.settings.secrets

    async def make(self, job: Job, before: Outcome) -> Outcome:
        try:
            await self._drive(await self._rows.record(job))
            record = await asyncio.to_thread(self._runs.store.load, job.run_id)
            return await asyncio.to_thread(finished_outcome, before, self._kept, record)
        except Exception as exc:  # noqa: BLE001  # one row's failure is its outcome, and the others go on
            return _failed(before, job, exc, self._secrets)

    async def _drive(self, record: RunRecord) -> None:
        """Among machines a run that somebody was killed over stays theirs until the lease has ended."""
        waited = stop_after_delay(_LEASE_S) if self._runs.store.shared else stop_after_attempt(1)
        busy = retry_if_exception_type(RunBusyError)
        async for attempt in AsyncRetrying(retry=busy, stop=waited, wait=wait_fixed(_LOOKS_EVERY_S), reraise=True):
            with attempt:
                async with aclosing(self._runs.drive(record)) as events:
                    async for _ in events:
                        pass


class WorkersMaker:
    """Leaves the runs to workers, and fetches what they have made. Use it in an ``async with`` block.

    A row that is broken off here stays with the workers: given again, the batch finds what has become of it.

    Args:
        studio: entered already, with a database and a broker.
        forms: makes inputs of rows.
        key: what ids follow from.
        requeue: gives a run that has failed, or was stopped, to the workers again.
        on_silence: called now and then while no row ends.
    """

    def __init__(
        self,
        studio: Sparklio,
        forms: Forms,
        key: Key,
        requeue: Callable[[str], object],
        on_silence: Callable[[], None],
    ) -> None:
        self._store = studio.runs.store
        self._kept = Kept(studio.runs.store, studio.images)
        self._rows = Rows(studio, forms, key, status="queued", keeper="workers")
        self._secrets = studio.settings.secrets
        self._requeue = requeue
        self._watch = _Watch(self._store, on_silence)

    async def __aenter__(self) -> Self:
        self._watching = asyncio.create_task(self._watch.watch(), name="runs of a batch")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._watching.cancel()
        await until_done(self._watching)

    async def make(self, job: Job, before: Outcome) -> Outcome:
        try:
            record = await self._rows.record(job)
            if record.status == "running" and record.keeper != "workers":
                raise RunBusyError(
                    f"run {job.run_id!r} is being made without workers", hint="wait for it to end, then try again"
                )
            if record.status == "failed" or (record.status == "interrupted" and record.keeper != "workers"):
                await asyncio.to_thread(self._requeue, job.run_id)
            await self._watch.ended(job.run_id)
            return await asyncio.to_thread(self._fetched, job, before)
        except Exception as exc:  # noqa: BLE001  # one row's failure is its outcome, and the others go on
            return _failed(before, job, exc, self._secrets)

    def _fetched(self, job: Job, before: Outcome) -> Outcome:
        """What has become of the run."""
        record = self._store.load(job.run_id)
        if record.status != "finished":
            return outcome_of_error(before, record.error or {"code": record.status, "message": f"was {record.status}"})
        return finished_outcome(before, self._kept, record)


class _Watch:
    """Asks once a second, for all rows together, which of their runs have ended."""

    def __init__(self, store: RunStore, on_silence: Callable[[], None]) -> None:
        self._store = store
        self._on_silence = on_silence
        self._told_at = time.monotonic()
        self._silence_s = _SILENCE_S
        self._waited_for: dict[str, asyncio.Future[None]] = {}

    async def ended(self, run_id: str) -> None:
        """Returns once the run is finished, failed, cancelled or gone."""
        self._waited_for[run_id] = asyncio.get_running_loop().create_future()
        try:
            await self._waited_for[run_id]
        finally:
            del self._waited_for[run_id]

    async def watch(self) -> None:
        """A database that cannot be asked is asked again."""
        warned = False
        while True:
            await asyncio.sleep(_LOOKS_EVERY_S)
            asked = dict(self._waited_for)
            try:
                statuses = await asyncio.to_thread(self._store.statuses, asked)
            except StorageError as exc:
                if not warned:
                    log.warning("cannot see how the rows' runs stand: %s", exc)
                warned = True
                continue
            warned = False
            for run_id, waiting in asked.items():
                # interrupted: its worker has died, and another one will take it
                if statuses.get(run_id) not in ("queued", "running", "interrupted") and not waiting.done():
                    waiting.set_result(None)
                    self._told_at, self._silence_s = time.monotonic(), _SILENCE_S
            await self._mind_silence()

    async def _mind_silence(self) -> None:
        if time.monotonic() - self._told_at > self._silence_s:
            await asyncio.to_thread(self._on_silence)
            self._told_at, self._silence_s = time.monotonic(), 6 * self._silence_s


def _failed(before: Outcome, job: Job, error: Exception, secrets: tuple[str, ...]) -> Outcome:
    if isinstance(error, SparklioError):
        log.warning("run %s failed: %s", job.run_id, error)
    else:
        log.error("run %s failed", job.run_id, exc_info=error)
    return outcome_of_error(before, masked_description(error, secrets))
