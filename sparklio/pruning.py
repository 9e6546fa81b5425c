"""``sparklio prune``: deletes old runs whole, then what nobody refers to any more, and says what the data folder holds.

A prune that is broken off leaves each run whole or unseen, and the next one takes away what is left. Nothing outside
the data folder is touched: a result that was written into ``--out`` as well is its owner's.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from graph.database import Database
from graph.ownership import OWNER_FILE
from graph.sqlite import storage_errors, to_its_end
from graph.store import RunRecord, RunStore
from providers.errors import InputError, RunBusyError, SparklioError, StorageError, UsageError
from sparklio.disk_use import Holding, files_in, holdings, readable, size_of
from sparklio.package import images_in
from sparklio.publish import IMAGES, RESULT_FILE
from sparklio.rows import TABLES, Row, image_names, plain, read_rows

__all__ = ["Pruned", "Pruner", "parse_age"]

_AGE = re.compile(r"([0-9]{1,5})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")
_TEMPORARY_AGE = timedelta(hours=1)
_IMAGE_AGE = timedelta(days=1)
_BOOKING = timedelta(minutes=1)
_EXAMPLE_AGE, _EXAMPLE_KEEP = "30d", 20

P = ParamSpec("P")
T = TypeVar("T")


def parse_age(text: str) -> timedelta:
    """``30d``, ``2w``, ``12h`` or ``45m``.

    Raises:
        UsageError: it is none.
    """
    found = _AGE.fullmatch(text)
    if not found:
        raise UsageError(f"{text!r} is no age", hint="a number with m, h, d or w, e.g. 30d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


@dataclass
class Pruned:
    """What a prune did, or would do.

    Attributes:
        runs: ids of the runs that are gone.
        busy: ids of runs that were old enough, but are held by somebody.
        images: how many images nobody referred to.
        leftovers: how many things were left by somebody who was broken off: temporary files, folders and rows
            without a run.
        freed_bytes: what all that took; of a dry run the database's part is estimated.
        notes: what was left undone, and why.
        holds: what the data folder holds now: ``runs``, ``images``, ``database``.
    """

    dry_run: bool
    runs: list[str] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    images: int = 0
    leftovers: int = 0
    freed_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    holds: dict[str, Holding] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Pruner:
    """Prunes one data folder.

    Args:
        home: the data folder.
        images: the folder of the gateway's images in it.
        database: the open database in it.
    """

    def __init__(self, home: Path, images: Path, database: Database) -> None:
        self._home = home
        self._store = RunStore(home)
        self._runs = home / "runs"
        self._images = images
        self._database = database
        self._now = datetime.now(UTC)

    async def prune(
        self,
        *,
        older_than: timedelta | None = None,
        keep: int | None = None,
        unfinished: bool = False,
        dry_run: bool = False,
    ) -> Pruned:
        """Delete the runs that ended longer than ``older_than`` ago and are not among the ``keep`` latest.

        Args:
            older_than: None: of any age.
            keep: None: none is kept for being among the latest.
            unfinished: failed and interrupted runs, too.
            dry_run: delete nothing.

        Raises:
            UsageError: neither ``older_than`` nor ``keep`` is given; the hint says what they would free.
            StorageError: the data folder cannot be read or written.
        """
        if older_than is None and keep is None:
            raise await self._asked_for_nothing()
        if keep is not None and keep < 0:
            raise UsageError(f"{keep} is no number of runs to keep", hint="0 or more, e.g. --keep 20")
        done = Pruned(dry_run)
        with storage_errors(f"the data folder {self._home}"):
            pages_bytes = await self._pages_bytes()
            old = await _aside(self._old, older_than, keep, unfinished=unfinished)
            rows_bytes = await self._delete_runs(old, done)
            await _aside(self._delete_temporary, done)
            rows_bytes += await self._delete_recordless(done)
            await self._delete_images(done)
            if not dry_run:
                await self._vacuum(done)
                rows_bytes = max(0, pages_bytes - await self._pages_bytes())
            done.freed_bytes += rows_bytes
            done.holds = await _aside(holdings, self._home, self._images)
        return done

    async def _asked_for_nothing(self) -> UsageError:
        by_age = await self.prune(older_than=parse_age(_EXAMPLE_AGE), dry_run=True)
        by_number = await self.prune(keep=_EXAMPLE_KEEP, dry_run=True)
        held = sum(part.bytes for part in by_age.holds.values())
        return UsageError(
            f"say which runs may go: there are {by_age.holds['runs'].count}, and the data folder holds "
            f"{readable(held)}",
            hint=f"--older-than {_EXAMPLE_AGE} would delete {len(by_age.runs)} and free "
            f"{readable(by_age.freed_bytes)}, --keep {_EXAMPLE_KEEP} would delete {len(by_number.runs)} and free "
            f"{readable(by_number.freed_bytes)}",
        )

    # runs

    def _old(self, older_than: timedelta | None, keep: int | None, *, unfinished: bool) -> list[RunRecord]:
        """The latest are told by when they were made, whatever became of them."""
        rest = self._store.all()[keep or 0 :]
        return [record for record in rest if self._may_go(record, older_than, unfinished=unfinished)]

    def _may_go(self, record: RunRecord, older_than: timedelta | None, *, unfinished: bool) -> bool:
        if record.status == "running" or (record.status != "finished" and not unfinished):
            return False
        if record.finished_at is None and not self._is_older(self._record_file(record.run_id), _BOOKING):
            return False  # booked, perhaps, and about to begin
        return older_than is None or self._now - self._ended(record) > older_than

    def _ended(self, record: RunRecord) -> datetime:
        """A killed run could not write down when it ended; its record was last written when it began or went on."""
        if record.status == "finished" and record.finished_at is not None:
            return record.finished_at
        written = _modified(self._record_file(record.run_id))
        return written if record.finished_at is None else max(written, record.finished_at)

    async def _delete_runs(self, old: Sequence[RunRecord], done: Pruned) -> int:
        wanted = await _aside(self._needed_by_others, {record.run_id for record in old})
        rows_bytes = 0
        for record in old:
            if done.dry_run:
                done.runs.append(record.run_id)
                rows_bytes += await self._measure(record.run_id, done)
            else:
                await self._delete_run(record, wanted, done)
        return rows_bytes

    async def _delete_run(self, seen: RunRecord, wanted: Collection[str], done: Pruned) -> None:
        """The record goes first: from then on nobody sees the run, and whoever finds the rest may delete it."""
        try:
            with self._store.lock(seen.run_id):
                if self._is_recordless(seen.run_id):  # another prune was faster
                    await self._delete_rest(seen.run_id)
                elif self._store.read(seen.run_id).finished_at == seen.finished_at:  # nobody went on with it meanwhile
                    await _aside(self._save_images, seen.run_id, wanted)
                    await self._measure(seen.run_id, done)
                    done.runs.append(seen.run_id)
                    self._record_file(seen.run_id).unlink()
                    await self._delete_rest(seen.run_id)
        except RunBusyError:
            done.busy.append(seen.run_id)

    async def _delete_rest(self, run_id: str) -> None:
        """Rows and folder. Our lock lies in the folder, so it is moved away first: who makes this run anew meanwhile
        makes a folder of its own."""
        await self._database.forget(run_id)
        folder = self._store.folder(run_id)
        moved = folder.with_name(f".{run_id}.{os.urandom(8).hex()}")
        with suppress(FileNotFoundError):  # another prune was faster
            folder.rename(moved)
        await _aside(_delete_tree, moved)

    def _needed_by_others(self, run_ids: Collection[str]) -> set[str]:
        """Which of these runs' own images stand in the records of other runs."""
        own = _union(set(images_in(self._store.folder(run_id) / IMAGES)) for run_id in run_ids)
        return self._named_in_records(own, exclude=run_ids)

    def _save_images(self, run_id: str, wanted: Collection[str]) -> None:
        """An unfinished rerun may need an image that its parent's folder alone has, where the store was emptied."""
        for path in (self._store.folder(run_id) / IMAGES).glob("[!.]*"):
            if path.stem in wanted and not (self._images / path.name).exists():
                self._images.mkdir(parents=True, exist_ok=True)
                path.rename(self._images / path.name)

    async def _measure(self, run_id: str, done: Pruned) -> int:
        """Book the run's files as freed; returns about how many bytes its rows take."""
        done.freed_bytes += await _aside(self._size_of_folder, run_id)
        size = 0
        for table, columns in TABLES.items():
            lengths = " + ".join(f"coalesce(length(CAST({name} AS BLOB)), 0)" for name in columns)
            sql = f"SELECT coalesce(sum({lengths}), 0) FROM {table} WHERE thread_id = ?"  # noqa: S608  # names of our own
            size += int((await self._database.read(sql, (run_id,)))[0][0])
        return size

    def _size_of_folder(self, run_id: str) -> int:
        """Without the owner's file: that is ours, while we hold the run."""
        return size_of(path for path in files_in(self._store.folder(run_id)) if path.name != OWNER_FILE)

    # what was left

    async def _delete_recordless(self, done: Pruned) -> int:
        """Rows and folders of runs that were broken off while they were made, unpacked or deleted."""
        rows_bytes = 0
        for run_id in await self._recordless():
            try:
                if done.dry_run:
                    rows_bytes += await self._measure(run_id, done)
                    done.leftovers += 1
                else:
                    await self._delete_leftover(run_id, done)
            except RunBusyError:  # it is being made or unpacked at this moment
                continue
        return rows_bytes

    async def _delete_leftover(self, run_id: str, done: Pruned) -> None:
        with self._store.lock(run_id):
            if self._is_recordless(run_id):
                await self._measure(run_id, done)
                await self._delete_rest(run_id)
                done.leftovers += 1

    async def _recordless(self) -> list[str]:
        found = await _aside(self._old_folders)
        for table in TABLES:
            rows = await self._database.read(f"SELECT DISTINCT thread_id FROM {table}")  # noqa: S608  # names of our own
            found |= {row[0] for row in rows}
        return await _aside(lambda: sorted(filter(self._is_recordless, found)))

    def _old_folders(self) -> set[str]:
        return {path.name for path in self._folders() if self._is_older(path, _TEMPORARY_AGE)}

    def _is_recordless(self, run_id: str) -> bool:
        try:
            return not self._record_file(run_id).exists()
        except InputError:  # nothing of ours
            return False

    def _delete_temporary(self, done: Pruned) -> None:
        """What whoever died while writing has left: files, and folders of deleted runs."""
        for path in self._temporary(exclude=done.runs):
            done.freed_bytes += size_of(files_in(path) if path.is_dir() else [path])
            done.leftovers += 1
            if done.dry_run:
                continue
            if path.is_dir() and not path.is_symlink():
                _delete_tree(path)
            else:
                path.unlink(missing_ok=True)

    def _temporary(self, exclude: Collection[str]) -> list[Path]:
        runs = [folder for folder in self._folders() if folder.name not in exclude]
        places = [self._home, self._images, self._runs, *runs, *(folder / IMAGES for folder in runs)]
        found = (path for place in places for path in _listed(place, ".*") if _TEMPORARY.fullmatch(path.name))
        return [path for path in found if self._is_older(path, _TEMPORARY_AGE)]

    # images

    async def _delete_images(self, done: Pruned) -> None:
        """Those that no run names. A young one may be a run's that has not written it down yet."""
        try:
            stored = await _aside(images_in, self._images)
            wanted = await _aside(self._named_in_records, stored, exclude=done.runs)
            wanted |= await self._named_in_rows(stored, exclude=done.runs)
        except SparklioError as exc:
            done.notes.append(f"no image was deleted, for some run cannot be asked which ones it needs: {exc}")
            return
        await _aside(self._delete_unwanted, [path for name, path in stored.items() if name not in wanted], done)

    def _delete_unwanted(self, images: Iterable[Path], done: Pruned) -> None:
        for path in images:
            if not self._is_older(path, _IMAGE_AGE):
                continue
            done.freed_bytes += size_of([path])
            done.images += 1
            if not done.dry_run:
                path.unlink(missing_ok=True)

    def _named_in_records(self, known: Collection[str], exclude: Collection[str]) -> set[str]:
        """Which ``known`` images all runs' records and results name; read as bytes, for a damaged one counts, too."""
        folders = (folder for folder in self._folders() if folder.name not in exclude)
        paths = [folder / name for folder in folders for name in ("run.json", RESULT_FILE)]
        return _union(image_names(path.read_bytes(), known) for path in paths if path.exists())

    async def _named_in_rows(self, known: Collection[str], exclude: Collection[str]) -> set[str]:
        """An unfinished run may name an image in its state alone."""
        names: set[str] = set()
        for run_id in await _aside(self._unfinished, exclude):
            for table in TABLES:
                rows = await read_rows(self._database, table, run_id)
                names |= await _aside(self._named_in, known, table, rows)
        return names

    def _named_in(self, known: Collection[str], table: str, rows: Iterable[Row]) -> set[str]:
        return _union(image_names(plain(self._database, table, row), known) for row in rows)

    def _unfinished(self, exclude: Collection[str]) -> list[str]:
        """Also those whose record cannot be read."""
        finished = {record.run_id for record in self._store.all() if record.status == "finished"}
        return [folder.name for folder in self._folders() if folder.name not in {*exclude, *finished}]

    # the database

    async def _vacuum(self, done: Pruned) -> None:
        """Give free pages back to the disk. Somebody who writes, or a full disk, is no failure: the runs are gone."""
        [(free,)] = await self._database.read("PRAGMA freelist_count")
        needed = 2 * await self._pages_bytes()
        if free and shutil.disk_usage(self._home).free < needed:
            done.notes.append(f"the database keeps its size: to shrink it the disk needs {readable(needed)}")
            return
        try:
            if free:
                await self._database.read("VACUUM")
            await self._database.read("PRAGMA wal_checkpoint(TRUNCATE)")
        except StorageError as exc:
            done.notes.append(f"the database keeps its size: {exc}")

    async def _pages_bytes(self) -> int:
        """The size of the database, wherever its pages lie at the moment."""
        [(pages,)] = await self._database.read("PRAGMA page_count")
        [(size,)] = await self._database.read("PRAGMA page_size")
        return int(pages) * int(size)

    def _folders(self) -> list[Path]:
        return [path for path in _listed(self._runs, "[!.]*") if path.is_dir() and not path.is_symlink()]

    def _record_file(self, run_id: str) -> Path:
        return self._store.folder(run_id) / "run.json"

    def _is_older(self, path: Path, age: timedelta) -> bool:
        """Not what is gone meanwhile."""
        with suppress(FileNotFoundError):
            return path.is_symlink() or self._now - _modified(path) > age
        return False


async def _aside(work: Callable[P, T], *words: P.args, **named: P.kwargs) -> T:
    """In a thread, for the event loop has others to serve; who is cancelled waits for it, and so keeps the lock."""
    return await to_its_end(asyncio.to_thread(work, *words, **named))


def _listed(folder: Path, pattern: str) -> list[Path]:
    with suppress(FileNotFoundError):  # a folder that somebody removes meanwhile
        return list(folder.glob(pattern))
    return []


def _delete_tree(folder: Path) -> None:
    """Until nothing is left, for others may be deleting it as well: what one has taken, the other does not find."""
    while folder.exists():
        with suppress(FileNotFoundError):
            shutil.rmtree(folder)


def _modified(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _union(sets: Iterable[set[str]]) -> set[str]:
    return set().union(*sets)
