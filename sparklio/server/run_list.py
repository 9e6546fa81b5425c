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
from typing import Protocol

from pydantic import BaseModel

from graph.store import Parent, RunRecord, RunStore, Status, root_of
from providers.errors import InputError, SparklioError
from routing.contracts import Mode, Stage

__all__ = [
    "TO_RUN",
    "Kept",
    "Place",
    "RunList",
    "RunLister",
    "RunSummary",
    "Wanted",
    "cursor_of",
    "no_cursor",
    "place_in_list",
    "place_of",
    "run_list",
    "summary_of",
]

log = logging.getLogger(__name__)

_CURSOR = re.compile(r"([0-9a-f]{1,16})-([A-Za-z0-9_.-]{1,60})")
TO_RUN = ("queued", "interrupted")
"""Statuses of runs that somebody is to begin, or to go on with."""

_OWNED = ("running", "interrupted")
_Stamp = tuple[int, int, int]
Place = tuple[int, str]
"""In the list: microseconds since 1970, and the id."""


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
class Wanted:
    """Which runs a list is to hold: those that fit all that is given.

    Attributes:
        product: part of the product's name, in whatever case.
        family: any member of it.
    """

    status: Status | None = None
    mode: Mode | None = None
    product: str = ""
    family: str | None = None

    def __call__(self, run: RunSummary) -> bool:
        return (
            self.status in (None, run.status)
            and self.mode in (None, run.mode)
            and (not self.family or root_of(run.run_id) == root_of(self.family))
            and self.product.casefold() in run.product.casefold()
        )


class RunLister(Protocol):
    def page(self, wanted: Wanted, limit: int, cursor: str | None = None) -> tuple[list[RunSummary], str | None]:
        """At most ``limit`` of the ``wanted`` runs behind ``cursor``, and the cursor of the next page, if there is one.

        Raises:
            InputError: ``cursor`` is none of ours.
        """

    def kept_by(self, keeper: str) -> list[Kept]:
        """The runs that ``keeper`` goes on with, the oldest first; and of late those that have ended."""


def run_list(store: RunStore) -> RunLister:
    """The list of the runs of ``store``, wherever it keeps them."""
    if not store.shared:
        return RunList(store)
    from sparklio.server.run_table_list import table_list

    return table_list(store)


@dataclass(frozen=True)
class _Entry:
    """``stamp`` changes with the record's file."""

    stamp: _Stamp
    place: Place
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
        """As :meth:`RunLister.page`."""
        behind = place_of(cursor) if cursor else None
        found: list[_Entry] = []
        for entry in sorted(self._all(), key=lambda entry: entry.place, reverse=True):
            if (behind is None or entry.place < behind) and wanted(entry.summary):
                found.append(entry)
            if len(found) > limit:
                break
        more = len(found) > limit
        return [entry.summary for entry in found[:limit]], cursor_of(found[limit - 1].place) if more else None

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
    place = place_in_list(record.created_at, record.run_id)
    return _Entry(stamp, place, summary_of(record), record.keeper, record.request)


def place_in_list(created_at: datetime, run_id: str) -> Place:
    return round(created_at.timestamp() * 1_000_000), run_id


def cursor_of(place: Place) -> str:
    return f"{place[0]:x}-{place[1]}"


def place_of(cursor: str) -> Place:
    """Raises InputError where the cursor is none of ours."""
    parts = _CURSOR.fullmatch(cursor)
    if parts is None:
        raise no_cursor(cursor)
    return int(parts[1], 16), parts[2]


def no_cursor(cursor: str) -> InputError:
    return InputError(f"{cursor!r} is no cursor", hint="take next_cursor of the page before, as it is")
