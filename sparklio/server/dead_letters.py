"""Runs that were booked here or for the workers and have failed: nobody goes on with them, unless they are retried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from graph.store import RunRecord, RunStore
from providers.errors import UnknownNameError
from sparklio.server.run_list import Place, RunLister, cursor_of, place_in_list, place_of

__all__ = ["FileLetters", "Letter", "LetterPage", "Letters"]


@dataclass(frozen=True)
class Letter:
    """``deliveries``: how often a worker has begun it; 0 where none was needed."""

    record: RunRecord
    deliveries: int


@dataclass(frozen=True)
class LetterPage:
    """``next_cursor`` leads to the next page; None: there is none."""

    letters: list[Letter]
    next_cursor: str | None


class Letters(Protocol):
    def page(self, limit: int, cursor: str | None = None) -> LetterPage:
        """At most ``limit`` of them behind ``cursor``, the latest first. Takes as long as the disk or database does.

        Raises:
            InputError: ``cursor`` is none of ours.
            StorageError: they cannot be read.
        """


class FileLetters:
    """Those of the runs in a data folder."""

    def __init__(self, store: RunStore, runs: RunLister, keeper: str) -> None:
        self._store, self._runs, self._keeper = store, runs, keeper

    def page(self, limit: int, cursor: str | None = None) -> LetterPage:
        """As :meth:`Letters.page`."""
        behind = place_of(cursor) if cursor else None
        letters: list[Letter] = []
        for kept in reversed(self._runs.kept_by(self._keeper)):
            record = self._failed(kept.run_id) if kept.status == "failed" else None
            if record is not None and (behind is None or _place(record) < behind):
                letters.append(Letter(record, 0))
            if len(letters) > limit:
                return LetterPage(letters[:limit], cursor_of(_place(letters[limit - 1].record)))
        return LetterPage(letters, None)

    def _failed(self, run_id: str) -> RunRecord | None:
        """None where it was retried, or deleted, since it was listed."""
        try:
            record = self._store.read(run_id)
        except UnknownNameError:
            return None
        return record if record.status == "failed" else None


def _place(record: RunRecord) -> Place:
    return place_in_list(record.created_at, record.run_id)
