"""Images that are made apart from who asked for them. A job belongs to the server: whoever leaves, it goes on.

A server that starts goes on with the unfinished jobs whose server is gone, each under its old idempotency key, so that
a service which kept at it hands over the image that is there.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any, Self

from providers.errors import ConflictError, QueueFullError, StorageError, UnknownNameError
from routing.contracts import ImageRequest, Mode, Progress
from routing.gateways import ImageService
from sparklio.server.errors import ErrorBody, ErrorDetail, error_response
from sparklio.server.job_files import Job, JobFiles, JobOrder, JobProgress

__all__ = ["ImageJobs"]

log = logging.getLogger(__name__)

KEPT = timedelta(days=1)
"""How long an ended job is kept."""
_SWEPT_EVERY_S = 600.0
_LOOKS_EVERY_S = 0.5  # at a job that another server drives
_AT_ONCE = 16


@dataclass
class _Live:
    """A job that this server drives. ``ending``: its outcome is being written, and it is too late to stop it."""

    order: JobOrder
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ending: bool = False
    task: asyncio.Task[None] | None = None
    stopping: asyncio.Task[None] | None = None

    def change(self, **changes: Any) -> None:
        """Snapshots are never changed, so who holds one may read it in peace."""
        self.show(self.order.model_copy(update={**changes, "version": self.order.version + 1}))

    def show(self, order: JobOrder) -> None:
        self.order = order
        self.changed.set()
        self.changed = asyncio.Event()

    def hear(self, progress: Progress) -> None:
        self.change(progress=JobProgress(step=progress.step, steps=progress.steps))


class ImageJobs:
    """One per server, entered for as long as it serves.

    Args:
        gateway: makes the images.
        folder: of the jobs' files.
        queued: how many jobs may be unfinished.
        mode: of the gateway; jobs of another mode are left for a server of theirs. None: there is only one.
        at_once: how many are handed to the gateway at a time; a service's own queue may hold them back further.
        clock: the time, for their ends and for what is too old.
    """

    def __init__(
        self,
        gateway: ImageService,
        folder: Path,
        queued: int,
        *,
        mode: Mode | None = None,
        at_once: int = _AT_ONCE,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._gateway = gateway
        self._home = folder.parent
        self._files = JobFiles(folder)
        self._queued, self._mode, self._clock = queued, mode, clock
        self._slots, self._at_once = asyncio.Semaphore(at_once), at_once
        self._live: dict[str, _Live] = {}
        self._booking = 0
        self._usual_s = 10.0  # how long an image takes
        self._swept_at = -math.inf

    async def __aenter__(self) -> Self:
        """Go on with what is unfinished, the oldest first.

        Raises:
            StorageError: the folder cannot be used.
        """
        await asyncio.to_thread(self._files.open)
        await self._sweep()
        for order in await asyncio.to_thread(self._files.take_over, self._mode):
            self._begin(order)
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Leave the unfinished ones to the next server; what a service is at, it goes on with."""
        lives = list(self._live.values())
        for live in lives:
            for task in (live.stopping, None if live.ending else live.task):
                if task is not None:
                    task.cancel()
        tasks = [task for live in lives for task in (live.stopping, live.task) if task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._files.close)

    def counts(self) -> Mapping[str, int]:
        """How many are ``queued`` and how many ``running``."""
        counted = Counter(live.order.status for live in self._live.values())
        return {status: counted[status] for status in ("queued", "running")}

    async def order(self, request: ImageRequest, job_id: str | None = None) -> tuple[Job, bool]:
        """The job of ``request``, and whether it has been begun now rather than before.

        ``job_id`` is the request's ``idempotency_key`` unless it is given; one of neither is random. The same id and
        request is the same job; one that failed or was cancelled is begun again.

        Raises:
            ConflictError: the id was given to another request.
            QueueFullError: as many are unfinished as may be.
            UsageError, ProviderError: no image can be made of the request, e.g. its workflow does not exist.
            StorageError: the job cannot be written.
        """
        job_id = job_id or request.options.idempotency_key or token_hex(16)
        request = _keyed(request, job_id)
        await self._until_stopped(job_id)
        found = await self._found(job_id)
        if found is not None and found.serves(request, self._mode):
            return found, False
        await self._gateway.check(request)
        await self._sweep()
        with self._place():
            wanted = JobOrder(
                job_id=job_id, request=request, mode=self._mode, owner=self._files.owner, created_at=self._clock()
            )
            order = await asyncio.to_thread(self._files.claim, wanted)
            if order is not wanted:
                return order, False
            return self._begin(order).order, True

    async def get(self, job_id: str) -> Job:
        """The job as it stands.

        Raises:
            UnknownNameError: there is none of this id (any more).
            StorageError: its file cannot be read.
        """
        return await self._order_of(job_id)

    async def wait(self, job_id: str, seen: int | None, wait_s: float) -> Job:
        """The job as soon as its version is not ``seen`` or it has ended, or else as it stands after ``wait_s``.

        ``seen`` None is the version that it has now. Raises as :meth:`get`.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + wait_s
        while True:
            changed = live.changed if (live := self._live.get(job_id)) else None
            job = await self.get(job_id)
            seen = job.version if seen is None else seen
            left_s = until - clock()
            if job.ended or job.version != seen or left_s <= 0:
                return job
            await _until_changed(changed, left_s)

    async def latest(self, limit: int) -> list[Job]:
        """The jobs that were ordered last, the latest first."""
        orders = await asyncio.to_thread(self._files.latest, limit)
        lives = (self._live.get(order.job_id) for order in orders)
        return [live.order if live else order for order, live in zip(orders, lives, strict=True)]

    async def cancel(self, job_id: str) -> Job:
        """Stop the job, also where a service is making its image; one that has ended is left as it is.

        A service that could not be asked to stop is told in the job's ``error``.

        Raises:
            UnknownNameError: there is none of this id.
            ConflictError: it is not this server that drives it.
        """
        if (live := self._live.get(job_id)) is not None and not live.order.ended:
            live.stopping = live.stopping or asyncio.create_task(self._stop(live))
            await asyncio.shield(live.stopping)
            return live.order
        job = await self.get(job_id)
        if not job.ended:
            raise ConflictError(
                f"job {job_id!r} is driven by another server", hint="cancel it there, or wait until that one has ended"
            )
        return job

    async def cancel_image(self, request: ImageRequest) -> None:
        """Stop the image that was ordered with the request's key, be it a job or not.

        Raises:
            ProviderError: a service cannot be asked.
        """
        live = self._live.get(request.options.idempotency_key or request.request_id)
        if live is None:
            await self._gateway.cancel(request)
        else:  # first whoever waits for the image, which would take it for lost
            await self.cancel(live.order.job_id)

    async def _order_of(self, job_id: str) -> JobOrder:
        order = await self._found(job_id)
        if order is None:
            raise UnknownNameError("job", job_id, (), hint="ended jobs are kept for a day; order the image again")
        return order

    async def _found(self, job_id: str) -> JobOrder | None:
        live = self._live.get(job_id)
        return live.order if live else await asyncio.to_thread(self._files.read, job_id)

    async def _until_stopped(self, job_id: str) -> None:
        live = self._live.get(job_id)
        if live and live.stopping:
            await asyncio.shield(live.stopping)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Hold one of the places for unfinished jobs while one is written, so that two never take the last."""
        unfinished = self._booking + sum(not live.order.ended for live in self._live.values())
        if unfinished >= self._queued:
            raise QueueFullError(
                f"{unfinished} images are unfinished, as many as this server takes",
                hint="try again later, or raise SPARKLIO_MAX_QUEUED",
                retry_after=max(1.0, self._usual_s / min(self._at_once, unfinished)),
            )
        self._booking += 1
        try:
            yield
        finally:
            self._booking -= 1

    def _begin(self, order: JobOrder) -> _Live:
        live = self._live[order.job_id] = _Live(order)
        live.task = asyncio.create_task(self._drive(live))
        return live

    async def _drive(self, live: _Live) -> None:
        async with self._slots:
            live.change(status="running")
            started = time.perf_counter()
            outcome = await self._outcome(live)
            self._usual_s += (time.perf_counter() - started - self._usual_s) / 4
        live.ending = True
        await self._end(live, **outcome)

    async def _outcome(self, live: _Live) -> dict[str, Any]:
        try:
            answer = await self._gateway.generate_image(live.order.request, live.hear)
        except Exception as exc:  # a defect of one job must not stay unseen by who waits for it
            log.warning("image job %s failed", live.order.job_id, exc_info=exc)
            return {"status": "failed", "error": _told(exc, live.order, self._home)}
        return {"status": "succeeded", "answer": answer}

    async def _stop(self, live: _Live) -> None:
        if live.task and not live.ending:
            live.task.cancel()
        if live.task:
            await asyncio.wait((live.task,))
        if live.order.ended:
            return
        error = None
        try:
            await self._gateway.cancel(live.order.request)
        except Exception as exc:  # as above
            log.warning("image job %s is cancelled, but its service was not told", live.order.job_id, exc_info=exc)
            error = _told(exc, live.order, self._home)
        await self._end(live, status="cancelled", error=error)

    async def _end(self, live: _Live, **outcome: Any) -> None:
        """Write first, tell then; what cannot be written is kept in mind."""
        changes = {**outcome, "version": live.order.version + 1, "finished_at": self._clock()}
        ended = live.order.model_copy(update=changes)
        try:
            await asyncio.to_thread(self._files.save, ended)
        except StorageError as exc:
            log.error("image job %s has ended (%s), but %s", ended.job_id, ended.status, exc)  # noqa: TRY400  # expected
            live.show(ended)
        else:
            live.show(ended)
            del self._live[ended.job_id]

    async def _sweep(self) -> None:
        """Remove what ended too long ago, from time to time."""
        if time.monotonic() >= self._swept_at + _SWEPT_EVERY_S:
            self._swept_at = time.monotonic()
            await asyncio.to_thread(self._files.sweep, self._clock() - KEPT)


def _keyed(request: ImageRequest, job_id: str) -> ImageRequest:
    options = request.options.model_copy(update={"idempotency_key": job_id})
    return request.model_copy(update={"options": options})


def _told(error: Exception, order: JobOrder, home: Path) -> ErrorDetail:
    """As a failed request would tell it; the gateway has taken the secrets out."""
    answer = error_response(error, order.request.request_id, home=home)
    return ErrorBody.model_validate_json(bytes(answer.body)).error


async def _until_changed(changed: asyncio.Event | None, wait_s: float) -> None:
    """Until it changes, but no longer than ``wait_s``."""
    if changed is None:
        await asyncio.sleep(min(wait_s, _LOOKS_EVERY_S))
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await changed.wait()
