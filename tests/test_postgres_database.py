"""The database in PostgreSQL, against a real server."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.base import empty_checkpoint
from tenacity import stop_after_attempt

from graph import build_graph, postgres_database
from graph.database import Database, open_database, reseal_database
from graph.inputs import RunInput
from graph.ledger import Ledger
from graph.postgres import MOST_CONNECTIONS, connected, lent, masked, migrate, patient, postgres_errors, sync_pool
from graph.vault import Vault
from nodes.context import Context
from providers.errors import ConfigError, SparklioError, StorageError
from routing.gateways import build_gateways
from routing.settings import load_settings
from sparklio import Sparklio
from sparklio.package import open_package
from sparklio.packing import pack_run
from sparklio.unpacking import unpack_run
from tests.conftest import BRAND, PRODUCT
from tests.homes import KEY, OTHER, check_finished, stopped
from tests.postgres_server import PostgresServer, postgres_server
from tests.waiting import NEVER_S, wait_until

CONFIG: Any = {"configurable": {"thread_id": "run", "checkpoint_ns": "", "checkpoint_id": "1"}}
THREAD: Any = {"configurable": {"thread_id": "run"}}
WORDS = ("소리결", "음향기기", "무선 이어폰", "출퇴근", "소음 차단")
OURS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sparklio'"
INSERT = "INSERT INTO effects VALUES ('run', 'brand', ?, 'f', 'zlib', ?)"


@contextmanager
def direct(url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that is nobody of ours."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def asked(url: str, sql: str) -> list[tuple[Any, ...]]:
    with direct(url) as connection:
        return connection.execute(sql.encode()).fetchall()


def connections(url: str) -> list[str]:
    """What each of ours does at the moment."""
    return [state for (state,) in asked(url, f"SELECT state {OURS}")]


def contents(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables of the database."""
    tables = asked(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {
        name: sorted(asked(url, f"SELECT * FROM {name}"), key=repr) for (name,) in tables if "migrations" not in name
    }


async def one_run(database: Database, run_id: str = "run", *, after: str | None = None) -> dict[str, Any]:
    """A whole run in mock mode, or one that is left after an agent; returns its state."""
    gateways = build_gateways(load_settings({"GENERATOR_MODE": "mock"}))
    graph: Any = build_graph().compile(checkpointer=database.saver)
    effects = await Ledger(database).open(run_id)
    context = Context(llm=gateways.llm, media=gateways.media, seed=7, run_id=run_id, effects=effects)
    brand = BRAND | {"uploaded_materials": [{"name": "a.txt", "text": "소리결의 이야기. " * 300}]}
    inputs: Any = RunInput.parse({"brand": brand, "product": PRODUCT}).to_state()
    config: Any = {"configurable": {"thread_id": run_id}}
    try:
        async with aclosing(graph.astream(inputs, config, context=context)) as steps:
            async for step in steps:
                if after in step:
                    break
        return dict((await graph.aget_state(config)).values)
    finally:
        await gateways.aclose()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with open_database(database_url) as database:
        yield database


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """One that may be stopped."""
    with postgres_server() as server:
        yield server


# opening


async def test_opening_again_changes_nothing(database_url: str) -> None:
    async with open_database(database_url, KEY) as database:
        await one_run(database)
    before = contents(database_url)
    async with open_database(database_url, KEY):
        pass
    assert contents(database_url) == before
    assert len(before["sparklio"]) == 1


async def opened(url: str) -> None:
    async with open_database(url, KEY) as database:
        await database.write(("INSERT INTO effects VALUES (gen_random_uuid(), 'b', 1, 'c', 'zlib', '')", ()))


def open_each(urls: list[str], together: Callable[[], object]) -> None:
    for url in urls:
        together()
        asyncio.run(opened(url))


def test_processes_that_open_one_new_database_at_once_all_succeed(postgres: PostgresServer) -> None:
    urls = [postgres.new_database() for _ in range(4)]
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(3, timeout=60)
    others = [spawn.Process(target=open_each, args=(urls, barrier.wait)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0, 0]
    assert [len(asked(url, "SELECT 1 FROM effects")) for url in urls] == [3] * 4


async def test_a_newer_layout_is_refused_and_nothing_changes(database_url: str) -> None:
    async with open_database(database_url):
        pass
    asked(database_url, "INSERT INTO sparklio_migrations VALUES ('database', 99) RETURNING 1")
    before = contents(database_url)
    with pytest.raises(StorageError, match="layout 99") as caught:
        async with open_database(database_url, KEY):
            pass
    assert "newer sparklio" in caught.value.hint
    assert contents(database_url) == before


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare: Any = postgres_database.prepare
    monkeypatch.setattr(prepare.retry, "stop", stop_after_attempt(1))


def told(error: BaseException | None) -> str:
    """Whatever may be shown of an error: it and all its causes."""
    return "" if error is None else f"{error} {error!r} {told(error.__cause__ or error.__context__)}"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "wrong",
    ["postgresql://me:s3cret@127.0.0.1:1/db", "postgresql://me:s3cret@127.0.0.1:{port}/no_such_database"],
    ids=["nobody there", "no such database"],
)
async def test_who_cannot_be_reached_is_told_without_the_password(postgres: PostgresServer, wrong: str) -> None:
    with pytest.raises(SparklioError) as caught:
        async with open_database(wrong.format(port=postgres.port)):
            pass
    assert isinstance(caught.value, ConfigError if "no_such" in wrong else StorageError)
    assert "SPARKLIO_DATABASE_URL" in caught.value.hint
    assert "s3cret" not in told(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        "postgresql://me:s3cret@host:5432/db?colour=s3cret",
        "postgresql://me:s3cret@[h/db",
        "mysql://me:s3cret@host/db",
        "postgresql+psycopg://me:s3cret@host/db",
    ],
)
async def test_what_is_no_url_is_told_without_the_password(wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        async with open_database(wrong):
            pass
    assert "postgresql://user:password@" in caught.value.hint
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://u:p:a@h:5432/db", "postgresql://u:***@h:5432/db"),
        ("host=h password='a b' user=u", "host=h password=*** user=u"),
        ("no connection to 127.0.0.1:5432", "no connection to 127.0.0.1:5432"),
    ],
)
def test_passwords_are_masked(text: str, shown: str) -> None:
    assert masked(text) == shown


async def test_without_its_package_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "graph.postgres_database")
    monkeypatch.delattr("graph.postgres_database")
    monkeypatch.setitem(sys.modules, "graph.postgres", None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        async with open_database("postgresql://localhost/db"):
            pass
    assert "sparklio[distributed]" in caught.value.hint


def test_who_keeps_files_imports_nothing_of_it() -> None:
    code = (
        "import asyncio, sys, tempfile\n"
        "from sparklio import Sparklio\n"
        "async def main():\n"
        "    async with Sparklio(home=tempfile.mkdtemp()): pass\n"
        "asyncio.run(main())\n"
        "assert not {'psycopg', 'psycopg_pool', 'langgraph.checkpoint.postgres'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# what is kept


async def test_a_run_is_kept_with_its_history_and_a_forgotten_one_leaves_nothing(database: Database) -> None:
    state = await one_run(database)
    assert state["brand_input"]["uploaded_materials"][0]["text"].startswith("소리결의")
    points = [item async for item in database.saver.alist(THREAD)]
    assert len(points) > 5
    assert points[0].checkpoint["channel_values"].items() >= state.items()
    await one_run(database, "other")
    assert await database.run_ids() == {"run", "other"}
    assert 0 < await database.measure("run") < await database.size()
    await database.forget("run")
    assert await database.run_ids() == {"other"}
    assert await database.measure("run") == 0
    columns = "SELECT table_name FROM information_schema.columns WHERE column_name = 'thread_id'"
    assert {name for (name,) in await database.read(columns)} == set(database.tables), "no table is forgotten"


async def test_each_value_comes_back_as_it_was(database: Database) -> None:
    values: dict[str, Any] = {
        "text": "한 줄", "nul": "a\0b", "long": "가" * 3000, "reference": "\0text:" + "0" * 32, "none": None,
        "number": 7, "real": 0.1, "yes": True, "list": [1, None, {"a": "b"}], "empty": {},
    }  # fmt: skip
    start = empty_checkpoint() | {"channel_values": values, "channel_versions": dict.fromkeys(values, "1")}
    await database.saver.aput(CONFIG, start, {"source": "input", "step": -1}, start["channel_versions"])
    await database.saver.aput_writes(CONFIG | {}, list(values.items()), "task")
    found = await database.saver.aget_tuple(THREAD)
    assert found is not None
    assert found.checkpoint["channel_values"] == values
    again = empty_checkpoint() | {"id": start["id"] + "1", "channel_values": values | {"text": "zwei"}}
    again |= {"channel_versions": start["channel_versions"] | {"text": "2"}}
    await database.saver.aput(found.config, again, {}, {"text": "2"})
    latest = await database.saver.aget_tuple(THREAD)
    assert latest is not None
    assert latest.checkpoint["channel_values"] == values | {"text": "zwei"}
    plain = json.dumps(await database.read("SELECT checkpoint, metadata FROM checkpoints"), default=str)
    assert "zwei" not in plain


async def test_a_checkpoint_s_writes_come_back(database: Database) -> None:
    start = empty_checkpoint()
    config = await database.saver.aput(CONFIG, start, {}, {})
    writes = [("copy", "a\0b"), ("calls", ["가" * 3000]), ("none", None)]
    for _ in range(2):
        await database.saver.aput_writes(config, writes, "task")
    found = await database.saver.aget_tuple(config)
    assert found is not None
    assert found.pending_writes == [("task", *write) for write in writes]


@pytest.mark.parametrize("table", ["checkpoint_blobs", "checkpoint_writes"])
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
async def test_a_damaged_value_is_one_typed_error(database_url: str, table: str, key: bytes | None) -> None:
    async with open_database(database_url, key) as database:
        await one_run(database, after="strategist")
        await database.write((f"UPDATE {table} SET blob = substr(blob, 3)", ()))
        with pytest.raises(StorageError) as caught:
            [_ async for _ in database.saver.alist(THREAD)]
        assert caught.value.hint


async def test_a_statement_that_is_wrong_is_told_at_once_and_none_of_its_transaction_stays(database: Database) -> None:
    with pytest.raises(StorageError, match="nonsense"):
        await database.write((INSERT, (1, b"")), ("INSERT INTO nonsense VALUES (?)", (1,)))
    assert await database.read("SELECT * FROM effects") == []


async def test_a_percent_sign_is_no_mark(database: Database) -> None:
    assert await database.read("SELECT 7 % 4, '100%' LIKE '%', ?::text", ("%s",)) == [(3, True, "%s")]


# the key


async def test_nothing_of_a_run_can_be_read_without_its_key(database_url: str) -> None:
    async with open_database(database_url, KEY) as database:
        await one_run(database)
        await one_run(database, "stopped", after="copy_desk")
    kept = contents(database_url)
    assert {"run", "stopped"} == {row[0] for row in kept["checkpoint_writes"]}
    cells = [cell for rows in kept.values() for row in rows for cell in row]
    raw = b"".join(cell if isinstance(cell, bytes) else str(cell).encode() for cell in cells)
    assert b"stopped" in raw, "ids are plain"
    assert not [word for word in WORDS if word.encode() in raw or json.dumps(word).strip('"').encode() in raw]
    assert {row[4] for row in kept["effects"]} == {"zlib-aes256gcm"}
    assert {row[4].partition("+")[2] for row in kept["checkpoint_blobs"]} == {"zlib-aes256gcm"}
    assert all(row[5]["channel_values"] == {} for row in kept["checkpoints"])
    assert {name for row in kept["checkpoints"] for name in row[6]} <= {"source", "step", "parents", "run_id"}


@pytest.mark.parametrize(
    ("wrong", "says"), [(None, "there is no key"), (OTHER, "another key")], ids=["none", "another"]
)
async def test_another_key_is_refused_and_changes_nothing(database_url: str, wrong: bytes | None, says: str) -> None:
    async with open_database(database_url, KEY):
        pass
    before = contents(database_url)
    with pytest.raises(ConfigError, match=says) as caught:
        async with open_database(database_url, wrong):
            pass
    assert "SPARKLIO_ENCRYPTION_KEY" in caught.value.hint
    assert contents(database_url) == before


async def test_a_key_that_comes_later_leaves_old_values_readable(database_url: str) -> None:
    async with open_database(database_url) as database:
        before = await one_run(database)
    async with open_database(database_url, KEY) as database:
        found = await database.saver.aget_tuple(THREAD)
        assert found is not None
        assert found.checkpoint["channel_values"].items() >= before.items()


@pytest.mark.parametrize(("old", "new"), [(None, KEY), (KEY, OTHER), (KEY, None)], ids=["on", "changed", "off"])
async def test_a_key_is_turned_on_changed_and_turned_off(
    database_url: str, old: bytes | None, new: bytes | None
) -> None:
    async with open_database(database_url, old) as database:
        await one_run(database)
        before = [item async for item in database.saver.alist(THREAD)], await Ledger(database).load("run")
    await reseal_database(database_url, old_key=old, key=new)
    async with open_database(database_url, new) as database:
        assert ([item async for item in database.saver.alist(THREAD)], await Ledger(database).load("run")) == before
    kept = contents(database_url)
    form = "zlib" if new is None else "zlib-aes256gcm"
    assert {row[4].rpartition("+")[2] for row in [*kept["checkpoint_blobs"], *kept["effects"]]} == {form}
    assert {row[6].rpartition("+")[2] for row in kept["checkpoint_writes"]} == {form}
    assert len(kept["sparklio"]) == (new is not None)


async def test_no_key_is_changed_under_somebody_s_hands(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graph.postgres_reseal._ALONE_TIMEOUT_S", 0.1)
    async with open_database(database_url) as database:
        await database.write((INSERT, (1, Vault().encrypt(b"x")[1])))
        before = contents(database_url)
        with pytest.raises(StorageError, match="in use") as caught:
            await reseal_database(database_url, old_key=None, key=KEY)
        assert caught.value.hint
    assert contents(database_url) == before


async def test_a_table_that_somebody_else_holds_is_in_use_as_well(database_url: str) -> None:
    async with open_database(database_url):
        pass
    with direct(database_url) as other, other.transaction():
        other.execute(b"LOCK TABLE effects IN ROW EXCLUSIVE MODE")
        with pytest.raises(StorageError, match="in use"):
            await reseal_database(database_url, old_key=None, key=KEY)


async def test_who_had_no_connection_while_the_key_was_changed_writes_nothing_with_the_old_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_database(database_url) as database:
        await reseal_database(database_url, old_key=None, key=KEY)
        with pytest.raises(StorageError):
            await asyncio.wait_for(impatiently(database, (INSERT, (1, b""))), NEVER_S)
    assert asked(database_url, "SELECT * FROM effects") == []


async def impatiently(database: Database, *statements: Any) -> None:
    engine: Any = database.saver.engine
    stop = type(engine)._patiently.retry.stop
    type(engine)._patiently.retry.stop = stop_after_attempt(1)
    try:
        await database.write(*statements)
    finally:
        type(engine)._patiently.retry.stop = stop


@pytest.mark.parametrize("wrong", [None, OTHER], ids=["none", "another"])
async def test_a_wrong_old_key_changes_nothing(database_url: str, wrong: bytes | None) -> None:
    async with open_database(database_url, KEY) as database:
        await one_run(database, after="brand")
    before = contents(database_url)
    with pytest.raises(ConfigError):
        await reseal_database(database_url, old_key=wrong, key=None)
    assert contents(database_url) == before


async def test_a_value_that_cannot_be_read_leaves_all_as_it_was(database_url: str) -> None:
    async with open_database(database_url, KEY) as database:
        await one_run(database, after="brand")
        await database.write(("UPDATE texts SET body = ?", (b"\0",)))
    before = contents(database_url)
    with pytest.raises(SparklioError) as caught:
        await reseal_database(database_url, old_key=KEY, key=OTHER)
    assert caught.value.hint
    assert contents(database_url) == before


# connections


async def test_connections_are_few_and_a_closed_database_leaves_nothing_behind(database_url: str) -> None:
    threads, tasks = set(threading.enumerate()), asyncio.all_tasks()
    async with open_database(database_url) as database:
        most = 0

        async def ask(n: int) -> None:
            assert await database.read("SELECT ?::int, pg_sleep(0.002)", (n,)) == [(n, "")]

        asking = asyncio.gather(*map(ask, range(300)))
        while not asking.done():
            most = max(most, len(await asyncio.to_thread(connections, database_url)))
        await asking
        assert 1 <= most <= MOST_CONNECTIONS
    await asyncio.to_thread(wait_until, lambda: not connections(database_url))
    assert asyncio.all_tasks() == tasks
    left = {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio")} - threads
    assert not left


async def test_closing_waits_for_what_is_under_way(database_url: str) -> None:
    async with open_database(database_url) as database:
        select = "INSERT INTO effects SELECT 'run', 'brand', 0, 'f', 'zlib', '' FROM pg_sleep(0.3)"
        writing = asyncio.create_task(database.write((select, ())))
        await asyncio.to_thread(wait_until, lambda: "active" in connections(database_url))
    assert len(asked(database_url, "SELECT 1 FROM effects")) == 1
    await writing
    with pytest.raises(StorageError):
        await asyncio.wait_for(database.read("SELECT 1"), NEVER_S)


def test_a_closed_pool_of_threads_leaves_nothing_behind(database_url: str) -> None:
    threads = set(threading.enumerate())
    with sync_pool(database_url) as pool:

        def ask(n: int) -> None:
            with lent(pool) as connection:
                assert connection.execute("SELECT %s::int", (n,)).fetchall() == [(n,)]

        with ThreadPoolExecutor(16) as executor:
            list(executor.map(ask, range(200)))
        assert 1 <= len(connections(database_url)) <= MOST_CONNECTIONS
    assert set(threading.enumerate()) == threads
    wait_until(lambda: not connections(database_url))


@pytest.mark.parametrize("kind", ["checkpoint", "writes", "deletion", "our own", "forgetting", "reading"])
async def test_what_is_cancelled_midway_leaves_no_transaction(database_url: str, database: Database, kind: str) -> None:
    start = empty_checkpoint() | {"channel_values": {"a": [1]}, "channel_versions": {"a": "1"}}
    works: dict[str, Callable[[], Any]] = {
        "checkpoint": lambda: database.saver.aput(CONFIG, start, {}, {"a": "1"}),
        "writes": lambda: database.saver.aput_writes(CONFIG, [("a", 1), ("b", 2)], "task"),
        "deletion": lambda: database.saver.adelete_thread("run"),
        "our own": lambda: database.write((INSERT, (1, b"")), (INSERT, (2, b""))),
        "forgetting": lambda: database.forget("run"),
        "reading": lambda: database.read("SELECT * FROM effects"),
    }
    before = contents(database_url)
    for _ in range(MOST_CONNECTIONS + 2):
        with direct(database_url) as other, other.transaction():
            tables = "checkpoints, checkpoint_blobs, checkpoint_writes, effects, texts"
            other.execute(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE".encode())
            task = asyncio.ensure_future(works[kind]())
            await asyncio.to_thread(wait_until, lambda: "active" in connections(database_url))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, NEVER_S)
    assert {*connections(database_url)} <= {"idle"}
    assert contents(database_url) == before
    await asyncio.wait_for(works[kind](), NEVER_S)


async def test_checkpoints_are_read_side_by_side(database_url: str, database: Database) -> None:
    with direct(database_url) as other, other.transaction():
        other.execute(b"LOCK TABLE checkpoints IN ACCESS EXCLUSIVE MODE")
        reading = asyncio.gather(*(database.saver.aget_tuple(THREAD) for _ in range(2 * MOST_CONNECTIONS)))
        await asyncio.to_thread(wait_until, lambda: connections(database_url) == ["active"] * MOST_CONNECTIONS)
    assert await asyncio.wait_for(reading, NEVER_S) == [None] * 2 * MOST_CONNECTIONS


async def test_a_storm_of_cancelled_calls_leaves_the_pool_whole(database_url: str, database: Database) -> None:
    dice = random.Random(7)

    async def call(n: int) -> None:
        config = await database.saver.aput(CONFIG, empty_checkpoint(), {}, {})
        await database.saver.aput_writes(config, [("a", n), ("b", n)], "task")
        await database.write((INSERT, (n, b"")), (INSERT, (-n, b"")))

    async def broken_off(n: int) -> None:
        task = asyncio.create_task(call(n))
        await asyncio.sleep(dice.random() * 0.05)
        task.cancel()
        await asyncio.wait({task})

    for start in range(1, 400, 40):
        await asyncio.gather(*map(broken_off, range(start, start + 40)))
    halves = "SELECT count(*) FROM effects GROUP BY abs(ordinal) HAVING count(*) <> 2"
    assert await database.read(halves) == []
    halves = "SELECT count(*) FROM checkpoint_writes GROUP BY checkpoint_id HAVING count(*) <> 2"
    assert await database.read(halves) == []
    told = await asyncio.to_thread(connections, database_url)
    assert set(told) == {"idle"}
    assert len(told) <= MOST_CONNECTIONS
    await asyncio.wait_for(call(1000), NEVER_S)


async def test_cut_connections_are_not_noticed(database_url: str, database: Database) -> None:
    cut = f"SELECT pg_terminate_backend(pid) {OURS}"
    for n in range(3):
        await asyncio.gather(*(database.read("SELECT pg_sleep(0.01)") for _ in range(MOST_CONNECTIONS)))
        await asyncio.to_thread(asked, database_url, cut)
        await database.write((INSERT, (n, b"")))
    assert len(await database.read("SELECT * FROM effects")) == 3


async def test_a_connection_to_a_standby_is_given_up(database: Database) -> None:
    await database.read("SELECT set_config('default_transaction_read_only', 'on', false)")
    await database.write((INSERT, (1, b"")))
    assert len(await database.read("SELECT * FROM effects")) == 1


async def test_a_pause_of_the_server_is_waited_out(own_server: PostgresServer) -> None:
    url = own_server.new_database()
    async with open_database(url) as database:
        await database.write((INSERT, (0, b"")))
        config = await database.saver.aput(CONFIG, empty_checkpoint(), {}, {})
        await asyncio.to_thread(own_server.stop)
        works = [
            database.write((INSERT, (1, b""))),
            database.read("SELECT count(*) FROM effects"),
            database.saver.aput_writes(config, [("a", 1)], "task"),
            database.saver.aget_tuple(config),
            database.texts.fold("run", "가" * 2000),
            one_run(database, "other"),
        ]
        waiting = asyncio.gather(*works)
        await asyncio.sleep(1.5)
        assert not waiting.done()
        await asyncio.to_thread(own_server.start)
        _, _, _, found, _, state = await waiting
        assert found is not None
        assert state["review"]
        assert await database.read("SELECT ordinal FROM effects WHERE thread_id = 'run' ORDER BY 1") == [(0,), (1,)]


async def test_a_pause_may_fall_into_a_run(own_server: PostgresServer) -> None:
    url = own_server.new_database()
    async with open_database(url) as database:
        running = [asyncio.create_task(one_run(database, f"run{n}")) for n in range(8)]
        await asyncio.to_thread(wait_until, lambda: bool(asked(url, "SELECT 1 FROM effects")))
        await asyncio.to_thread(own_server.restart)
        assert all(state["review"] for state in await asyncio.gather(*running))
        calls = await database.read("SELECT thread_id, node, count(*) FROM effects GROUP BY 1, 2")
        assert len({run_id for run_id, _, _ in calls}) == 8


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system knows no such limit")
def test_a_server_that_vanishes_in_the_middle_of_a_statement_is_given_up(database_url: str) -> None:
    with connected(database_url) as connection, socket.socket(fileno=os.dup(connection.fileno())) as wire:
        assert 0 < wire.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 10_000


def test_threads_wait_for_the_server_too(own_server: PostgresServer) -> None:
    with sync_pool(own_server.new_database()) as pool:

        @patient
        def ask() -> list[Any]:
            with lent(pool) as connection:
                return connection.execute("SELECT 1").fetchall()

        assert ask() == [(1,)]
        own_server.stop()
        with ThreadPoolExecutor(1) as executor:
            asking = executor.submit(ask)
            time.sleep(0.5)
            own_server.start()
            assert asking.result(NEVER_S) == [(1,)]


def test_a_thread_s_connection_to_a_standby_is_given_up(database_url: str) -> None:
    with sync_pool(database_url) as pool:

        @patient
        def write() -> None:
            with lent(pool) as connection:
                connection.execute("CREATE TABLE t (a INTEGER)")

        with lent(pool) as connection:
            connection.execute("SET default_transaction_read_only = on")
        write()
    assert asked(database_url, "SELECT * FROM t") == []


def test_what_will_not_pass_is_not_tried_again(database_url: str) -> None:
    tries: list[int] = []
    with sync_pool(database_url) as pool:

        @patient
        def ask() -> None:
            tries.append(1)
            with lent(pool) as connection:
                connection.execute("SELECT nonsense")

        with (
            pytest.raises(StorageError, match=r"cannot use the runs: .*nonsense") as caught,
            postgres_errors("the runs"),
        ):
            ask()
    assert len(tries) == 1
    assert "SPARKLIO_DATABASE_URL" in caught.value.hint


# migrations


def test_migrations_are_made_once_and_in_order(database_url: str) -> None:
    first = ["CREATE TABLE t (a INTEGER)", "INSERT INTO t VALUES (1)"]
    more = [*first, "INSERT INTO t SELECT a + 1 FROM t"]

    def start(statements: list[str]) -> None:
        with connected(database_url) as connection:
            migrate(connection, "one", statements)
            migrate(connection, "other", ["SELECT 1"])

    for statements in (first, more):
        with ThreadPoolExecutor(6) as executor:
            list(executor.map(start, [statements] * 12))
    assert asked(database_url, "SELECT a FROM t ORDER BY 1") == [(1,), (2,)]
    with connected(database_url) as connection, pytest.raises(StorageError, match="layout 3 of one"):
        migrate(connection, "one", first)


def test_a_migration_that_fails_leaves_none(database_url: str) -> None:
    with connected(database_url) as connection, pytest.raises(StorageError), postgres_errors("the runs"):
        migrate(connection, "one", ["CREATE TABLE t (a INTEGER)", "nonsense"])
    with connected(database_url) as connection:
        migrate(connection, "one", ["CREATE TABLE t (a INTEGER)"])


# packing


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])
@pytest.mark.parametrize("after", ["strategist", None])
async def test_a_run_travels_there_and_back(
    tmp_path: Path, database_url: str, after: str | None, key: bytes | None
) -> None:
    settings = {"SPARKLIO_ENCRYPTION_KEY": key.hex()} if key else {}
    async with Sparklio(home=tmp_path / "a", settings=settings) as here, open_database(database_url, key) as database:
        if after is None:
            await here.run(brand=BRAND, product=PRODUCT, run_id="page")
        else:
            await stopped(here, after)
        points, values = await here.history("page"), await here.runs.values("page")
        file = await here.pack("page", tmp_path)
        (tmp_path / "a" / "runs").rename(tmp_path / "gone")
        with open_package(file) as package:
            await unpack_run(here.runs.store, here.images, database, package)
        back = await pack_run(here.runs.store, here.images, database, "page", tmp_path / "back.sparklio")
        if key is None:
            again = await pack_run(here.runs.store, here.images, database, "page", tmp_path / "again.sparklio")
            assert again.read_bytes() == back.read_bytes()
    async with Sparklio(home=tmp_path / "b", settings=settings) as there:
        await there.unpack(back)
        assert await there.history("page") == points
        assert await there.runs.values("page") == values
        await there.resume("page")
        await check_finished(there, "page")


async def test_what_this_database_cannot_hold_is_no_package(database: Database) -> None:
    await one_run(database, after="brand")
    [checkpoint, *_] = await database.rows("checkpoints", "run")
    [write, *_] = await database.rows("writes", "run")
    damaged = [
        ("checkpoints", (*checkpoint[:6], b'{"a": "\\u0000"}')),
        ("checkpoints", (*checkpoint[:6], b'{"a": "\\ud83d"}')),
        ("checkpoints", (*checkpoint[:4], *database.saver.serde.dumps_typed({"v": 4}), checkpoint[6])),
        ("checkpoints", (*checkpoint[:4], *database.saver.serde.dumps_typed([1]), checkpoint[6])),
        ("writes", (*write[:5], 2**40, *write[6:])),
    ]
    for table, row in damaged:
        with pytest.raises(ValueError):  # noqa: PT011 - who unpacks makes an InputError of any
            database.insertions(table, [row])
