"""What ``sparklio prune`` takes beside old runs: what was left half done, and images and pages that no run names."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from datetime import timedelta
from itertools import chain
from pathlib import Path

from filelock import FileLock, Timeout

from providers.errors import RunBusyError, SparklioError
from sparklio.data_folder import DataFolder, Pruned, Stored, aside, delete_tree, listed, union
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
        for run_id in await self._place.recordless(await aside(self._old_folders)):
            try:
                if self._done.dry_run:
                    rows_bytes += await self._place.measure(run_id, self._done)
                    self._done.leftovers += 1
                else:
                    await self._place.delete_recordless(run_id, self._done)
            except RunBusyError:  # it is being made or unpacked at this moment
                continue
        return rows_bytes

    def _old_folders(self) -> set[str]:
        return {path.name for path in self._place.folders() if self._place.is_older(path, _TEMPORARY_AGE)}

    # images and pages

    async def delete_unnamed(self) -> None:
        """The images and pages that no run names. A young one may be a run's that has not written it down yet."""
        place = self._place
        if not place.has_all_runs:
            self._done.notes.append("no shared image or page was deleted: runs of other machines may need it")
            return
        images, pages = await aside(place.stored, place.images), await aside(place.stored, place.pages)
        named = await aside(place.named_in_records, images.keys() | pages.keys(), exclude=self._done.runs)
        self._done.pages += await aside(self._delete_old, [pages[name] for name in pages.keys() - named])
        try:
            named |= await self._named_in_rows(images)
        except SparklioError as exc:
            self._done.notes.append(f"no image was deleted, for some run cannot be asked which ones it needs: {exc}")
            return
        self._done.images += await aside(self._delete_old, [images[name] for name in images.keys() - named])

    def _delete_old(self, unnamed: Iterable[list[Stored]]) -> int:
        """How many of them went; one that is young somewhere stays everywhere."""
        old = [every for every in unnamed if all(self._place.now - one.modified > _UNNAMED_AGE for one in every)]
        for one in chain.from_iterable(old):
            self._done.freed_bytes += one.size
            if not self._done.dry_run:
                one.delete()
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
        return [run_id for run_id in self._place.unfinished() if run_id not in self._done.runs]


def _is_held(path: Path) -> bool:
    """By a living server; each makes a lock of its own at its start, so nobody will ask for a dead one's again."""
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True
