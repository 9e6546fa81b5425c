"""The queue of runs that workers are to drive, which is the table of runs: who is next, what failed, what was lost.

A run of theirs says ``keeper=workers``. A dead letter is one of those that has failed; its record tells the reason.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from graph.events import Events
from graph.postgres import lent, migrate, postgres_errors, rows_of
from graph.run_table import PostgresRunStore
from graph.store import RunRecord, RunStore
from providers.errors import (
    ConfigError,
    RunBusyError,
    SparklioError,
    UnknownNameError,
    UsageError,
    WorkerLostError,
    describe,
)
from routing.contracts import Mode

__all__ = ["KEEPER", "Lost", "Queue", "delay_s"]

KEEPER = "workers"
"""What the records of our runs name: who goes on with them."""

_MIGRATIONS = (
    "ALTER TABLE runs ADD COLUMN IF NOT EXISTS not_before TIMESTAMPTZ",
    """
    CREATE INDEX IF NOT EXISTS runs_waiting ON runs (mode, coalesce(batch, ''), created_at, run_id)
    WHERE status = 'queued' AND keeper = 'workers'
    """,
    "CREATE INDEX IF NOT EXISTS runs_of_workers ON runs (status, created_at) WHERE keeper = 'workers'",
    """
    CREATE TABLE IF NOT EXISTS worker_orders (
        key TEXT PRIMARY KEY,
        request TEXT NOT NULL,
        answer TEXT,
        error TEXT,
        owner TEXT,
        beat_at TIMESTAMPTZ,
        cancel_wanted BOOLEAN NOT NULL DEFAULT FALSE,
        ordered_at TIMESTAMPTZ NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX IF NOT EXISTS worker_orders_age ON worker_orders (ordered_at)",
)
_NAME = "workers"
_RETRY_S = (10.0, 60.0, 300.0, 900.0)  # a model's server that starts anew, a machine that does, somebody who looks

_WAITING = "status = 'queued' AND keeper = 'workers' AND mode = coalesce(%(mode)s::text, mode)"
_DUE = "(not_before IS NULL OR not_before <= now())"
_UNSENT = "(sent_at IS NULL OR sent_at < now() - make_interval(secs => %(lost_s)s)) AND NOT run_id = ANY(%(on_way)s)"

_CHOOSE = f"""
WITH RECURSIVE batches AS (
    (SELECT coalesce(batch, '') AS name FROM runs WHERE {_WAITING} ORDER BY coalesce(batch, '') LIMIT 1)
    UNION ALL
    SELECT (SELECT coalesce(batch, '') FROM runs WHERE {_WAITING} AND coalesce(batch, '') > batches.name
            ORDER BY coalesce(batch, '') LIMIT 1)
    FROM batches WHERE batches.name IS NOT NULL
), busy AS (
    SELECT coalesce(batch, '') AS name, count(*) AS runs FROM runs
    WHERE keeper = 'workers' AND mode = coalesce(%(mode)s::text, mode)
        AND (status = 'running' OR (status = 'queued' AND run_id = ANY(%(on_way)s)))
    GROUP BY 1
)
SELECT next.run_id
FROM batches
LEFT JOIN busy USING (name)
CROSS JOIN LATERAL (
    SELECT run_id, created_at, row_number() OVER (ORDER BY created_at, run_id) AS turn
    FROM (
        SELECT run_id, created_at FROM runs
        WHERE {_WAITING} AND coalesce(batch, '') = batches.name AND {_DUE} AND {_UNSENT}
        ORDER BY created_at, run_id LIMIT %(places)s
    ) AS oldest
) AS next
WHERE batches.name IS NOT NULL
ORDER BY coalesce(busy.runs, 0) + next.turn, next.created_at, next.run_id
LIMIT %(places)s
"""  # noqa: S608  # our own words alone

_POSITION = """
SELECT place FROM (
    SELECT run_id, row_number() OVER (ORDER BY turn, created_at, run_id) AS place FROM (
        SELECT run_id, created_at,
            row_number() OVER (PARTITION BY coalesce(batch, '') ORDER BY created_at, run_id) AS turn
        FROM runs WHERE status = 'queued' AND keeper = 'workers' AND mode = coalesce(%(mode)s::text, mode)
    ) AS turns
) AS places WHERE run_id = %(run_id)s
"""
_COUNTS = """
SELECT status, count(*), extract(epoch FROM now() - min(created_at))::float8 FROM runs
WHERE keeper = 'workers' AND status IN ('queued', 'running', 'interrupted', 'failed') GROUP BY status
"""
_DEAD = """
SELECT run_id FROM runs WHERE keeper = 'workers' AND status = 'failed' ORDER BY created_at DESC LIMIT %(limit)s
"""
_LOST = """
SELECT run_id, coalesce(owner, ''), version, deliveries, cancel_wanted FROM runs
WHERE keeper = 'workers' AND status IN ('running', 'interrupted') AND (lease_until IS NULL OR lease_until < now())
ORDER BY created_at LIMIT 500
"""

_AGAIN = """
UPDATE runs SET sent_at = NULL, cancel_wanted = FALSE, deliveries = greatest(0, deliveries - %(forgive)s),
    not_before = now() + make_interval(secs => %(delay_s)s)
WHERE run_id = %(run_id)s
"""


@dataclass(frozen=True)
class Lost:
    """A run that should be under way and that nobody holds; ``version`` tells two looks at it apart."""

    run_id: str
    owner: str
    version: int
    deliveries: int
    cancel_wanted: bool


def _make_tables(store: PostgresRunStore) -> None:
    """What the queue needs beside the table of runs; several may do it at once.

    Raises:
        StorageError: the database cannot be used.
    """
    with postgres_errors("the queue's tables"), lent(store.pool) as connection:
        migrate(connection, _NAME, _MIGRATIONS)


class Queue:
    """
    Args:
        store: the runs; its pool is used here, too.
        mode: of the runs that are chosen from; None: of all.

    What it needs beside the table of runs is made here.

    Raises:
        ConfigError: the store is of files.
        StorageError: the database cannot be used.
    """

    def __init__(self, store: RunStore, mode: Mode | None = None) -> None:
        if not isinstance(store, PostgresRunStore):
            raise ConfigError(
                "workers keep their runs in PostgreSQL",
                hint="set SPARKLIO_DATABASE_URL=postgresql://user:password@host/database",
            )
        self.store = store
        self._mode = mode
        _make_tables(store)

    def choose(self, places: int, on_way: Collection[str] = (), *, lost_s: float = 0.0) -> list[str]:
        """Whom to send next, at most so many: each batch in turn, those with the fewest under way first.

        Args:
            places: how many.
            on_way: the runs whose message waits in the queue, or is at a worker.
            lost_s: after how many seconds a message that is not seen any more counts as lost.
        """
        words = {"mode": self._mode, "places": places, "on_way": list(on_way), "lost_s": lost_s}
        return [run_id for (run_id,) in self._all(_CHOOSE, words)]

    def sent(self, run_ids: Collection[str]) -> None:
        """Note that the runs' messages are sent now."""
        self._all("UPDATE runs SET sent_at = now() WHERE run_id = ANY(%(ids)s)", {"ids": list(run_ids)})

    def unsent(self, run_ids: Collection[str]) -> None:
        """Note that they are to be sent at once."""
        self._all("UPDATE runs SET sent_at = NULL WHERE run_id = ANY(%(ids)s)", {"ids": list(run_ids)})

    def begun(self, run_id: str) -> None:
        """Count a delivery; whoever does holds the run."""
        self._all("UPDATE runs SET deliveries = deliveries + 1 WHERE run_id = %(run_id)s", {"run_id": run_id})

    def deliveries(self, run_id: str) -> int:
        rows = self._all("SELECT deliveries FROM runs WHERE run_id = %(run_id)s", {"run_id": run_id})
        return int(rows[0][0]) if rows else 0

    def position(self, run_id: str) -> int | None:
        """Its place among those that wait, the next one's is 1; None where it does not wait."""
        rows = self._all(_POSITION, {"mode": self._mode, "run_id": run_id})
        return int(rows[0][0]) if rows else None

    def counts(self) -> dict[str, int]:
        """How many runs of the workers are queued, running, interrupted and failed."""
        counted = {status: int(number) for status, number, _ in self._all(_COUNTS, {})}
        return {status: counted.get(status, 0) for status in ("queued", "running", "interrupted", "failed")}

    def lost(self) -> list[Lost]:
        """Runs that are under way by their record, and whose holder has not been heard of for the time of a lease."""
        return [Lost(*row) for row in self._all(_LOST, {})]

    def dead_letters(self, limit: int = 1000) -> list[RunRecord]:
        """The workers' runs that have failed, the latest first."""
        return [self.store.read(run_id) for (run_id,) in self._all(_DEAD, {"limit": limit})]

    def requeue(self, run_id: str, *, delay_s: float = 0.0, forgive: int = 0) -> bool:
        """Have the run wait again, after ``delay_s``; False where it is finished, cancelled or waits already.

        Args:
            run_id: one that nobody holds.
            delay_s: for how long it is not given to a worker.
            forgive: how many of its deliveries do not count.

        Raises:
            RunBusyError: somebody holds it.
        """
        store = self.store
        with store.lock(run_id):
            record = store.read(run_id)
            if record.status not in ("running", "interrupted", "failed"):
                return False
            record.status, record.keeper = "queued", KEEPER
            record.error = record.finished_at = None
            self._all(_AGAIN, {"run_id": run_id, "delay_s": delay_s, "forgive": forgive})
            store.save(record)
        return True

    def fail(self, run_id: str, error: SparklioError) -> bool:
        """End a run that nobody holds as failed, its log too; False where it has ended already.

        Raises:
            RunBusyError: somebody holds it.
        """
        store = self.store
        error.run_id = run_id
        with store.lock(run_id):
            record = store.read(run_id)
            if record.status not in ("queued", "running", "interrupted"):
                return False
            with store.event_log(run_id, lambda: None) as log:
                Events(run_id, log).make("run_failed", describe(error), None)
            record.status, record.error, record.finished_at = "failed", describe(error), datetime.now(UTC)
            store.save(record)
        return True

    def give_up(self, run_id: str, deliveries: int) -> bool:
        """As :meth:`fail`, of a run that no worker has brought to its end."""
        error = WorkerLostError(
            f"run {run_id!r} was given to a worker {deliveries} times, and each was gone before its end",
            hint=f"look into the workers' logs (memory?), then: sparklio retry {run_id}",
        )
        return self.fail(run_id, error)

    def take_back(self, lost: Lost, most_deliveries: int) -> str | None:
        """What became of a lost run: "cancelled", "failed" or "queued"; None where it was not lost.

        Raises:
            RunBusyError: somebody holds it.
        """
        if lost.cancel_wanted:
            return "cancelled" if self._cancel(lost.run_id) else None
        if lost.deliveries >= most_deliveries:
            return "failed" if self.give_up(lost.run_id, lost.deliveries) else None
        return "queued" if self.requeue(lost.run_id) else None

    def retry(self, run_id: str) -> RunRecord:
        """Have a dead letter wait again, as if it had never been delivered.

        Raises:
            UnknownNameError: there is no such run.
            UsageError: it is none of the workers' runs that have failed.
            RunBusyError: somebody holds it.
        """
        record = self.store.load(run_id)
        if record.keeper != KEEPER or record.status not in ("failed", "interrupted"):
            raise UsageError(
                f"run {run_id!r} is {record.status}, and no dead letter of the workers",
                hint="`sparklio dead-letters` lists them; any other run: sparklio resume RUN",
            )
        self.requeue(run_id, forgive=self.deliveries(run_id))
        return self.store.read(run_id)

    def retry_all(self) -> list[str]:
        """The ids of all dead letters, which wait again now; one that somebody goes on with already is none of them."""
        return [run_id for (run_id,) in self._all(_DEAD, {"limit": None}) if self._is_retried(run_id)]

    def _is_retried(self, run_id: str) -> bool:
        try:
            return self.requeue(run_id, forgive=self.deliveries(run_id))
        except (RunBusyError, UnknownNameError):
            return False

    def letter(self, record: RunRecord) -> dict[str, Any]:
        """What is told of a dead letter: the run's summary, its error, and how often it was delivered."""
        ended = record.finished_at and record.finished_at.isoformat(timespec="seconds")
        told = {"error": record.error or {}, "deliveries": self.deliveries(record.run_id), "finished_at": ended}
        return {**record.summary(), **told}

    def _cancel(self, run_id: str) -> bool:
        store = self.store
        with store.lock(run_id):
            record = store.read(run_id)
            if record.status not in ("running", "interrupted"):
                return False
            record.status, record.finished_at = "cancelled", datetime.now(UTC)
            store.save(record)
        return True

    def _all(self, sql: str, words: dict[str, Any]) -> list[Any]:
        """The rows of a statement that may be executed twice.

        Raises:
            StorageError: the database cannot be used.
        """
        return rows_of(self.store.pool, sql, words, what="the queue of runs")


def delay_s(deliveries: int) -> float:
    """Seconds until a run is given to a worker again that has failed so many times."""
    return _RETRY_S[min(max(deliveries, 1), len(_RETRY_S)) - 1]
