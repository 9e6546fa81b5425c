"""Stops a run that any process drives, on any machine, or none."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from graph.runs import Runs
from graph.store import RunRecord
from providers.errors import ConflictError, RunBusyError, SparklioError

if TYPE_CHECKING:
    from graph.run_table import PostgresRunStore

__all__ = ["ENDED", "STOPS_WITHIN_S", "check_open", "stop", "stop_anywhere"]

log = logging.getLogger(__name__)

ENDED = ("finished", "failed", "cancelled")
"""Statuses of runs that nobody goes on with by himself."""
STOPS_WITHIN_S = 10.0
"""How long another process has for stopping a run before whoever asked is told that it is still at it."""

_LOOKS_EVERY_S = 0.2


async def stop(runs: Runs, run_id: str) -> RunRecord:
    """Stop a run for good, and the image that is made for it; its record then.

    Among machines one that is still running is being stopped by whoever drives it.

    Raises:
        UnknownNameError: there is no such run.
        ConflictError: it has ended.
        RunBusyError: it is kept in files, and another process drives it.
    """
    store = runs.store
    if store.shared:
        return await stop_anywhere(runs, cast("PostgresRunStore", store), run_id, STOPS_WITHIN_S)
    record = store.load(run_id)
    check_open(record)
    if record.status == "running":
        raise RunBusyError(f"run {run_id!r} is run by another process", hint="stop it there, with Ctrl-C")
    await _mark(runs, run_id)
    return store.load(run_id)


async def stop_anywhere(runs: Runs, store: PostgresRunStore, run_id: str, within_s: float) -> RunRecord:
    """Stop it for good; its record then. One that is still running is being stopped by whoever drives it.

    It may be begun, be given back or lose its driver while we look: each look takes it as it is then.

    Args:
        runs: the book of runs.
        store: theirs.
        run_id: of whatever status.
        within_s: how long its driver has for that.

    Raises:
        UnknownNameError: there is no such run.
        ConflictError: it has ended.
    """
    until = asyncio.get_running_loop().time() + within_s
    wanted = False
    while True:
        record = await asyncio.to_thread(store.load, run_id)
        if wanted and record.status == "cancelled":
            return record
        check_open(record)
        marked = record.status != "running" and await _mark(runs, run_id)
        if marked or await asyncio.to_thread(store.request_cancel, run_id):  # whoever has it, or is about to begin it
            wanted = True
        if asyncio.get_running_loop().time() > until:
            log.warning("run %s has not been stopped yet by whoever drives it", run_id)
            return record
        await asyncio.sleep(0 if marked else _LOOKS_EVERY_S)


def check_open(record: RunRecord) -> None:
    """Raises ConflictError for a run that has ended."""
    if record.status in ENDED:
        raise ConflictError(f"run {record.run_id!r} is {record.status} already", hint="there is nothing to cancel")


async def _mark(runs: Runs, run_id: str) -> bool:
    """Cancel a run that nobody drives; False where somebody was faster."""
    try:
        await asyncio.to_thread(runs.cancelled, run_id)
    except RunBusyError:
        return False
    try:
        await runs.cancel_jobs(run_id)
    except SparklioError as exc:  # a service that cannot be asked must not keep the run from being cancelled
        log.warning("run %s is cancelled, its image could not be: %s", run_id, exc)
    return True
