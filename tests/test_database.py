"""The database's file: its layout, opening it, and files of earlier versions."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from langgraph.checkpoint.base import empty_checkpoint

from graph import sqlite_database as module
from graph.database import open_database
from providers.errors import StorageError
from sparklio import Sparklio
from tests.faults import NODES
from tests.homes import KEY, NAME, check_finished, marks_of, restored, resumed, rows_of, tree
from tests.waiting import NEVER_S


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / ".sparklio"


@pytest.fixture
def path(home: Path) -> Path:
    return home / "checkpoints.sqlite"


# the layout


async def test_a_new_file_has_the_layout_and_is_not_written_by_opening_it_again(path: Path) -> None:
    async with open_database(path):
        pass
    assert marks_of(path) == {"layout": 1}
    before = tree(path.parent)
    async with open_database(path):
        pass
    assert tree(path.parent) == before


@pytest.mark.parametrize("key", [None, KEY])
async def test_a_second_one_beside_the_first_writes_nothing_either(path: Path, key: bytes | None) -> None:
    async with open_database(path, key) as first:
        await first.write(("INSERT INTO effects VALUES ('a', 'b', 1, 'c', 'zlib', x'00')", ()))
        names = (path.name, f"{path.name}-wal")
        before = {name: (path.parent / name).read_bytes() for name in names}
        async with open_database(path, key) as second:
            assert len(await second.read("SELECT * FROM effects")) == 1
        assert {name: (path.parent / name).read_bytes() for name in names} == before


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("layout", [2, 10**6, "two"])
async def test_a_newer_layout_is_refused_and_nothing_changes(path: Path, layout: object, key: bytes | None) -> None:
    async with open_database(path, key):
        pass
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE sparklio SET value = ? WHERE name = 'layout'", (layout,))
    before = tree(path.parent)
    for attempt in (open_database(path, key), Sparklio()):
        with pytest.raises(StorageError, match=f"layout {layout!r}.* 1 at most") as caught:
            async with attempt:
                pass
        assert "newer sparklio" in caught.value.hint
    assert tree(path.parent) == before


async def test_opening_needs_no_writer_s_lock(path: Path) -> None:
    async with open_database(path):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with asyncio.timeout(NEVER_S), open_database(path) as database:
                assert await database.read("SELECT name FROM sparklio") == [("layout",)]


async def test_a_newer_layout_that_came_in_between_is_refused_and_nothing_changes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_database(path):
        pass
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE sparklio SET value = 2 WHERE name = 'layout'")
        file.commit()
        file.execute("PRAGMA journal_mode=DELETE")
    before = path.read_bytes()
    monkeypatch.setattr(module, "_look", lambda _: {})
    with pytest.raises(StorageError, match="layout 2"):
        async with open_database(path):
            pass
    assert path.read_bytes() == before


async def test_a_newer_layout_in_the_wal_alone_is_seen(path: Path) -> None:
    async with open_database(path) as database:
        await database.write(("UPDATE sparklio SET value = 2 WHERE name = 'layout'", ()))
        before = path.read_bytes(), path.with_name(f"{path.name}-wal").read_bytes()
        with pytest.raises(StorageError, match="layout 2"):
            async with open_database(path):
                pass
        assert (path.read_bytes(), path.with_name(f"{path.name}-wal").read_bytes()) == before


@pytest.mark.parametrize(
    "content", [b"no database, but long enough to be looked at " * 99, b"SQLite format 3\0" + b"x" * 4096]
)
async def test_what_is_no_database_is_one_typed_error(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        async with open_database(path):
            pass
    assert caught.value.hint
    assert path.read_bytes() == content


async def test_an_empty_file_and_a_table_without_its_layout_are_filled(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    async with open_database(path) as database:
        await database.write(("DELETE FROM sparklio", ()))
    async with open_database(path):
        assert marks_of(path) == {"layout": 1}


async def opened(path: Path) -> None:
    async with open_database(path, KEY) as database:
        await database.write(("INSERT INTO effects VALUES (hex(randomblob(8)), 'b', 1, 'c', 'zlib', x'00')", ()))


def open_each(folder: Path, times: int, together: Callable[[], object]) -> None:
    for n in range(times):
        together()
        asyncio.run(opened(folder / str(n) / "checkpoints.sqlite"))


def test_processes_that_open_one_new_folder_at_once_all_succeed(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(3)
    others = [spawn.Process(target=open_each, args=(tmp_path, 12, barrier.wait)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0, 0]
    for n in range(12):
        assert len(rows_of(tmp_path / str(n) / "checkpoints.sqlite")["effects"]) == 3


async def test_a_file_that_somebody_is_making_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir()
    with FileLock(f"{path}.lock"):
        with monkeypatch.context() as impatient:
            impatient.setattr(module, "_BUSY_TIMEOUT_S", 0.05)
            with pytest.raises(StorageError, match="another process") as caught:
                await opened(path)
            assert caught.value.hint
        opening = asyncio.create_task(opened(path))
        await asyncio.sleep(0.2)
        assert not opening.done()
        assert not path.exists()
    async with asyncio.timeout(NEVER_S):
        await opening


# files of earlier versions


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("name", ["finished", "after_strategist", "in_the_desk", "rerun"])
async def test_opening_an_old_file_rewrites_nothing(home: Path, name: str, key: bytes | None) -> None:
    path = restored(name, home)
    before = rows_of(path)
    assert "effects" not in before
    async with open_database(path, key):
        pass
    assert rows_of(path) == before | {"effects": [], "texts": []}
    assert marks_of(path)["layout"] == 1


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize(
    ("name", "finished"),
    [
        ("after_strategist", {"brand", "brief", "strategist"}),
        ("in_the_desk", {"brand", "brief", "strategist", "copywriter"}),
    ],
)
async def test_an_old_run_goes_on(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, finished: set[str], encrypted: bool
) -> None:
    if encrypted:
        monkeypatch.setenv(NAME, KEY.hex())
    old = rows_of(restored(name, home))
    async with Sparklio() as studio:
        assert await resumed(studio) == (finished, Counter(NODES - finished))
        await check_finished(studio, "page")
    assert Counter(old["checkpoints"]) <= Counter(rows_of(home / "checkpoints.sqlite")["checkpoints"])


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize(("name", "parent", "child"), [("finished", "page", "page.2"), ("rerun", "page.2", "page.3")])
async def test_an_old_finished_run_has_its_history_and_reruns(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, parent: str, child: str, encrypted: bool
) -> None:
    if encrypted:
        monkeypatch.setenv(NAME, KEY.hex())
    restored(name, home)
    async with Sparklio() as studio:
        before = await studio.runs.values(parent)
        assert {call["node"]: call["cached"] for call in before["calls"]} == {
            node: name == "rerun" and node not in ("copywriter", "reviewer") for node in NODES
        }
        points = await studio.history(parent)
        assert points[-1].next == ()
        assert points[-1].values["copy"] == before["copy"]
        events = [event async for event in studio.runs.drive(studio.runs.resumable(parent))]
        assert events == []

        again = await studio.rerun(parent, start_at="strategist", changes={"brief.target": "등산객"})
        assert again.id == child
        await check_finished(studio, child)
        assert again.result["brief"]["target"] == "등산객"
        assert again.result["brand_summary"] == before["brand"]
        assert await studio.runs.values(parent) == before


# cancelled writes


@pytest.mark.parametrize("kind", ["checkpoint", "writes", "deletion", "our own"])
async def test_a_write_that_is_cancelled_leaves_the_file_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / "checkpoints.sqlite"
    config: Any = {"configurable": {"thread_id": "run", "checkpoint_ns": "", "checkpoint_id": "1"}}
    start = empty_checkpoint()
    async with open_database(path) as database:
        saver: Any = database.saver
        execute: Any = saver.conn._execute
        begun = asyncio.Event()

        async def spied(function: Any, *args: Any, **more: Any) -> Any:
            if args and str(args[0]).lstrip().startswith(("INSERT", "DELETE")):
                begun.set()
            return await execute(function, *args, **more)

        monkeypatch.setattr(saver.conn, "_execute", spied)
        writes: dict[str, Callable[[], Any]] = {
            "checkpoint": lambda: saver.aput(config, start, {}, {}),
            "writes": lambda: saver.aput_writes(config, [("channel", 1)], "task"),
            "deletion": lambda: saver.adelete_thread("run"),
            "our own": lambda: database.forget("run"),
        }
        task = asyncio.ensure_future(writes[kind]())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with saver.lock:
            assert not saver.conn.in_transaction
        with closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
