"""What the servers ask of the table of runs beside what the workers do: how long a place takes, and dead letters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from graph.postgres import lent, migrate, postgres_errors, rows_of
from graph.run_table import PostgresRunStore
from providers.errors import UnknownNameError
from sparklio.server.dead_letters import Letter, LetterPage
from sparklio.server.run_list import cursor_of, place_in_list, place_of

__all__ = ["QueueView", "Standing"]

_MIGRATIONS = (
    "CREATE INDEX IF NOT EXISTS runs_ended ON runs (finished_at) WHERE keeper IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS runs_dead ON runs (created_at, run_id) WHERE status = 'failed' AND keeper IS NOT NULL",
)
_STANDING = """
SELECT
    count(*) FILTER (WHERE status = 'queued'),
    count(*) FILTER (WHERE status = 'running'),
    count(*) FILTER (WHERE status = 'interrupted'),
    coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE status = 'queued')), 0)::float8,
    (SELECT count(*) FROM runs WHERE keeper IS NOT NULL AND status = 'failed')
FROM runs WHERE keeper = 'workers' AND status IN ('queued', 'running', 'interrupted')
"""
_QUEUED = "SELECT count(*) FROM runs WHERE keeper = 'workers' AND status = 'queued'"
_ENDED = """
SELECT count(*), extract(epoch FROM now() - min(finished_at))::float8 FROM (
    SELECT finished_at FROM runs WHERE keeper = 'workers' AND finished_at > now() - make_interval(secs => %s)
    ORDER BY finished_at DESC LIMIT %s
) AS latest
"""
_LATEST, _WITHIN_S = 200, 600.0
_LETTERS = """
SELECT run_id, deliveries FROM runs
WHERE status = 'failed' AND keeper IS NOT NULL
    AND (%(at)s::timestamptz IS NULL OR (created_at, run_id) < (%(at)s::timestamptz, %(run_id)s::text))
ORDER BY created_at DESC, run_id DESC LIMIT %(limit)s
"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MICROS = 250_000_000_000_000_000  # in the year 9892; Python's time ends soon after
_AFRESH = "UPDATE runs SET sent_at = NULL, not_before = NULL, deliveries = 0 WHERE run_id = %s RETURNING run_id"
_ADOPT = """
UPDATE runs SET keeper = 'workers', sent_at = NULL, version = nextval('runs_version')
WHERE keeper = 'server' AND status IN ('queued', 'running', 'interrupted') AND NOT runs.live RETURNING run_id
"""


@dataclass(frozen=True)
class Standing:
    """Runs of the workers, at one moment.

    Attributes:
        oldest_s: for how long the oldest that is queued has been booked; 0: none is.
        dead: runs that have failed, whoever kept them.
        each_s: seconds between two ends, of those of late; None: none has ended of late.
    """

    queued: int
    running: int
    interrupted: int
    oldest_s: float
    dead: int
    each_s: float | None

    def wait_s(self, ends: int) -> float | None:
        """Seconds until so many more have ended; None: nothing tells."""
        return None if self.each_s is None else ends * self.each_s


class QueueView:
    """Its methods take as long as the database does, and may be called from any thread; each raises StorageError where
    that cannot be used."""

    def __init__(self, store: PostgresRunStore) -> None:
        self._store = store

    def open(self) -> None:
        with postgres_errors("the table of runs"), lent(self._store.pool) as connection:
            migrate(connection, "server", _MIGRATIONS)

    def queued(self) -> int:
        """How many runs wait for workers."""
        [(number,)] = self._all(_QUEUED)
        return int(number)

    def standing(self) -> Standing:
        [(queued, running, interrupted, oldest_s, dead)] = self._all(_STANDING)
        [(ended, since_s)] = self._all(_ENDED, (_WITHIN_S, _LATEST))
        each_s = since_s / ended if ended else None
        return Standing(queued, running, interrupted, oldest_s, dead, each_s)

    def afresh(self, run_id: str) -> None:
        """As if the run had never been given to a worker; whoever calls this holds it."""
        self._all(_AFRESH, (run_id,))

    def adopt(self) -> int:
        """Have the workers go on with what servers without workers have left; how many runs that were."""
        return len(self._all(_ADOPT))

    def page(self, limit: int, cursor: str | None = None) -> LetterPage:
        """As :meth:`sparklio.server.dead_letters.Letters.page`; those of servers without workers are among them."""
        micros, behind = place_of(cursor) if cursor else (None, None)
        at = None if micros is None else _EPOCH + timedelta(microseconds=min(micros, _LAST_MICROS))
        rows = self._all(_LETTERS, {"at": at, "run_id": behind, "limit": limit + 1})
        letters = [letter for row in rows[:limit] if (letter := self._letter(*row))]
        if len(rows) <= limit or not letters:
            return LetterPage(letters, None)
        last = letters[-1].record
        return LetterPage(letters, cursor_of(place_in_list(last.created_at, last.run_id)))

    def _letter(self, run_id: str, deliveries: int) -> Letter | None:
        """None where it was deleted since it was listed."""
        try:
            return Letter(self._store.read(run_id), deliveries)
        except UnknownNameError:
            return None

    def _all(self, sql: str, values: tuple[Any, ...] | dict[str, Any] = ()) -> list[Any]:
        return rows_of(self._store.pool, sql, values, what="the table of runs")
