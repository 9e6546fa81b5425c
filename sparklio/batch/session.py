"""One batch from its plan to its report, alone in its folder."""

from __future__ import annotations

import asyncio
import logging
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from graph.sqlite import storage_errors, to_its_end, until_done
from providers.errors import ConfigError, RunBusyError, StorageError
from routing.contracts import Stage
from sparklio.batch.book import Book, Job, Outcome, RowStatus
from sparklio.batch.drive import Maker, drive
from sparklio.batch.forms import Forms
from sparklio.batch.makers import LocalMaker, WorkersMaker
from sparklio.batch.pace import Pace
from sparklio.batch.plan import Kept, Key, Plan, make_plan
from sparklio.batch.report import Report, check_folder, remove_torn
from sparklio.batch.table import open_table
from sparklio.batch.view import BatchView
from sparklio.stores import open_run_store
from sparklio.studio import Sparklio

__all__ = ["Session", "Wish", "alone_in", "name_of_batch", "open_batch"]

log = logging.getLogger(__name__)

_REPORT_S = 5.0
_WITH_WORKERS = 500  # rows that wait for workers cost little here, and keep that many of them busy
_REPORT_SHARE = 20  # a report that takes a second is written every twenty seconds


def name_of_batch(file: Path) -> str:
    """That of the file without its ending, or of the folder."""
    name = file.resolve().name if file.is_dir() else file.stem
    return unicodedata.normalize("NFC", name).strip(". ") or "batch"


@contextmanager
def alone_in(batch: str, *folders: Path) -> Iterator[None]:
    """Hold the folders, which are made where they are not there.

    Raises:
        RunBusyError: another process makes this batch.
        StorageError: a folder cannot be written.
    """
    with ExitStack() as stack:
        for folder in dict.fromkeys(path.resolve() for path in folders):
            try:
                with storage_errors(str(folder)):
                    folder.mkdir(parents=True, exist_ok=True)
                    stack.enter_context(FileLock(folder / "lock", blocking=False))
            except Timeout as exc:
                raise RunBusyError(
                    f"batch {batch!r} is being made already", hint="wait for it to end, or stop it, then try again"
                ) from exc
        yield


@dataclass(frozen=True)
class Wish:
    """What somebody wants of a batch; see the options of the command."""

    file: Path
    out: Path | None = None
    defaults: Path | None = None
    at_once: int | None = None
    limit: int | None = None
    stage: Stage = "draft"
    keep_going: bool = False
    retry_failed: bool = True
    distributed: bool = False


@contextmanager
def open_batch(studio: Sparklio, wish: Wish) -> Iterator[Session]:
    """Read and check the whole table, and hold the batch's folder while the block lasts. Makes nothing yet.

    Args:
        studio: not entered.
        wish: what is wanted.

    Raises:
        ConfigError: workers shall make it, and there is no broker.
        InputError: the table or the defaults are wrong; rows only where they shall not be set apart.
        UsageError: ``out`` holds something else.
        RunBusyError: another process makes this batch.
        StorageError: a folder cannot be written.
    """
    if wish.distributed and studio.settings.broker_url is None:
        raise ConfigError(
            "there are no workers: SPARKLIO_BROKER_URL is not set",
            hint="set it, and SPARKLIO_DATABASE_URL, as where the workers run; or leave out --distributed",
        )
    table, name = open_table(wish.file), name_of_batch(wish.file)
    forms = Forms(table.folder, wish.defaults)
    own = studio.settings.home.absolute() / "batches" / name
    folder = own if wish.out is None else wish.out.expanduser().absolute()
    key = Key(name, studio.settings.mode, wish.stage)
    check_folder(folder, name)
    with alone_in(name, own, folder), open_run_store(studio.settings) as store:
        remove_torn(folder)
        with Book(folder) as book:
            plan = make_plan(table, forms, book, key, Kept(store, studio.images), retry_failed=wish.retry_failed)
            if not wish.keep_going:
                plan.refuse_wrong(wish.file.name)
            report = Report(folder, book, store, key, header=table.header, file=wish.file)
            yield Session(studio, plan, forms, key, report, wish)


class Session:
    """Keeps the book while rows are made: begun, ended, told to people, reported now and then.

    Attributes:
        book: what is known of the rows.
        pace: how fast they go.
        at_once: how many of them at a time.
        to_make: how many this session makes.
        warnings: what in the rows is most likely a slip, a sentence each.
    """

    def __init__(self, studio: Sparklio, plan: Plan, forms: Forms, key: Key, report: Report, wish: Wish) -> None:
        self._studio = studio
        self._plan = plan
        self._forms = forms
        self._key = key
        self._report = report
        self._limit = wish.limit
        self._distributed = wish.distributed
        self._view: BatchView | None = None
        self._on_stop: Callable[[], None] | None = None
        self._reported = False
        self.book = plan.book
        usual = _WITH_WORKERS if wish.distributed else studio.settings.count("SPARKLIO_MAX_RUNS")
        self.at_once = wish.at_once or usual
        self.pace = Pace(self.at_once, elsewhere=wish.distributed)
        self.to_make = min(len(plan.to_make), len(plan.to_make) if wish.limit is None else wish.limit)
        self.warnings = tuple(plan.warnings)

    @property
    def name(self) -> str:
        return self._key.batch

    def totals(self) -> dict[str, Any]:
        """What the report tells of all rows together."""
        return self._report.totals()

    async def make(self, view: BatchView, on_stop: Callable[[], None], warn: Callable[[str], None]) -> None:
        """Make what is missing, and report also if that is broken off.

        Args:
            view: hears of each row that has ended.
            on_stop: is called for each row that is broken off, while there is time to tell people.
            warn: hears why workers do not go on.

        Raises:
            ConfigError: a key, a package or an option is wrong without which no call works.
            StorageError: a folder cannot be written.
        """
        self._view, self._on_stop = view, on_stop
        try:
            if self.to_make:
                async with self._studio as studio:
                    await studio.gateways.prepare()
                    await self._drive_with(studio, warn)
        finally:
            if not self._reported:
                await to_its_end(asyncio.to_thread(self._report.write))

    async def _drive_with(self, studio: Sparklio, warn: Callable[[str], None]) -> None:
        if not self._distributed:
            await self._drive(LocalMaker(studio, self._forms, self._key))
            return
        from sparklio.worker.idle import idle_queues
        from sparklio.worker.queue import Queue

        queue = Queue(studio.runs.store)

        def begin_again(run_id: str) -> None:
            queue.requeue(run_id, forgive=queue.deliveries(run_id))

        def tell_why() -> None:
            if why := idle_queues(studio.settings):
                warn(f"rows wait: {why}")

        async with WorkersMaker(studio, self._forms, self._key, begin_again, tell_why) as maker:
            await self._drive(maker)

    async def _drive(self, maker: Maker) -> None:
        reporting = asyncio.create_task(self._report_now_and_then())
        try:
            await drive(self._plan.jobs(self._limit), maker, self.at_once, self)
        finally:
            reporting.cancel()
            await until_done(reporting)
            # before connections are closed: who has stopped us gives little time
            await to_its_end(asyncio.to_thread(self._report.write))
            self._reported = True

    def begun(self, job: Job) -> Outcome:
        self.pace.begin(job.number)
        outcome = self.book.outcome(job.number)
        self.book.write(job.number, replace(outcome, status="running"))
        return outcome

    def ended(self, job: Job, outcome: Outcome) -> None:
        self.pace.end(job.number)
        self.book.write(job.number, outcome)
        if self._view:
            self._view.update(outcome)

    def broken_off(self, job: Job) -> None:
        self.pace.drop(job.number)
        status: RowStatus = "waiting" if self._distributed else "interrupted"  # workers go on with theirs
        self.book.write(job.number, replace(self.book.outcome(job.number), status=status))
        if self._on_stop:
            self._on_stop()

    async def _report_now_and_then(self) -> None:
        """Also at once, so that little is left to be written when somebody stops it.

        A disk that refuses is asked again; the last report is written by who makes the rows, and tells it.
        """
        while True:
            began = time.monotonic()
            try:
                await to_its_end(asyncio.to_thread(self._report.write))
            except StorageError as exc:
                log.warning("the batch could not be reported: %s", exc)
            await asyncio.sleep(max(_REPORT_S, _REPORT_SHARE * (time.monotonic() - began)))
