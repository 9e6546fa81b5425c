"""Runs as ``sparklio prune`` works on them: which there are, what they take and name, and how one goes.

They are those of one data folder, or those that several machines have in one database, with what of them lies here.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from graph.database import Database
from graph.ownership import OWNER_FILE
from graph.run_files import FileRunStore
from graph.sqlite import to_its_end
from graph.store import RunRecord, RunStore
from providers.errors import ConfigError, InputError, StorageError
from routing.image_store import ImageStore, PageStore
from sparklio.disk_use import Holding, files_in, size_of
from sparklio.publish import RESULT_FILE
from sparklio.rows import image_names

__all__ = [
    "DataFolder",
    "Pruned",
    "SharedRuns",
    "Stored",
    "aside",
    "data_folder",
    "delete_tree",
    "listed",
    "modified",
    "union",
]

_LONG_AGO = datetime.min.replace(tzinfo=UTC)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass
class Pruned:
    """What a prune did, or would do.

    Attributes:
        runs: ids of the runs that are gone.
        busy: ids of runs that were old enough, but are held by somebody.
        images: how many images nobody referred to; ``pages``: the same of pages.
        leftovers: how many things were left by somebody who was broken off: temporary files, folders and rows
            without a run.
        freed_bytes: what all that took; of a dry run the database's part is estimated.
        notes: what was left undone, and why.
        holds: what the data folder holds now: ``runs``, ``images``, ``pages``, ``server`` (jobs, kept answers),
            ``database``.
    """

    dry_run: bool
    runs: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    images: int = 0
    pages: int = 0
    leftovers: int = 0
    freed_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    holds: dict[str, Holding] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Stored:
    """One copy of an image or page; ``size`` in bytes."""

    size: int
    modified: datetime
    delete: Callable[[], None]

    @classmethod
    def here(cls, path: Path) -> Stored:
        """Raises FileNotFoundError; a link is nothing that anybody needs."""
        made = _LONG_AGO if path.is_symlink() else modified(path)
        return cls(size_of([path]), made, lambda: path.unlink(missing_ok=True))


class DataFolder:
    """One data folder, at the moment at which the prune begins; :func:`data_folder` makes the right one.

    Args:
        home: the data folder.
        store: its runs.
        images: the gateway's images.
        database: the open database.
    """

    def __init__(self, home: Path, store: RunStore, images: ImageStore, database: Database) -> None:
        self.home = home
        self.runs = home / "runs"
        self.store = store
        self.images = images
        self.pages = PageStore.of(images)
        self.database = database
        self.now = datetime.now(UTC)

    @property
    def has_all_runs(self) -> bool:
        """Whether no run that names an image or page in the stores' folders is unknown here."""
        return self.images.folder.parent == self.home

    def folders(self) -> list[Path]:
        """Those of runs, with a record or without."""
        return [path for path in listed(self.runs, "[!.]*") if path.is_dir() and not path.is_symlink()]

    def is_recordless(self, run_id: str) -> bool:
        try:
            return not self.store.exists(run_id)
        except InputError:  # nothing of ours
            return False

    def is_older(self, path: Path, age: timedelta) -> bool:
        """Not what is gone meanwhile."""
        with suppress(FileNotFoundError):
            return path.is_symlink() or self.now - modified(path) > age
        return False

    def written_at(self, record: RunRecord) -> datetime | None:
        """When the record was last written; None: it is gone meanwhile."""
        with suppress(FileNotFoundError):
            return modified(self._record_file(record.run_id))
        return None

    def unfinished(self) -> list[str]:
        """Also those whose record cannot be read."""
        finished = {record.run_id for record in self.store.all() if record.status == "finished"}
        return [folder.name for folder in self.folders() if folder.name not in finished]

    def stored(self, store: ImageStore | PageStore) -> dict[str, list[Stored]]:
        """What may be deleted of a store, by the ids."""
        found: dict[str, list[Stored]] = {}
        for name, path in store.files().items():
            with suppress(FileNotFoundError):  # gone meanwhile
                found[name] = [Stored.here(path)]
        return found

    def named_in_records(self, known: Collection[str], exclude: Collection[str]) -> set[str]:
        """Which ``known`` images and pages the records and results of all runs name, but for those of ``exclude``."""
        return union(image_names(content, known) for content in self._written(exclude)) if known else set()

    def _written(self, exclude: Collection[str]) -> Iterator[bytes]:
        """Records and results as bytes, for a damaged one counts, too."""
        folders = (folder for folder in self.folders() if folder.name not in exclude)
        paths = [folder / name for folder in folders for name in ("run.json", RESULT_FILE)]
        return (path.read_bytes() for path in paths if path.exists())

    async def measure(self, run_id: str, done: Pruned) -> int:
        """Book the run's files as freed; returns about how many bytes its rows take."""
        done.freed_bytes += await aside(self._size_of_folder, run_id)
        return await self.database.measure(run_id)

    def _size_of_folder(self, run_id: str) -> int:
        """Without the owner's file: that is ours, while we hold the run."""
        return size_of(path for path in files_in(self.store.folder(run_id)) if path.name != OWNER_FILE)

    async def delete_run(self, run_id: str) -> None:
        """The record goes first: from then on nobody sees the run, and whoever finds the rest may delete it."""
        self._record_file(run_id).unlink()
        await self.delete_rest(run_id)

    async def delete_rest(self, run_id: str) -> None:
        """Rows and folder. Our lock lies in the folder, so it is moved away first: who makes this run anew meanwhile
        makes a folder of its own."""
        await self.database.forget(run_id)
        folder = self.store.folder(run_id)
        moved = folder.with_name(f".{run_id}.{os.urandom(8).hex()}")
        with suppress(FileNotFoundError):  # another prune was faster
            folder.rename(moved)
        await aside(delete_tree, moved)

    async def recordless(self, folders: Collection[str]) -> list[str]:
        """Ids of runs without a record that have one of these folders, or rows."""
        found = {*folders, *await self.database.run_ids()}
        return await aside(lambda: sorted(filter(self.is_recordless, found)))

    async def delete_recordless(self, run_id: str, done: Pruned) -> None:
        with self.store.lock(run_id):
            if self.is_recordless(run_id):
                await self.measure(run_id, done)
                await self.delete_rest(run_id)
                done.leftovers += 1

    async def with_what_is_elsewhere(self, held: dict[str, Holding]) -> dict[str, Holding]:
        """``held`` by the data folder, and what of the runs lies elsewhere."""
        return held

    def _record_file(self, run_id: str) -> Path:
        return self.store.folder(run_id) / "run.json"


class SharedRuns(DataFolder):
    """Runs in a database that several machines have, and what of them lies in this one's data folder."""

    @property
    def has_all_runs(self) -> bool:
        return True

    def written_at(self, record: RunRecord) -> datetime | None:
        """The latest time that it tells of itself."""
        return record.finished_at or record.created_at

    def unfinished(self) -> list[str]:
        return [record.run_id for record in self.store.all() if record.status != "finished"]

    def stored(self, store: ImageStore | PageStore) -> dict[str, list[Stored]]:
        """On the far side as well."""
        found = super().stored(store)
        for name, far in store.far_files():
            delete = partial(store.delete_far, far)
            found.setdefault(name, []).append(Stored(far.size, far.modified, delete))
        return found

    def _written(self, exclude: Collection[str]) -> Iterator[bytes]:
        for record in self.store.all():
            if record.run_id not in exclude:
                yield record.model_dump_json().encode()
                yield self.store.read_result(record.run_id) or b""

    async def delete_run(self, run_id: str) -> None:
        """The record goes last: what is broken off is still seen, and the next prune takes it."""
        await self.delete_rest(run_id)
        await aside(self.store.clear, run_id)
        await aside(self.store.discard, run_id)
        if await aside(self.store.exists, run_id):
            raise StorageError(f"the record of run {run_id!r} was not deleted", hint="prune again")

    async def recordless(self, folders: Collection[str]) -> list[str]:
        """Rows are never without a record for long: who deletes a run deletes that last."""
        return await aside(lambda: sorted(filter(self.is_recordless, folders)))

    async def delete_recordless(self, run_id: str, done: Pruned) -> None:
        """Copies of a run that another machine has deleted; nobody can hold what is no run."""
        done.freed_bytes += await aside(self._size_of_folder, run_id)
        await aside(delete_tree, self.store.folder(run_id))
        done.leftovers += 1

    async def with_what_is_elsewhere(self, held: dict[str, Holding]) -> dict[str, Holding]:
        """All runs, of whose files those here are told; and the database."""
        runs = Holding(len(await aside(self.store.all)), held["runs"].bytes)
        return held | {"runs": runs, "database": Holding(1, await self.database.size())}


def data_folder(home: Path, images: ImageStore | Path, database: Database, store: RunStore | None) -> DataFolder:
    """Of the kind that the store of runs, by default that in the data folder, wants.

    Raises:
        ConfigError: the database holds runs that the store does not know.
    """
    store = store or FileRunStore(home)
    if store.shared == database.is_file:
        raise ConfigError("the runs and their database do not belong together", hint="prune with the studio's own")
    kind = SharedRuns if store.shared else DataFolder
    return kind(home, store, ImageStore(images) if isinstance(images, Path) else images, database)


async def aside(work: Callable[P, T], *words: P.args, **named: P.kwargs) -> T:
    """In a thread, for the event loop has others to serve; who is cancelled waits for it, and so keeps the lock."""
    return await to_its_end(asyncio.to_thread(work, *words, **named))


def listed(folder: Path, pattern: str) -> list[Path]:
    with suppress(FileNotFoundError):  # a folder that somebody removes meanwhile
        return list(folder.glob(pattern))
    return []


def delete_tree(folder: Path) -> None:
    """Until nothing is left, for others may be deleting it as well: what one has taken, the other does not find."""
    while folder.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def union(sets: Iterable[set[str]]) -> set[str]:
    return set().union(*sets)
