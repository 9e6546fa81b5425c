"""What ``sparklio prune`` takes beside old runs: what was left half done, and images and pages that no run names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import timedelta
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout

from providers.errors import RunBusyError, SparklioError
from sparklio.data_folder import DataFolder, Pruned, aside, delete_tree, listed, union
from sparklio.disk_use import REQUEST_LOCKS, files_in, size_of
from sparklio.publish import IMAGES
from sparklio.rows import TABLES, Row, image_names, plain, read_rows

__all__ = ["Leftovers"]

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")
_TEMPORARY_AGE = timedelta(hours=1)
_UNNAMED_AGE = timedelta(days=1)


class Leftovers:
    """What is left in a data folder once the runs ``done.runs`` are gone; each method books in ``done`` what it took.

    Args:
        place: the data folder.
        done: the prune so far; where it is a dry run nothing is deleted.
    """

    def __init__(self, place: DataFolder, done: Pruned) -> None:
        self._place = place
        self._done = done

    def delete_temporary(self) -> None:
        """What whoever died has left: files half written, folders of deleted runs, locks of servers."""
        for path in self._temporary():
            self._done.freed_bytes += size_of(files_in(path) if path.is_dir() else [path])
            self._done.leftovers += 1
            if self._done.dry_run:
                continue
            if path.is_dir() and not path.is_symlink():
                delete_tree(path)
            else:
                path.unlink(missing_ok=True)

    def _temporary(self) -> list[Path]:
        place = self._place
        runs = [folder for folder in place.folders() if folder.name not in self._done.runs]
        stores = (place.images.folder, place.pages.folder)
        locks = (path for path in listed(place.home, REQUEST_LOCKS) if not _is_held(path))
        folders = [place.home, *stores, place.runs, *runs, *(folder / IMAGES for folder in runs)]
        found = (path for folder in folders for path in listed(folder, ".*") if _TEMPORARY.fullmatch(path.name))
        return [path for path in chain(found, locks) if place.is_older(path, _TEMPORARY_AGE)]

    # rows and folders

    async def delete_recordless(self) -> int:
        """Rows and folders of runs that were broken off while they were made, unpacked or deleted.

        Returns about how many bytes of rows a dry run would delete.
        """
        rows_bytes = 0
        for run_id in await self._recordless():
            try:
                if self._done.dry_run:
                    rows_bytes += await self._place.measure(run_id, self._done)
                    self._done.leftovers += 1
                else:
                    await self._delete_leftover(run_id)
            except RunBusyError:  # it is being made or unpacked at this moment
                continue
        return rows_bytes

    async def _delete_leftover(self, run_id: str) -> None:
        with self._place.store.lock(run_id):
            if self._place.is_recordless(run_id):
                await self._place.measure(run_id, self._done)
                await self._place.delete_rest(run_id)
                self._done.leftovers += 1

    async def _recordless(self) -> list[str]:
        found = await aside(self._old_folders)
        for table in TABLES:
            rows = await self._place.database.read(f"SELECT DISTINCT thread_id FROM {table}")  # noqa: S608  # our own names
            found |= {row[0] for row in rows}
        return await aside(lambda: sorted(filter(self._place.is_recordless, found)))

    def _old_folders(self) -> set[str]:
        return {path.name for path in self._place.folders() if self._place.is_older(path, _TEMPORARY_AGE)}

    # images and pages

    async def delete_unnamed(self) -> None:
        """The images and pages that no run names. A young one may be a run's that has not written it down yet."""
        images, pages = await aside(self._place.images.files), await aside(self._place.pages.files)
        named = await aside(self._place.named_in_records, images.keys() | pages.keys(), exclude=self._done.runs)
        self._done.pages += await aside(self._delete_old, [pages[name] for name in pages.keys() - named])
        try:
            named |= await self._named_in_rows(images)
        except SparklioError as exc:
            self._done.notes.append(f"no image was deleted, for some run cannot be asked which ones it needs: {exc}")
            return
        self._done.images += await aside(self._delete_old, [images[name] for name in images.keys() - named])

    def _delete_old(self, unnamed: Iterable[Path]) -> int:
        """How many of the files went."""
        old = [path for path in unnamed if self._place.is_older(path, _UNNAMED_AGE)]
        for path in old:
            self._done.freed_bytes += size_of([path])
            if not self._done.dry_run:
                path.unlink(missing_ok=True)
        return len(old)

    async def _named_in_rows(self, known: Collection[str]) -> set[str]:
        """An unfinished run may name an image in its state alone."""
        names: set[str] = set()
        for run_id in await aside(self._unfinished):
            for table in TABLES:
                rows = await read_rows(self._place.database, table, run_id)
                names |= await aside(self._named_in, known, table, rows)
        return names

    def _named_in(self, known: Collection[str], table: str, rows: Iterable[Row]) -> set[str]:
        return union(image_names(plain(self._place.database, table, row), known) for row in rows)

    def _unfinished(self) -> list[str]:
        """Also those whose record cannot be read."""
        finished = {record.run_id for record in self._place.store.all() if record.status == "finished"}
        return [folder.name for folder in self._place.folders() if folder.name not in {*self._done.runs, *finished}]


def _is_held(path: Path) -> bool:
    """By a living server; each makes a lock of its own at its start, so nobody will ask for a dead one's again."""
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True
