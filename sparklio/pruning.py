"""``sparklio prune``: deletes old runs whole, then what nobody refers to any more, and says what the data folder holds.

A prune that is broken off leaves each run whole or unseen, and the next one takes away what is left. Nothing outside
the data folder is touched: a result that was written into ``--out`` as well is its owner's.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from graph.database import Database
from graph.sqlite import storage_errors
from graph.store import RunRecord, RunStore
from providers.errors import RunBusyError, StorageError, UnknownNameError, UsageError
from routing.image_store import ImageStore
from sparklio.data_folder import Pruned, aside, data_folder, union
from sparklio.disk_use import holdings, readable
from sparklio.leftovers import Leftovers
from sparklio.publish import IMAGES

__all__ = ["Pruned", "Pruner", "parse_age"]

_AGE = re.compile(r"([0-9]{1,5})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_BOOKING = timedelta(minutes=1)
_EXAMPLE_AGE, _EXAMPLE_KEEP = "30d", 20


def parse_age(text: str) -> timedelta:
    """``30d``, ``2w``, ``12h`` or ``45m``.

    Raises:
        UsageError: it is none.
    """
    found = _AGE.fullmatch(text)
    if not found:
        raise UsageError(f"{text!r} is no age", hint="a number with m, h, d or w, e.g. 30d")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


class Pruner:
    """Prunes one data folder, or the runs that several machines share with what of them lies in this one's.

    Args:
        home: the data folder.
        images: the gateway's images, or their folder in the data folder.
        database: the open database.
        store: the runs; None: those in the data folder.
    """

    def __init__(
        self, home: Path, images: ImageStore | Path, database: Database, store: RunStore | None = None
    ) -> None:
        self._place = data_folder(home, images, database, store)
        self._store = self._place.store
        self._database = database

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
            unfinished: failed, interrupted and cancelled runs, too.
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
        with storage_errors(f"the data folder {self._place.home}"):
            before = await self._database.size()
            old = await aside(self._old, older_than, keep, unfinished=unfinished)
            rows_bytes = await self._delete_runs(old, done)
            left = Leftovers(self._place, done)
            await aside(left.delete_temporary)
            rows_bytes += await left.delete_recordless()
            await left.delete_unnamed()
            if not dry_run and self._database.is_file:
                await self._vacuum(done)
                rows_bytes = max(0, before - await self._database.size())
            done.freed_bytes += rows_bytes
            held = await aside(holdings, self._place.home, self._place.images.folder, self._place.pages.folder)
            done.holds = await self._place.with_what_is_elsewhere(held)
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
        if record.status in ("queued", "running") or (record.status != "finished" and not unfinished):
            return False
        if record.finished_at is None and not self._was_begun(record):
            return False
        return older_than is None or self._place.now - self._ended(record) > older_than

    def _was_begun(self, record: RunRecord) -> bool:
        """Else it is booked, perhaps, and about to begin."""
        written = self._place.written_at(record)
        return written is not None and self._place.now - written > _BOOKING

    def _ended(self, record: RunRecord) -> datetime:
        """A killed run could not write down when it ended; its record was last written when it began or went on."""
        if record.status == "finished" and record.finished_at is not None:
            return record.finished_at
        written = self._place.written_at(record) or record.created_at
        return written if record.finished_at is None else max(written, record.finished_at)

    async def _delete_runs(self, old: Sequence[RunRecord], done: Pruned) -> int:
        wanted = await aside(self._needed_by_others, {record.run_id for record in old})
        rows_bytes = 0
        for record in old:
            if done.dry_run:
                done.runs.append(record.run_id)
                rows_bytes += await self._place.measure(record.run_id, done)
            else:
                await self._delete_run(record, wanted, done)
        return rows_bytes

    async def _delete_run(self, seen: RunRecord, wanted: Collection[str], done: Pruned) -> None:
        try:
            with self._store.lock(seen.run_id):
                if self._place.is_recordless(seen.run_id):  # another prune was faster
                    await self._place.delete_rest(seen.run_id)
                elif self._is_as_seen(seen):
                    await aside(self._save_images, seen.run_id, wanted)
                    await self._place.measure(seen.run_id, done)
                    done.runs.append(seen.run_id)
                    await self._place.delete_run(seen.run_id)
        except RunBusyError:
            done.busy.append(seen.run_id)
        except UnknownNameError:  # another prune was faster, where who is gone cannot be held
            return

    def _is_as_seen(self, seen: RunRecord) -> bool:
        """Nobody went on with it meanwhile, or booked that."""
        found = self._store.read(seen.run_id)
        return found.finished_at == seen.finished_at and found.status != "queued"

    def _needed_by_others(self, run_ids: Collection[str]) -> set[str]:
        """Which of these runs' own images stand in the records of other runs."""
        own = union(set(ImageStore(self._store.folder(run_id) / IMAGES).files()) for run_id in run_ids)
        return self._place.named_in_records(own, exclude=run_ids)

    def _save_images(self, run_id: str, wanted: Collection[str]) -> None:
        """An unfinished rerun may need an image that its parent's folder alone has, where the store was emptied."""
        kept = self._place.images.folder
        for path in (self._store.folder(run_id) / IMAGES).glob("[!.]*"):
            if path.stem in wanted and not (kept / path.name).exists():
                kept.mkdir(parents=True, exist_ok=True)
                path.rename(kept / path.name)

    # the database

    async def _vacuum(self, done: Pruned) -> None:
        """Give free pages back to the disk. Somebody who writes, or a full disk, is no failure: the runs are gone."""
        [(free,)] = await self._database.read("PRAGMA freelist_count")
        needed = 2 * await self._database.size()
        if free and shutil.disk_usage(self._place.home).free < needed:
            done.notes.append(f"the database keeps its size: to shrink it the disk needs {readable(needed)}")
            return
        try:
            if free:
                await self._database.read("VACUUM")
            await self._database.read("PRAGMA wal_checkpoint(TRUNCATE)")
        except StorageError as exc:
            done.notes.append(f"the database keeps its size: {exc}")
