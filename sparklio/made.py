"""What runs have made, read back: the whole of a finished one, and what two of them made otherwise."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graph.runs import Runs
from graph.store import RunRecord
from providers.errors import RunUnfinishedError
from routing.image_store import ImageStore
from sparklio.copies import make_copies, page_here, result_here
from sparklio.publish import read_result

__all__ = ["Run", "compare_runs", "read_run"]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        id: the run's id.
        state: the graph's last state.
        result: what result.json holds.
        page_path: the finished page, on this machine.
    """

    id: str
    state: dict[str, Any]
    result: dict[str, Any]
    page_path: Path


async def read_run(runs: Runs, run_id: str, images: ImageStore | None = None) -> Run:
    """As :meth:`sparklio.studio.Sparklio.load`.

    Args:
        runs: the book of runs.
        run_id: a finished one.
        images: where the copies of its page and image are made from that this machine lacks; None: nowhere.
    """
    record, result = await _result_of(runs, run_id)
    if result is None:
        raise RunUnfinishedError(f"run {run_id!r} is {record.status} and has no result", hint=_hint(record))
    if images is not None:
        await asyncio.to_thread(make_copies, runs.store, images, run_id, result)
    here = result_here(runs.store, run_id, result)
    return Run(run_id, await runs.values(run_id), here, page_here(runs.store, record))


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
