"""The files of image jobs, ``<home>/jobs/<id>.json``: from the order to a day after the job's end.

Each server holds the operating system's lock on ``<its name>.lock`` for as long as it lives, so that another one knows
whose jobs it may go on with.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError

from graph.sqlite import storage_errors
from providers.errors import ConflictError, StorageError
from routing.contracts import ImageAnswer, ImageRequest, Mode
from routing.fingerprints import digest
from routing.image_store import make_folder, write_whole
from sparklio.server.errors import ErrorDetail

__all__ = ["Job", "JobFiles", "JobOrder", "JobProgress", "JobStatus"]

log = logging.getLogger(__name__)

JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled"]

_UNDECIDING = {"idempotency_key", "budget_usd", "timeout_s"}  # a client that asks again may have less money left
_ORDERS = "orders"  # the lock that is held for a moment


class JobProgress(BaseModel):
    """``step`` of ``steps``, as the image's provider counts."""

    step: int
    steps: int


class Job(BaseModel):
    """What is told of a job. ``version`` grows with each change."""

    job_id: str
    status: JobStatus = "queued"
    version: int = 1
    progress: JobProgress | None = None
    answer: ImageAnswer | None = None
    error: ErrorDetail | None = None
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None

    @property
    def ended(self) -> bool:
        return self.finished_at is not None


class JobOrder(Job):
    """What a job's file holds: ``owner`` is the name of the server that drives it."""

    request: ImageRequest
    mode: Mode | None
    owner: str

    def serves(self, request: ImageRequest, mode: Mode | None) -> bool:
        """Whether who asks for this gets the job as it is; one that came to nothing is to be begun again.

        Raises:
            ConflictError: it is another request's.
        """
        if (self.mode, _wish(self.request)) != (mode, _wish(request)):
            raise ConflictError(
                f"job {self.job_id!r} was ordered with another request, or in another mode",
                hint="give each request an idempotency key of its own",
            )
        return self.status not in {"failed", "cancelled"}


class JobFiles:
    """The jobs of all servers on this data folder. A file's time is when its job was ordered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.owner = token_hex(8)
        self._alive = FileLock(self._lock_of(self.owner), thread_local=False)

    def open(self) -> None:
        """Raises StorageError: the folder cannot be used."""
        with storage_errors(f"the folder {self._folder}"):
            make_folder(self._folder)
        with self._one_at_a_time():  # else a sweep could take a lock that is not yet held for one that is free
            self._alive.acquire(blocking=False)

    def close(self) -> None:
        self._alive.release()
        self._lock_of(self.owner).unlink(missing_ok=True)

    def claim(self, wanted: JobOrder) -> JobOrder:
        """``wanted``, written; or the job of its id that stands already."""
        with self._one_at_a_time():
            found = self.read(wanted.job_id)
            if found is not None and found.serves(wanted.request, wanted.mode):
                return found
            if found is not None:
                wanted.version = found.version + 1
            self.save(wanted)
            return wanted

    def save(self, order: JobOrder) -> None:
        path = self._file(order.job_id)
        write_whole(path, order.model_dump_json(indent=1).encode(), mode=0o600)
        with storage_errors(f"the file {path}"):
            os.utime(path, (order.created_at.timestamp(),) * 2)

    def read(self, job_id: str) -> JobOrder | None:
        """None where there is none, or only a damaged one."""
        path = self._file(job_id)
        try:
            return JobOrder.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StorageError(f"cannot read {path}: {exc.strerror or exc}", hint="make it readable") from exc
        except ValidationError:
            log.warning("%s is damaged; it is taken for none", path)
            return None

    def latest(self, limit: int) -> list[JobOrder]:
        """The jobs that were ordered last, the latest first."""
        orders = (self.read(path.stem) for _, path in sorted(self._aged(), reverse=True))
        return list(islice((order for order in orders if order is not None), limit))

    def take_over(self, mode: Mode | None) -> list[JobOrder]:
        """The unfinished jobs whose server is gone, ours from now on; the oldest first."""
        taken = []
        with self._one_at_a_time():
            gone: dict[str, bool] = {}
            for _, path in sorted(self._aged()):
                order = self.read(path.stem)
                if order is None or order.ended or order.mode != mode:
                    continue
                if order.owner not in gone:
                    gone[order.owner] = self._is_gone(order.owner)
                if gone[order.owner]:
                    order.owner = self.owner
                    self.save(order)
                    taken.append(order)
        return taken

    def sweep(self, before: datetime) -> None:
        """Remove the jobs that ended before, and the locks of servers that are gone."""
        with self._one_at_a_time():
            for ordered_at, path in self._aged():
                if ordered_at < before.timestamp():
                    order = self.read(path.stem)
                    if order is None or (order.finished_at and order.finished_at < before):
                        path.unlink(missing_ok=True)
            for lock in self._folder.glob("*.lock"):
                self._is_gone(lock.stem)

    def _aged(self) -> Iterator[tuple[float, Path]]:
        for path in self._folder.glob("*.json"):
            with suppress(FileNotFoundError):
                yield path.stat().st_mtime, path

    def _is_gone(self, owner: str) -> bool:
        lock = FileLock(self._lock_of(owner), thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        lock.release()
        self._lock_of(owner).unlink(missing_ok=True)
        return True

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Among all servers and threads."""
        with storage_errors(f"the folder {self._folder}"), FileLock(self._folder / _ORDERS, thread_local=False):
            yield

    def _file(self, job_id: str) -> Path:
        return self._folder / f"{job_id}.json"

    def _lock_of(self, owner: str) -> Path:
        return self._folder / f"{owner}.lock"


def _wish(request: ImageRequest) -> str:
    options = request.options.model_dump(exclude_none=True, exclude=_UNDECIDING)
    return digest([request.provider, request.kind, request.prompt, request.brand, options])
