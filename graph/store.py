"""Runs on disk: ``<home>/runs/<id>/`` holds the run's record, logs and lock, and its result unless ``--out`` says
where.

A run's family is the run and its reruns ``<id>.2``, ``<id>.3``, ...
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError

from graph.ownership import Ownership, held_elsewhere, owned
from providers.errors import InputError, RunBusyError, RunExistsError, StorageError, UnknownNameError
from routing.contracts import Mode, Stage
from routing.image_store import make_folder, write_whole

__all__ = ["InputFile", "Parent", "RunRecord", "RunStore", "Status"]

log = logging.getLogger(__name__)

Status = Literal["queued", "running", "finished", "failed", "interrupted", "cancelled"]
"""Queued: booked by somebody who runs it later. Cancelled: stopped on purpose, and only a person goes on with it."""

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}(\.[1-9][0-9]{0,5})?")
_NEW_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}")
_LISTED = 20
_RESULTS = ("result.json", "page.html", "images", "events.jsonl")


class Parent(BaseModel):
    run_id: str
    start_at: str | None = None


class InputFile(BaseModel):
    """The input file of a run, with the digest of each key of the state that was read from it."""

    path: Path
    digests: dict[str, str]


class RunRecord(BaseModel):
    """What is known of a run beside its checkpoints.

    Attributes:
        inputs: the state that it starts from.
        input_file: where these were read, by the command line.
        nodes: the agents that it runs; all six but for a rerun.
        changes: what a rerun changes in its parent's state, by dotted path.
        out: folder of result.json, page.html and images/.
        spent_usd: what its calls cost so far, the failed ones too; None where a price is unknown.
        failed_usd: what of that went into calls without an answer, which the ledger does not know.
        keeper: who goes on with it after a restart, "server"; None: nobody but a person.
        request: the request that it was booked for, which no other run was.
    """

    run_id: str
    status: Status = "running"
    mode: Mode
    stage: Stage = "draft"
    seed: int
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    finished_at: datetime | None = None
    parent: Parent | None = None
    nodes: list[str]
    changes: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, Any]
    input_file: InputFile | None = None
    out: Path
    spent_usd: float | None = 0.0
    failed_usd: float | None = 0.0
    error: dict[str, Any] | None = None
    keeper: str | None = None
    request: str | None = None

    @property
    def product(self) -> str:
        return str(self.inputs["product_input"]["name"])

    def summary(self) -> dict[str, Any]:
        """What lists of runs show."""
        return {
            "run_id": self.run_id,
            "status": self.status,
            "mode": self.mode,
            "product": self.product,
            "created_at": self.created_at.isoformat(timespec="seconds"),
            "parent": self.parent.model_dump() if self.parent else None,
            "out": str(self.out),
        }


class RunStore:
    def __init__(self, home: Path) -> None:
        self._runs = home / "runs"
        self._held: dict[str, Ownership] = {}

    def folder(self, run_id: str) -> Path:
        """The run's own folder, whether it exists or not.

        Raises:
            InputError: ``run_id`` is not an id, e.g. ``../../x``.
        """
        if not _RUN_ID.fullmatch(run_id):
            raise InputError(
                f"{run_id!r} is not a run id", hint="letters, digits, - and _, at most 48; a rerun ends in .2, .3, ..."
            )
        return self._runs / run_id

    def new_id(self, wanted: str | None = None) -> str:
        """A checked id for a new run: the wanted one, or one from the time and four random digits."""
        if wanted is None:
            return f"{_now():%Y%m%d-%H%M%S}-{token_hex(2)}"
        if not _NEW_ID.fullmatch(wanted):
            raise InputError(
                f"{wanted!r} cannot be a run id",
                hint="letters, digits, - and _, beginning with a letter or digit, at most 48",
            )
        return wanted

    def next_member(self, run_id: str) -> str:
        """The id of the next rerun in the family of ``run_id``."""
        root = _root(run_id)
        folders = [path.name for path in self._runs.glob(f"{root}*")]
        numbers = [_ordinal(name) for name in folders if _RUN_ID.fullmatch(name) and _root(name) == root]
        return f"{root}.{max(numbers, default=1) + 1}"

    def create(self, record: RunRecord) -> None:
        """Make the run's folder and write its first record; a folder without a record is nobody's.

        Raises:
            RunExistsError: the id is taken.
            StorageError: the data folder cannot be written.
        """
        try:
            make_folder(self.folder(record.run_id))
        except OSError as exc:
            raise StorageError(
                f"cannot write {self.folder(record.run_id)}: {exc.strerror or exc}",
                hint="make the folder writable, or set SPARKLIO_HOME",
            ) from exc
        try:
            with self._locked(record.run_id):
                if self._file(record.run_id).exists():
                    raise _exists(record.run_id)
                self.clear(record.run_id)
                self.save(record)
        except RunBusyError as exc:
            raise _exists(record.run_id) from exc

    def discard(self, run_id: str) -> None:
        """Take back a record that was just written, so that there is no such run."""
        try:
            self._file(run_id).unlink(missing_ok=True)
        except OSError:
            log.exception("the record of a run that was not booked stays", extra={"run_id": run_id})

    def check_folder(self, folder: Path) -> None:
        """Make ``folder`` and see that it can be written, before anybody works for it.

        Raises:
            StorageError: it cannot.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StorageError(f"cannot write {folder}: {exc.strerror or exc}", hint="choose another --out") from exc
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StorageError(f"cannot write {folder}: permission denied", hint="choose another --out")

    def clear(self, run_id: str) -> None:
        """Delete the result that an earlier run of this id has left in its folder, else the new one would show it.

        Raises:
            StorageError: it cannot be deleted.
        """
        for path in (self.folder(run_id) / name for name in _RESULTS):
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as exc:
                raise StorageError(
                    f"cannot delete {path}: {exc.strerror or exc}", hint="make the data folder writable"
                ) from exc

    def save(self, record: RunRecord) -> None:
        """Write the record.

        Raises:
            RunBusyError: we held the run, and another machine has taken it over: its record is not ours to write.
            StorageError: it cannot be written.
        """
        self.check_held(record.run_id)
        write_whole(self._file(record.run_id), record.model_dump_json(indent=1).encode())

    def load(self, run_id: str) -> RunRecord:
        """The record of a run; one that says "running" but whose owner is gone is told as interrupted.

        A queued one has no owner, and is told as it is.

        Raises:
            UnknownNameError: there is no such run; the latest ones are listed.
            InputError: not an id at all.
        """
        record = self.read(run_id)
        if record.status == "running" and not self._is_held(run_id):
            record.status = "interrupted"
        return record

    def read(self, run_id: str) -> RunRecord:
        """The record as it was last written, whoever is running it; raises as :meth:`load` does."""
        path = self._file(run_id)
        if not path.is_file():
            raise UnknownNameError("run", run_id, self._ids()[:_LISTED], hint="`sparklio runs` lists them")
        try:
            return RunRecord.model_validate_json(path.read_bytes())
        except OSError as exc:
            raise StorageError(f"cannot read {path}: {exc.strerror or exc}", hint="make it readable") from exc
        except ValidationError as exc:
            raise StorageError(f"{path} is damaged", hint="remove the run's folder") from exc

    def all(self) -> list[RunRecord]:
        """All runs whose record can be read, the latest first."""
        records = self._readable(self._ids())
        return sorted(records, key=lambda record: record.created_at, reverse=True)

    def family(self, run_id: str) -> list[RunRecord]:
        """The run, its reruns and its parents, the first one first."""
        self.load(run_id)
        root = _root(run_id)
        members = [member for member in self._ids(f"{root}*") if _root(member) == root]
        return self._readable(sorted(members, key=_ordinal))

    def _readable(self, run_ids: Iterable[str]) -> list[RunRecord]:
        """One damaged record must not hide the others."""
        records = []
        for run_id in run_ids:
            try:
                records.append(self.load(run_id))
            except StorageError as exc:
                log.warning("%s", exc)
        return records

    @contextmanager
    def lock(self, run_id: str) -> Iterator[None]:
        """Hold the run. The lock is the operating system's: a dead owner's is free at once, but on another machine.

        Raises:
            RunBusyError: another process holds it, here or on another machine.
        """
        with self._locked(run_id), owned(self.folder(run_id)) as self._held[run_id]:
            try:
                yield
            finally:
                del self._held[run_id]

    def check_held(self, run_id: str) -> None:
        """Whoever holds the run asks before each step.

        Raises:
            RunBusyError: another machine has taken it over, because this one slept.
        """
        if run_id in self._held:
            self._held[run_id].check()

    @contextmanager
    def _locked(self, run_id: str) -> Iterator[None]:
        """The operating system's lock alone, for a moment's use."""
        lock = FileLock(self.folder(run_id) / "lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout as exc:
            raise RunBusyError(
                f"run {run_id!r} is being run already", hint="wait for it to end, or stop it, then resume"
            ) from exc
        except OSError as exc:
            raise StorageError(
                f"cannot lock run {run_id!r}: {exc.strerror or exc}", hint="make the data folder writable"
            ) from exc
        try:
            yield
        finally:
            lock.release()

    def _is_held(self, run_id: str) -> bool:
        try:
            with self._locked(run_id):
                return held_elsewhere(self.folder(run_id)) is not None
        except RunBusyError:
            return True

    def _file(self, run_id: str) -> Path:
        return self.folder(run_id) / "run.json"

    def _ids(self, pattern: str = "*") -> list[str]:
        """Ids of all runs, or of those that fit a pattern, latest folder name first."""
        if not self._runs.is_dir():
            return []
        found = (path.parent.name for path in self._runs.glob(f"{pattern}/run.json"))
        return sorted((name for name in found if _RUN_ID.fullmatch(name)), reverse=True)


def _now() -> datetime:
    """The local time: an id is read by people."""
    return datetime.now().astimezone()


def _exists(run_id: str) -> RunExistsError:
    return RunExistsError(
        f"run {run_id!r} exists already", hint=f"choose another --run-id, or `sparklio resume {run_id}`"
    )


def _root(run_id: str) -> str:
    return run_id.partition(".")[0]


def _ordinal(run_id: str) -> int:
    return int(run_id.partition(".")[2] or 1)
