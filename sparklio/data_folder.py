"""A data folder as ``sparklio prune`` works on it: which runs lie there, what they take and name, and how one goes."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from graph.database import Database
from graph.ownership import OWNER_FILE
from graph.run_files import FileRunStore
from graph.sqlite import to_its_end
from providers.errors import InputError
from routing.image_store import ImageStore, PageStore
from sparklio.disk_use import Holding, files_in, size_of
from sparklio.publish import RESULT_FILE
from sparklio.rows import TABLES, image_names

__all__ = ["DataFolder", "Pruned", "aside", "delete_tree", "listed", "modified", "union"]

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


class DataFolder:
    """One data folder, at the moment at which the prune begins.

    Args:
        home: the data folder.
        images: the folder of the gateway's images in it.
        database: the open database in it.
    """

    def __init__(self, home: Path, images: Path, database: Database) -> None:
        self.home = home
        self.runs = home / "runs"
        self.store = FileRunStore(home)
        self.images = ImageStore(images)
        self.pages = PageStore.beside(images)
        self.database = database
        self.now = datetime.now(UTC)

    def folders(self) -> list[Path]:
        """Those of runs, with a record or without."""
        return [path for path in listed(self.runs, "[!.]*") if path.is_dir() and not path.is_symlink()]

    def record_file(self, run_id: str) -> Path:
        return self.store.folder(run_id) / "run.json"

    def is_recordless(self, run_id: str) -> bool:
        try:
            return not self.record_file(run_id).exists()
        except InputError:  # nothing of ours
            return False

    def is_older(self, path: Path, age: timedelta) -> bool:
        """Not what is gone meanwhile."""
        with suppress(FileNotFoundError):
            return path.is_symlink() or self.now - modified(path) > age
        return False

    def named_in_records(self, known: Collection[str], exclude: Collection[str]) -> set[str]:
        """Which ``known`` images and pages all runs' records and results name, but for those of the runs ``exclude``.

        Read as bytes, for a damaged one counts, too.
        """
        folders = (folder for folder in self.folders() if folder.name not in exclude)
        paths = [folder / name for folder in folders for name in ("run.json", RESULT_FILE)]
        return union(image_names(path.read_bytes(), known) for path in paths if path.exists())

    async def measure(self, run_id: str, done: Pruned) -> int:
        """Book the run's files as freed; returns about how many bytes its rows take."""
        done.freed_bytes += await aside(self._size_of_folder, run_id)
        size = 0
        for table, columns in TABLES.items():
            lengths = " + ".join(f"coalesce(length(CAST({name} AS BLOB)), 0)" for name in columns)
            sql = f"SELECT coalesce(sum({lengths}), 0) FROM {table} WHERE thread_id = ?"  # noqa: S608  # names of our own
            size += int((await self.database.read(sql, (run_id,)))[0][0])
        return size

    def _size_of_folder(self, run_id: str) -> int:
        """Without the owner's file: that is ours, while we hold the run."""
        return size_of(path for path in files_in(self.store.folder(run_id)) if path.name != OWNER_FILE)

    async def delete_rest(self, run_id: str) -> None:
        """Rows and folder. Our lock lies in the folder, so it is moved away first: who makes this run anew meanwhile
        makes a folder of its own."""
        await self.database.forget(run_id)
        folder = self.store.folder(run_id)
        moved = folder.with_name(f".{run_id}.{os.urandom(8).hex()}")
        with suppress(FileNotFoundError):  # another prune was faster
            folder.rename(moved)
        await aside(delete_tree, moved)


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
