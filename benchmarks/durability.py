"""What durability costs: the same graph with Sparklio's database and ledger, and with LangGraph's saver alone.

Also how a thousand stored runs slow a new one. All in mock, so that little else is measured; the sides take turns.
The last line is ``{"cpu", "bytes", "own_bytes", "bare_bytes", "stored_cpu", "stored_wall", "errors"}``: ratios, and
bytes of the database a run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

import aiosqlite
from job import BRAND, PRODUCT
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from graph.database import open_database
from graph.flow import build_graph
from graph.inputs import RunInput
from graph.ledger import Ledger
from nodes.context import Context
from routing.gateways import build_gateways
from routing.settings import load_settings
from sparklio import Sparklio

STORED = 1000
Work = Callable[[int], Awaitable[object]]


async def cpu_and_wall(work: Work, number: int) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    await work(number)
    return time.process_time() - cpu, time.perf_counter() - wall


async def taking_turns(one: Work, other: Work, count: int) -> tuple[float, float]:
    """Ratios of the medians of CPU and wall, ``one`` over ``other``, after a warm-up of both."""
    told: tuple[list[tuple[float, float]], ...] = ([], [])
    for number in range(count + 3):
        for side, work in enumerate((one, other)):
            figures = await cpu_and_wall(work, number)
            if number >= 3:
                told[side].append(figures)
    cpus, walls = ([median(figures[at] for figures in side) for side in told] for at in (0, 1))
    return cpus[0] / cpus[1], walls[0] / walls[1]


def size_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.stat().st_size


async def against_the_saver_alone(folder: Path, count: int) -> dict[str, float]:
    """Both write each checkpoint; ours is compressed, and keeps what every call came to besides."""
    gateways = build_gateways(load_settings({"SPARKLIO_HOME": str(folder / "home")}, environ={}))
    inputs = RunInput.parse({"brand": BRAND, "product": PRODUCT}).to_state()
    ours, theirs = folder / "ours.sqlite", folder / "theirs.sqlite"
    async with open_database(ours) as database, aiosqlite.connect(theirs) as connection:
        ledger, saver = Ledger(database), AsyncSqliteSaver(connection)
        await saver.setup()
        durable = build_graph().compile(checkpointer=database.saver)
        bare = build_graph().compile(checkpointer=saver)

        async def run(graph: Any, number: int, **more: Any) -> None:
            context = Context(llm=gateways.llm, media=gateways.media, seed=7, run_id=f"run-{number}", **more)
            config: Any = {"configurable": {"thread_id": f"run-{number}"}}
            await graph.ainvoke(inputs, config, context=context, durability="async")

        async def own(number: int) -> None:
            await run(durable, number, effects=await ledger.open(f"run-{number}"))

        cpu, _ = await taking_turns(own, lambda number: run(bare, number), count)
    await gateways.aclose()
    own_bytes, bare_bytes = (size_of(path) / (count + 3) for path in (ours, theirs))
    return {"cpu": cpu, "bytes": own_bytes / bare_bytes, "own_bytes": own_bytes, "bare_bytes": bare_bytes}


def stored_runs(home: Path, run_id: str) -> None:
    """A thousand copies of a run: its rows under other names, its files as links."""
    with closing(sqlite3.connect(home / "checkpoints.sqlite")) as database:
        for table in ("checkpoints", "writes", "effects", "texts"):
            names = [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})") if name != "thread_id"]
            columns = ", ".join(names)
            copies = f"INSERT INTO {table} (thread_id, {columns}) SELECT ?, {columns} FROM {table} WHERE thread_id = ?"
            database.executemany(copies, [(f"stored-{number}", run_id) for number in range(STORED)])
        database.commit()
    source = home / "runs" / run_id
    record = (source / "run.json").read_text(encoding="utf-8")
    for number in range(STORED):
        folder = home / "runs" / f"stored-{number}"
        (folder / "images").mkdir(parents=True)
        (folder / "run.json").write_text(record.replace(run_id, folder.name), encoding="utf-8")
        for path in source.rglob("*.*"):
            if path.is_file() and path.name != "run.json":
                os.link(path, folder / path.relative_to(source))


async def beside_stored_runs(folder: Path, count: int) -> dict[str, float]:
    async with Sparklio(mode="mock", home=folder / "full") as full:
        await full.run(brand=BRAND, product=PRODUCT, run_id="first")
    stored_runs(folder / "full", "first")
    async with Sparklio(mode="mock", home=folder / "full") as full, Sparklio(mode="mock", home=folder / "new") as empty:
        cpu, wall = await taking_turns(
            lambda _: full.run(brand=BRAND, product=PRODUCT), lambda _: empty.run(brand=BRAND, product=PRODUCT), count
        )
    return {"stored_cpu": cpu, "stored_wall": wall}


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        told = await against_the_saver_alone(Path(folder), count)
        told |= await beside_stored_runs(Path(folder), count)
    print(json.dumps({**told, "errors": 0}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20)
    asyncio.run(main(parser.parse_args().n))
