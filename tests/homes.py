"""Data folders of earlier versions, and what the tests of the database see in its file and in the runs of one."""

from __future__ import annotations

import base64
import shutil
import sqlite3
import zlib
from collections import Counter
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT

__all__ = [
    "KEY",
    "NAME",
    "OTHER",
    "SEALED",
    "bytes_of",
    "check_finished",
    "forms",
    "marks_of",
    "restored",
    "resumed",
    "rows_of",
    "stopped",
    "tree",
    "whole",
]

NAME = "SPARKLIO_ENCRYPTION_KEY"
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
SEALED = {
    "checkpoints": ("type", "checkpoint"),
    "writes": ("type", "value"),
    "effects": ("form", "body"),
    "texts": ("form", "body"),
}
"""Table -> the columns of a value's form and of the value."""

_HOMES = Path(__file__).parent / "data" / "homes"
_ARTEFACTS = ("brand_summary", "brief", "sections", "copy", "image", "review")

Rows = dict[str, list[tuple[str, bytes]]]


def restored(name: str, home: Path) -> Path:
    """A data folder of an earlier version, see tests/data/homes/README.md."""
    shutil.copytree(_HOMES / name / "runs", home / "runs")
    for record in home.glob("runs/*/run.json"):
        text = record.read_text(encoding="utf-8")
        record.write_text(text.replace('"HOME/', f'"{home.as_posix()}/'), encoding="utf-8")
    path = home / "checkpoints.sqlite"
    with closing(sqlite3.connect(path)) as file:
        file.create_function("blob", 1, lambda text: zlib.decompress(base64.b64decode(text)))
        file.execute("PRAGMA journal_mode=WAL")
        file.executescript((_HOMES / name / "checkpoints.sql").read_text(encoding="utf-8"))
    return path


def rows_of(path: Path) -> Rows:
    """Form and value of all rows, by table."""
    with closing(sqlite3.connect(path)) as file:
        present = {name for (name,) in file.execute("SELECT name FROM sqlite_master")}
        return {
            table: file.execute(f"SELECT {form}, {value} FROM {table} ORDER BY 1, 2").fetchall()
            for table, (form, value) in SEALED.items()
            if table in present
        }


def forms(path: Path) -> set[str]:
    """All forms in which values are kept."""
    return {form.rpartition("+")[2] for rows in rows_of(path).values() for form, _ in rows}


def marks_of(path: Path) -> dict[str, Any]:
    with closing(sqlite3.connect(path)) as file:
        return dict(file.execute("SELECT name, value FROM sparklio").fetchall())


def bytes_of(path: Path) -> bytes:
    """The file and what SQLite keeps beside it."""
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


async def whole(studio: Sparklio, run_id: str = "page") -> None:
    await studio.run(brand=BRAND, product=PRODUCT, run_id=run_id)


async def stopped(studio: Sparklio, after: str) -> None:
    """A run "page" that is left as soon as ``after`` is finished."""
    async with aclosing(studio.stream(brand=BRAND, product=PRODUCT, run_id="page")) as events:
        async for event in events:
            if event["type"] == "node_finished" and event["node"] == after:
                break


async def resumed(studio: Sparklio) -> tuple[set[str], Counter[str | None]]:
    """What the run "page" need not run again, and how often it starts the others on its way to the end."""
    events = [event async for event in studio.runs.drive(studio.runs.resumable("page"))]
    started = Counter(event["node"] for event in events if event["type"] == "node_started")
    return set(events[0]["data"]["done"]), started


async def check_finished(studio: Sparklio, run_id: str) -> None:
    run = await studio.load(run_id)
    assert all(run.result[name] for name in _ARTEFACTS)
    assert run.page_path.is_file()
    points = [point for point in await studio.history(run_id) if point.run_id == run_id]
    assert points[-1].next == ()
    assert run.state.items() >= points[-1].values.items()
