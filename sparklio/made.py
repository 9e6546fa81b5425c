"""What runs have made, read back: the whole of a finished one, and what two of them made otherwise."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graph.runs import Runs
from graph.store import RunRecord
from providers.errors import RunUnfinishedError
from sparklio.publish import PAGE_FILE, read_result

__all__ = ["Run", "compare_runs", "read_run"]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        id: the run's id.
        state: the graph's last state.
        result: what result.json holds.
        page_path: the finished page.
    """

    id: str
    state: dict[str, Any]
    result: dict[str, Any]
    page_path: Path


async def read_run(runs: Runs, run_id: str) -> Run:
    """As :meth:`sparklio.studio.Sparklio.load`."""
    record, result = await _result_of(runs, run_id)
    if result is None:
        raise RunUnfinishedError(f"run {run_id!r} is {record.status} and has no result", hint=_hint(record))
    return Run(run_id, await runs.values(run_id), result, record.out / PAGE_FILE)


async def compare_runs(runs: Runs, a: str, b: str) -> dict[str, Any]:
    """As :meth:`sparklio.studio.Sparklio.diff`."""
    from sparklio.differences import compared, differences, outline

    made = [await _made(runs, run_id) for run_id in (a, b)]
    found = differences(compared(*made[0]), compared(*made[1]))
    return {
        "a": outline(*made[0]),
        "b": outline(*made[1]),
        "differences": [difference.to_dict() for difference in found],
    }


async def _made(runs: Runs, run_id: str) -> tuple[RunRecord, dict[str, Any] | None, dict[str, Any]]:
    """The record of a run and its result, or where there is none its state."""
    record, result = await _result_of(runs, run_id)
    return record, result, {} if result is not None else await runs.values(run_id)


async def _result_of(runs: Runs, run_id: str) -> tuple[RunRecord, dict[str, Any] | None]:
    record = runs.store.load(run_id)
    try:
        return record, await asyncio.to_thread(read_result, runs.store, run_id)
    except FileNotFoundError:
        return record, None


def _hint(record: RunRecord) -> str:
    if record.status in ("queued", "running"):
        return "follow its events until it is finished"
    return f"go on with it: `sparklio resume {record.run_id}`"
