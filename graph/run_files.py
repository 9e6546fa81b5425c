"""Runs on this machine's disk: ``<home>/runs/<id>/`` holds the run's record, logs and lock, and its result."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from graph.event_log import EVENTS_FILE, FileEventLog, FileEventReader
from graph.ownership import Ownership, held_elsewhere, owned
from graph.sqlite import storage_errors
from graph.store import RunRecord, RunStore, already_there, is_run_id, no_such_run, ordinal_of, root_of
from providers.errors import RunBusyError, StorageError
from routing.image_store import make_folder, write_whole

__all__ = ["RESULT_FILE", "FileRunStore", "clear_folder"]

log = logging.getLogger(__name__)

RESULT_FILE = "result.json"
_RESULTS = (RESULT_FILE, "page.html", "images", EVENTS_FILE)


class FileRunStore(RunStore):
    """A folder a run; what ``prune`` and ``clear`` find there is all that there is of it."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._held: dict[str, Ownership] = {}

    def members(self, root: str) -> list[str]:
        folders = [path.name for path in self._runs.glob(f"{root}*")]
        return [name for name in folders if is_run_id(name) and root_of(name) == root]

    def exists(self, run_id: str) -> bool:
        return self._file(run_id).is_file()

    def create(self, record: RunRecord) -> None:
        """A folder without a record is nobody's."""
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
                    raise already_there(record.run_id)
                self.clear(record.run_id)
                self.save(record)
        except RunBusyError as exc:
            raise already_there(record.run_id) from exc

    def discard(self, run_id: str) -> None:
        try:
            self._file(run_id).unlink(missing_ok=True)
        except OSError:
            log.exception("the record of a run that was not booked stays", extra={"run_id": run_id})

    def clear(self, run_id: str) -> None:
        clear_folder(self.folder(run_id))

    def save(self, record: RunRecord) -> None:
        self.check_held(record.run_id)
        write_whole(self._file(record.run_id), record.model_dump_json(indent=1).encode())

    def load(self, run_id: str) -> RunRecord:
        record = self.read(run_id)
        if record.status == "running" and not self._is_held(run_id):
            record.status = "interrupted"
        return record

    def read(self, run_id: str) -> RunRecord:
        path = self._file(run_id)
        if not path.is_file():
            raise no_such_run(run_id, self._ids())
        try:
            return RunRecord.model_validate_json(path.read_bytes())
        except OSError as exc:
            raise StorageError(f"cannot read {path}: {exc.strerror or exc}", hint="make it readable") from exc
        except ValidationError as exc:
            raise StorageError(f"{path} is damaged", hint="remove the run's folder") from exc

    def all(self) -> list[RunRecord]:
        records = self._readable(self._ids())
        return sorted(records, key=lambda record: record.created_at, reverse=True)

    def family(self, run_id: str) -> list[RunRecord]:
        self.load(run_id)
        root = root_of(run_id)
        members = [member for member in self._ids(f"{root}*") if root_of(member) == root]
        return self._readable(sorted(members, key=ordinal_of))

    @contextmanager
    def lock(self, run_id: str) -> Iterator[None]:
        """The lock is the operating system's: a dead owner's is free at once, but on another machine."""
        with self._locked(run_id), owned(self.folder(run_id)) as self._held[run_id]:
            try:
                yield
            finally:
                del self._held[run_id]

    def check_held(self, run_id: str) -> None:
        if run_id in self._held:
            self._held[run_id].check()

    def stamp(self, run_id: str) -> Hashable | None:
        try:
            found = self._file(run_id).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns

    def wants_cancel(self, run_id: str) -> bool:
        return False  # a server stops the runs that it drives itself, and no other

    def event_log(self, run_id: str, ring: Callable[[], None]) -> FileEventLog:
        return FileEventLog(self.folder(run_id) / EVENTS_FILE, run_id, ring)

    def event_reader(self, run_id: str, after: int = 0) -> FileEventReader:
        return FileEventReader(self.folder(run_id) / EVENTS_FILE, run_id, after)

    def save_result(self, run_id: str, content: bytes) -> None:
        write_whole(self.folder(run_id) / RESULT_FILE, content)

    def read_result(self, run_id: str) -> bytes | None:
        path = self.folder(run_id) / RESULT_FILE
        with storage_errors(str(path)):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

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
        return sorted((name for name in found if is_run_id(name)), reverse=True)


def clear_folder(folder: Path) -> None:
    """Delete the result and events that an earlier run has left there.

    Raises:
        StorageError: they cannot be deleted.
    """
    for path in (folder / name for name in _RESULTS):
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as exc:
            raise StorageError(
                f"cannot delete {path}: {exc.strerror or exc}", hint="make the data folder writable"
            ) from exc
