"""The list of all runs where a database keeps them: it is asked each time, and gives no more than was asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from graph.postgres import rows_of
from graph.run_table import PostgresRunStore
from graph.store import Parent, RunStore, root_of
from sparklio.server.run_list import Kept, RunSummary, Wanted, cursor_of, no_cursor, place_in_list, place_of

__all__ = ["RunTableList", "table_list"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAGE = """
SELECT run_id, runs.told, mode, stage, product, created_at, finished_at, parent FROM runs
WHERE (%(status)s::text IS NULL OR (runs.told = %(status)s AND status = ANY(%(written)s)))
    AND (%(mode)s::text IS NULL OR mode = %(mode)s)
    AND (%(root)s::text IS NULL OR root = %(root)s)
    AND (%(part)s = '' OR strpos(folded, %(part)s) > 0)
    AND (%(at)s::timestamptz IS NULL OR (created_at, run_id) < (%(at)s, %(behind)s))
ORDER BY created_at DESC, run_id DESC LIMIT %(limit)s
"""
_KEPT = """
SELECT run_id, runs.told, mode, request FROM runs
WHERE keeper = %s AND (status IN ('queued', 'running', 'interrupted')
    OR (request IS NOT NULL AND created_at > now() - interval '1 day'))
ORDER BY created_at, run_id
"""


class RunTableList:
    """See :class:`sparklio.server.run_list.RunLister`; each method raises StorageError where the database is away."""

    def __init__(self, store: PostgresRunStore) -> None:
        self._pool = store.pool

    def page(self, wanted: Wanted, limit: int, cursor: str | None = None) -> tuple[list[RunSummary], str | None]:
        at, behind = _behind(cursor) if cursor else (None, None)
        rows = self._rows(
            _PAGE,
            {
                "status": wanted.status,
                "written": ["running", "interrupted"] if wanted.status == "interrupted" else [wanted.status],
                "mode": wanted.mode,
                "root": root_of(wanted.family) if wanted.family else None,
                "part": wanted.product.casefold().replace("\0", ""),
                "at": at,
                "behind": behind,
                "limit": limit + 1,
            },
        )
        found = [_summary(*row) for row in rows[:limit]]
        if len(rows) <= limit:
            return found, None
        return found, cursor_of(place_in_list(found[-1].created_at, found[-1].run_id))

    def kept_by(self, keeper: str) -> list[Kept]:
        return [Kept(*row) for row in self._rows(_KEPT, (keeper,))]

    def _rows(self, statement: str, values: Any) -> list[tuple[Any, ...]]:
        return rows_of(self._pool, statement, values, what="the table of runs")


def _behind(cursor: str) -> tuple[datetime, str]:
    micros, run_id = place_of(cursor)
    try:
        return _EPOCH + timedelta(microseconds=micros), run_id
    except OverflowError as exc:
        raise no_cursor(cursor) from exc


def table_list(store: RunStore) -> RunTableList:
    """The list of a store that is a database."""
    if not isinstance(store, PostgresRunStore):
        raise TypeError(f"{store!r} is no table")
    return RunTableList(store)


def _summary(
    run_id: str,
    status: Any,
    mode: Any,
    stage: Any,
    product: str,
    created_at: datetime,
    finished_at: datetime | None,
    parent: str | None,
) -> RunSummary:
    return RunSummary(
        run_id=run_id,
        status=status,
        mode=mode,
        stage=stage,
        product=product,
        created_at=created_at.astimezone(UTC),
        finished_at=finished_at and finished_at.astimezone(UTC),
        parent=Parent.model_validate_json(parent) if parent else None,
    )
