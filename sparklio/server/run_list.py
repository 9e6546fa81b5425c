"""The list of all runs, for who asks for it again and again: a record is read once, and again when it has changed."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from pydantic import BaseModel

from graph.store import Parent, RunRecord, RunStore, Status
from providers.errors import InputError, SparklioError
from routing.contracts import Mode, Stage

__all__ = ["TO_RUN", "Kept", "RunList", "RunSummary", "summary_of"]

log = logging.getLogger(__name__)

_CURSOR = re.compile(r"([0-9a-f]{1,16})-([A-Za-z0-9_.-]{1,60})")
TO_RUN = ("queued", "interrupted")
"""Statuses of runs that somebody is to begin, or to go on with."""

_OWNED = ("running", "interrupted")
_Stamp = tuple[int, int, int]
_Place = tuple[int, str]


class RunSummary(BaseModel):
    """What lists tell of a run; ``parent`` is of a rerun. Times are UTC."""

    run_id: str
    status: Status
    mode: Mode
    stage: Stage
    product: str
    created_at: datetime
    finished_at: datetime | None
    parent: Parent | None


@dataclass(frozen=True)
class Kept:
    """A run that somebody keeps; ``request`` is as in :class:`RunRecord`."""

    run_id: str
    status: Status
    mode: Mode
    request: str | None


@dataclass(frozen=True)
class _Entry:
    """``stamp`` changes with the record's file; ``place`` is that in the list: microseconds since 1970, and the id."""

    stamp: _Stamp
    place: _Place
    summary: RunSummary
    keeper: str | None
    request: str | None


class RunList:
    """All runs of a store, the latest first. Any thread may ask; the first to do so reads every record."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._entries: dict[str, _Entry] = {}
        self._guard = threading.Lock()

    def page(
        self, wanted: Callable[[RunSummary], bool], limit: int, cursor: str | None = None
    ) -> tuple[list[RunSummary], str | None]:
        """At most ``limit`` of the ``wanted`` runs behind ``cursor``, and the cursor of the next page, if there is one.

        Raises:
            InputError: ``cursor`` is none of ours.
        """
        behind = _place_of(cursor) if cursor else None
        found: list[_Entry] = []
        for entry in sorted(self._all(), key=lambda entry: entry.place, reverse=True):
            if (behind is None or entry.place < behind) and wanted(entry.summary):
                found.append(entry)
            if len(found) > limit:
                break
        more = len(found) > limit
        return [entry.summary for entry in found[:limit]], _cursor(found[limit - 1].place) if more else None

    def kept_by(self, keeper: str) -> list[Kept]:
        """The runs that ``keeper`` goes on with, the oldest first."""
        entries = sorted(self._all(), key=lambda entry: entry.place)
        return [
            Kept(entry.summary.run_id, entry.summary.status, entry.summary.mode, entry.request)
            for entry in entries
            if entry.keeper == keeper
        ]

    def _all(self) -> list[_Entry]:
        with self._guard:
            self._entries = dict(self._up_to_date())
            return list(self._entries.values())

    def _up_to_date(self) -> Iterator[tuple[str, _Entry]]:
        """One damaged record must not hide the others."""
        for run_id, stamp in self._stamps():
            known = self._entries.get(run_id)
            try:
                # whether a run's owner lives, its record does not tell
                if known is None or known.stamp != stamp or known.summary.status in _OWNED:
                    known = _entry(self._store.load(run_id), stamp)
            except SparklioError as exc:
                log.debug("%s", exc)
            else:
                yield run_id, known

    def _stamps(self) -> Iterator[tuple[str, _Stamp]]:
        """Of each record's file. By names and not by Paths, which would take three times as long."""
        folder = str(self._store.folder("any").parent)
        with suppress(FileNotFoundError):  # before the first run
            for name in os.listdir(folder):  # noqa: PTH208
                with suppress(FileNotFoundError, NotADirectoryError):  # of no run
                    found = os.stat(f"{folder}/{name}/run.json")  # noqa: PTH116
                    yield name, (found.st_ino, found.st_mtime_ns, found.st_size)


def summary_of(record: RunRecord) -> RunSummary:
    return RunSummary.model_validate(record, from_attributes=True)


def _entry(record: RunRecord, stamp: _Stamp) -> _Entry:
    place = round(record.created_at.timestamp() * 1_000_000), record.run_id
    return _Entry(stamp, place, summary_of(record), record.keeper, record.request)


def _cursor(place: _Place) -> str:
    return f"{place[0]:x}-{place[1]}"


def _place_of(cursor: str) -> _Place:
    parts = _CURSOR.fullmatch(cursor)
    if parts is None:
        raise InputError(f"{cursor!r} is no cursor", hint="take next_cursor of the page before, as it is")
    return int(parts[1], 16), parts[2]
