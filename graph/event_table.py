"""A run's events in PostgreSQL: some at a time, compressed, and before that live in Redis where there is one.

Redis may forget them, and the table lacks the latest; together they hold all. What follows the last that a reader has
is read from Redis, and where that has a gap, from the table; a gap in both is of events that are still being written.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Self

import psycopg

from graph.event_log import event_of, line_of
from graph.event_stream import Begun, EventStream
from graph.events import Event
from graph.postgres import SyncPool, execute, masked, patient, postgres_errors, rows_of
from providers.errors import StorageError

__all__ = ["TableEventLog", "TableEventReader"]

log = logging.getLogger(__name__)

_FREQUENT = ("token", "image_progress")
_LAST = ("run_finished", "run_failed")
_WAITING = 50
_WAITING_S = 0.5  # where nobody can hear of them otherwise
_MOST_WAITING = 5_000
_LEAP = 10_000  # more than an earlier session can have told and not written down
_PAUSE_S = 2.0
_LIVE_AT_ONCE, _ROWS_AT_ONCE = 500, 20
_UNKNOWN = "?"

_BEFORE = """
SELECT told_by, (SELECT max(last_seq) FROM events WHERE run_id = %(run_id)s) FROM runs WHERE run_id = %(run_id)s
"""
_TELL = (
    "UPDATE runs SET told_by = %(told_by)s WHERE run_id = %(run_id)s AND (%(owner)s::text IS NULL OR owner = %(owner)s)"
)
_ARCHIVE = """
INSERT INTO events (run_id, first_seq, last_seq, body)
SELECT run_id, %(first)s, %(last)s, %(body)s FROM runs
WHERE run_id = %(run_id)s AND (%(owner)s::text IS NULL OR owner = %(owner)s)
ON CONFLICT (run_id, first_seq) DO UPDATE SET last_seq = excluded.last_seq, body = excluded.body
"""
"""Where the answer to an earlier try was lost, more events wait by now than that has written down."""
_NEXT = "SELECT last_seq, body FROM events WHERE run_id = %s AND last_seq > %s ORDER BY first_seq LIMIT %s"


class TableEventLog:
    """Takes the events of one session; see :class:`graph.store.EventLog`. What neither server takes is lost.

    Args:
        pool: connections to the database.
        stream: live events; None: each is written down at once.
        run_id: whose events these are.
        owner: who holds the run, so that nobody else writes; None: nobody.
        fence: greater than that of any earlier session.
        ring: called after each event.

    Raises:
        StorageError: how far earlier sessions have come cannot be read.
    """

    def __init__(
        self,
        pool: SyncPool,
        stream: EventStream | None,
        run_id: str,
        *,
        owner: str | None,
        fence: int,
        ring: Callable[[], None],
    ) -> None:
        self._pool, self._stream, self._run_id = pool, stream, run_id
        self._owner, self._fence, self._ring = owner, fence, ring
        self._waiting: list[tuple[int, bytes]] = []
        self._since = self._again_at = 0.0
        self._warned = self._over = False
        with postgres_errors("the run's events"):
            self.last = self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """What was told and is not written down by now is made up for by a leap of the next session."""
        if self._flushed(self._archive) and self._told(None) and self._over and self._stream:
            self._stream.over(self._run_id)

    def append(self, event: Event) -> None:
        self.last = event["seq"]
        self._over = event["type"] in _LAST
        line = line_of(event)
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append((self.last, line))
        del self._waiting[:-_MOST_WAITING]
        if self._is_due(event, self._live(line)):
            self._flushed(self._archive)
        self._ring()

    def sync(self) -> None:
        self._again_at = 0.0
        self._flushed(patient(self._archive))

    def _begin(self) -> int:
        """The number of the latest event that anybody may have been told."""

        @patient
        def before() -> tuple[str | None, int]:
            told_by, archived = self._execute(_BEFORE)[0]
            return told_by, archived or 0

        told_by, archived = before()
        begun = (
            self._stream.begin(self._run_id, self._fence, new=not archived and not told_by) if self._stream else None
        )
        patient(self._execute)(_TELL, told_by=_teller(self._stream, begun))
        last = max(archived, (begun and begun.last) or 0)
        trusted = told_by is None or (begun is not None and begun.server == told_by and begun.last is not None)
        return last if trusted else last + _LEAP

    def _live(self, line: bytes) -> int | None:
        return self._stream.add(self._run_id, self._fence, self.last, line) if self._stream else None

    def _is_due(self, event: Event, live: int | None) -> bool:
        """Whether to write down what waits. A stream that begins anew with this event has forgotten the others."""
        if self._stream is None or event["type"] not in _FREQUENT or len(self._waiting) >= _WAITING:
            return True
        return live == 1 or (live is None and time.monotonic() - self._since > _WAITING_S)

    def _flushed(self, archive: Callable[[], None]) -> bool:
        """Whether all is written down. A database that is away is asked again by a later event."""
        if not self._waiting:
            return True
        if time.monotonic() < self._again_at:
            return False
        try:
            archive()
        except (psycopg.Error, OSError) as exc:
            self._again_at = time.monotonic() + _PAUSE_S
            self._warn(exc)
            return False
        self._waiting.clear()
        return True

    def _archive(self) -> None:
        lines = b"".join(line for _, line in self._waiting)
        first, last = self._waiting[0][0], self._waiting[-1][0]
        self._execute(_ARCHIVE, first=first, last=last, body=zlib.compress(lines, 1))

    def _told(self, told_by: str | None) -> bool:
        try:
            self._execute(_TELL, told_by=told_by)
        except (psycopg.Error, OSError) as exc:
            self._warn(exc)
            return False
        return True

    def _execute(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        return execute(self._pool, statement, {"run_id": self._run_id, "owner": self._owner, **values})

    def _warn(self, what: Exception) -> None:
        if not self._warned:
            self._warned = True
            log.warning("not all events can be written down: %s", masked(str(what)), extra={"run_id": self._run_id})


def _teller(stream: EventStream | None, begun: Begun | None) -> str | None:
    """What tells the next session whether Redis still knows what this one will have told."""
    if stream is None:
        return None
    return begun.server if begun else _UNKNOWN


class TableEventReader:
    """Reads a run's events; see :class:`graph.store.EventReader`.

    Args:
        pool: connections to the database.
        stream: live events.
        run_id: whose events.
        after: the number of the last one that is known.
    """

    def __init__(self, pool: SyncPool, stream: EventStream | None, run_id: str, after: int) -> None:
        self._pool, self._stream, self._run_id, self._after = pool, stream, run_id, after
        self._all_read = False

    def read(self) -> list[Event] | None:
        """Without Redis one answer can hold all there is; then nobody is asked once more."""
        if self._all_read:
            self._all_read = False
            return None
        live = list(self._live())
        if live:
            self._after = live[-1][0]
            return self._events(line for _, line in live)
        rows = rows_of(self._pool, _NEXT, (self._run_id, self._after, _ROWS_AT_ONCE), what="the run's events")
        if not rows:
            return None
        self._all_read = self._stream is None and len(rows) < _ROWS_AT_ONCE
        events = [event for _, body in rows for event in self._events(self._lines(body))]
        known, self._after = self._after, rows[-1][0]
        return [event for event in events if event["seq"] > known]

    def _live(self) -> Iterator[tuple[int, bytes]]:
        """Those that follow without a gap."""
        expected = self._after + 1
        for seq, line in self._stream.after(self._run_id, self._after, _LIVE_AT_ONCE) if self._stream else ():
            if seq != expected:
                return
            expected += 1
            yield seq, line

    def _lines(self, body: bytes) -> list[bytes]:
        try:
            return zlib.decompress(body).split(b"\n")
        except zlib.error as exc:
            raise StorageError(
                f"the events of run {self._run_id!r} are damaged", hint="delete its rows from the table events"
            ) from exc

    def _events(self, lines: Iterator[bytes] | list[bytes]) -> list[Event]:
        found = (event_of(line, self._run_id) for line in lines)
        return [event for event in found if event is not None]
