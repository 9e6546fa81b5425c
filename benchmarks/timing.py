"""What the three contenders share: their command line, the clocks, and the JSON of the last line."""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import gc
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

__all__ = ["Job", "arguments", "main"]

Job: TypeAlias = Callable[[], Awaitable[object]]
log = logging.getLogger(__name__)


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("once", "seq", "conc"), default="once")
    parser.add_argument("--n", type=int, default=1, help="runs that are measured (once: always one)")
    parser.add_argument("--warmup", type=int, default=1, help="runs before, one after another")
    parser.add_argument("--profile", metavar="FILE", help="write a cProfile of the event loop's thread")
    return parser


def main(opened: AbstractAsyncContextManager[Job], options: argparse.Namespace) -> None:
    """Measure the runs of the job that ``opened`` gives."""

    async def whole() -> dict[str, Any]:
        async with opened as job:
            return await _measured(job, options)

    print(json.dumps(asyncio.run(whole())))


async def _measured(job: Job, options: argparse.Namespace) -> dict[str, Any]:
    """``cpu_s`` is this process's, all threads; ``walls`` are the seconds of each run that ended well."""
    for _ in range(options.warmup):
        await job()
    count = 1 if options.mode == "once" else options.n
    profile = cProfile.Profile()
    gc.collect()
    wall, cpu, loop_cpu = time.perf_counter(), time.process_time(), time.thread_time()
    if options.profile:
        profile.enable()
    if options.mode == "conc":
        outcomes = await asyncio.gather(*(_timed(job) for _ in range(count)))
    else:
        outcomes = [await _timed(job) for _ in range(count)]
    wall, cpu, loop_cpu = time.perf_counter() - wall, time.process_time() - cpu, time.thread_time() - loop_cpu
    if options.profile:
        profile.disable()
        profile.dump_stats(options.profile)
        print(f"of {cpu:.2f} s CPU {loop_cpu:.2f} s on the event loop's thread")
    return {"wall_s": wall, "cpu_s": cpu, "walls": _walls(outcomes), "errors": outcomes.count(None)}


async def _timed(job: Job) -> float | None:
    started = time.perf_counter()
    try:
        await job()
    except Exception:
        log.exception("a run failed")
        return None
    return time.perf_counter() - started


def _walls(outcomes: Sequence[float | None]) -> list[float]:
    return [round(wall, 4) for wall in outcomes if wall is not None]
