"""Events in PostgreSQL and Redis: whole, in order and numbered once, whatever either server forgets."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from redis import Redis

from graph import event_table
from graph.event_stream import RINGS, EventStream
from graph.event_table import TableEventLog
from graph.events import Event, Events, EventType
from graph.following import Bells, follow
from graph.rings import listening
from graph.run_table import PostgresRunStore, open_run_table
from graph.store import EventLog, RunRecord
from providers.errors import ConfigError, StorageError
from tests.postgres_server import postgres_server
from tests.redis_server import RedisServer, free_port
from tests.waiting import NEVER_S, until, wait_until

ROOT = Path(__file__).resolve().parent.parent

WRITER = """
import sys, time
from pathlib import Path
from graph.events import Events
from graph.run_table import open_run_table

url, broker, home, tokens, pause_s, end = sys.argv[1:]
with open_run_table(Path(home), url, broker or None, lease_s=1.0, beat_s=0.1) as store, store.lock("page"):
    record = store.read("page")
    record.status = "running"
    store.save(record)
    with store.event_log("page", lambda: None) as event_log:
        events = Events("page", event_log)
        print(events.make("run_started", {})["seq"], flush=True)
        for number in range(int(tokens)):
            print(events.make("token", {"text": "x"}, "brand")["seq"], flush=True)
            time.sleep(float(pause_s))
        if end != "finish":
            time.sleep(600)
        print(events.make("run_finished", {})["seq"], flush=True)
    record.status = "finished"
    store.save(record)
"""
"""Another process that tells of the run "page", and finishes it or waits to be killed."""

Open = Callable[..., PostgresRunStore]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def open_store(database_url: str, tmp_path: Path) -> Iterator[Open]:
    with ExitStack() as stack:

        def open_store(broker: str | None = None) -> PostgresRunStore:
            return stack.enter_context(open_run_table(tmp_path, database_url, broker, lease_s=1.0, beat_s=0.1))

        yield open_store


@pytest.fixture(params=["redis", "table alone"])
def broker(request: pytest.FixtureRequest) -> str | None:
    if request.param == "table alone":
        return None
    server: RedisServer = request.getfixturevalue("redis")
    return server.url


@pytest.fixture
def start(database_url: str, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(broker: str | None, tokens: int, *, pause_s: float = 0.0, end: str = "wait") -> subprocess.Popen[str]:
            words = [database_url, broker or "", str(tmp_path), str(tokens), str(pause_s), end]
            process = subprocess.Popen(
                [sys.executable, "-c", WRITER, *words],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


def book(store: PostgresRunStore, run_id: str = "page") -> RunRecord:
    record = RunRecord(
        run_id=run_id,
        status="queued",
        mode="mock",
        seed=1,
        nodes=["brand"],
        inputs={"product_input": {"name": "소리결"}},
        out=Path("/nowhere"),
    )
    store.create(record)
    return record


def opened(store: PostgresRunStore) -> EventLog:
    return store.event_log("page", lambda: None)


def told(log: EventLog, *words: str, kind: EventType = "token") -> list[Event]:
    events = Events("page", log)
    return [events.make(kind, {"text": word}, "brand") for word in words]


def read(store: PostgresRunStore, after: int = 0) -> list[Event]:
    return list(store.events("page", after))


def numbers(events: list[Event]) -> list[int]:
    return [event["seq"] for event in events]


def archived(url: str) -> int:
    """How many events are in the table for good, by their numbers."""
    with psycopg.connect(url) as connection:
        return int(connection.execute("SELECT coalesce(sum(last_seq - first_seq + 1), 0) FROM events").fetchall()[0][0])


# what is told is there


def test_an_event_is_there_for_everybody_as_soon_as_it_is_told(open_store: Open, broker: str | None) -> None:
    here, there = open_store(broker), open_store(broker)
    book(here)
    assert read(there) == []
    with here.lock("page"), opened(here) as log:
        made = told(log, "열두 시간", 'quote " and \n line\r', "\u2028", "", "a\ud83d")
        assert read(there) == made
        assert read(there, 3) == made[3:]
        made += told(log, "end", kind="run_failed")
        assert read(there) == made
    assert read(there) == made
    assert there.event_reader("other").read() is None


def test_numbers_go_on_where_the_last_session_ended(open_store: Open, broker: str | None) -> None:
    store = open_store(broker)
    book(store)
    for session in range(3):
        with store.lock("page"), opened(store) as log:
            assert log.last == 2 * session
            told(log, "a", "b")
    assert numbers(read(store)) == [1, 2, 3, 4, 5, 6]


def test_many_events_are_written_down_some_at_a_time(open_store: Open, redis: RedisServer, database_url: str) -> None:
    store = open_store(redis.url)
    book(store)
    with store.lock("page"), opened(store) as log:
        told(log, "begin", kind="node_started")
        assert archived(database_url) == 1
        made = told(log, *("x" for _ in range(49)))
        assert archived(database_url) == 1
        made += told(log, "x")
        assert archived(database_url) == 51
        told(log, *("x" for _ in range(1200)))
        assert len(read(store)) == 1251
    assert archived(database_url) == 1251
    plain = open_store()
    assert numbers(read(plain)) == list(range(1, 1252)), "without Redis"


def test_a_log_of_a_run_that_nobody_holds_is_kept_too(open_store: Open, broker: str | None) -> None:
    store = open_store(broker)
    book(store)
    with opened(store) as log:
        made = told(log, "a", "b")
    assert read(store) == made


def test_a_new_run_shows_no_earlier_one_s_events(open_store: Open, broker: str | None) -> None:
    store = open_store(broker)
    for _ in range(2):
        book(store)
        assert read(store) == []
        with store.lock("page"), opened(store) as log:
            assert numbers(told(log, "a")) == [1]
        store.discard("page")
    book(store)
    with store.lock("page"), opened(store) as log:
        told(log, "a", kind="run_failed")
    store.clear("page")
    assert read(store) == []


def test_live_events_go_when_all_of_them_are_written_down(open_store: Open, redis: RedisServer) -> None:
    store = open_store(redis.url)
    book(store)
    with Redis.from_url(redis.url) as client:
        for kind, at_most, at_least in (("node_finished", 24 * 60 * 60, 60 * 60), ("run_finished", 60, 1)):
            with store.lock("page"), opened(store) as log:
                told(log, "a", kind=kind)  # type: ignore[arg-type]
            for key in ("sparklio:events:page", "sparklio:events:page:fence"):
                assert at_least <= int(client.ttl(key)) <= at_most
        client.flushall()
    assert numbers(read(store)) == [1, 2]


@pytest.mark.parametrize("lost", [range(1, 10), range(10, 20), range(15, 31), range(1, 31)])
def test_what_redis_has_lost_is_in_the_table(open_store: Open, redis: RedisServer, lost: range) -> None:
    store = open_store(redis.url)
    book(store)
    with store.lock("page"), opened(store) as log:
        made = told(log, *("x" for _ in range(29))) + told(log, "end", kind="run_finished")
    with Redis.from_url(redis.url) as client:
        client.xdel("sparklio:events:page", *(f"{seq}-0" for seq in lost))
    assert read(store) == made
    assert read(store, 12) == made[12:]


def test_a_damaged_row_is_told(open_store: Open, database_url: str) -> None:
    store = open_store()
    book(store)
    with store.lock("page"), opened(store) as log:
        told(log, "a")
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE events SET body = 'x'")
    with pytest.raises(StorageError, match="damaged") as caught:
        read(store)
    assert caught.value.hint


# processes


async def test_a_run_of_another_process_is_followed_while_it_runs(
    open_store: Open, start: Start, broker: str | None
) -> None:
    store, bells = open_store(broker), Bells()
    book(store)
    process = start(broker, 100, pause_s=0.01, end="finish")
    async with asyncio.timeout(NEVER_S):
        seen = [event async for event in follow(store, "page", 0, bells)]
        late = [event async for event in follow(store, "page", 50, bells)]
    assert numbers(seen) == list(range(1, 103))
    assert late == seen[50:]
    assert [int(line) for line in process.stdout or ()] == numbers(seen)


async def test_a_follower_that_hears_the_bells_is_told_at_once(
    open_store: Open, start: Start, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks by itself only so seldom that this would not end."""
    store, bells = open_store(redis.url), Bells()
    book(store)
    monkeypatch.setattr("graph.following._SELDOM_S", 10 * NEVER_S)
    async with listening(redis.url, bells), asyncio.timeout(NEVER_S):
        await until(lambda: bells.hears_others)
        process = start(redis.url, 20, pause_s=0.05, end="finish")
        seen = [event async for event in follow(store, "page", 0, bells)]
    assert numbers(seen) == list(range(1, 23))
    assert process.wait(NEVER_S) == 0


@pytest.mark.parametrize("forget", [True, False])
def test_after_a_kill_no_number_is_given_twice(
    open_store: Open, start: Start, redis: RedisServer, forget: bool
) -> None:
    store = open_store(redis.url)
    book(store)
    process = start(redis.url, 20)
    assert process.stdout is not None
    seen = [int(process.stdout.readline()) for _ in range(21)]
    process.send_signal(signal.SIGKILL)
    process.wait(NEVER_S)
    assert numbers(read(store)) == seen, "what was told is in Redis"
    redis.restart(forget=forget)
    wait_until(lambda: store.load("page").status == "interrupted")
    with store.lock("page"), opened(store) as log:
        events = told(log, "again", kind="run_started")
        assert events[0]["seq"] > seen[-1] + 1000, "Redis began anew, and may have lost the latest ones"
        told(log, "end", kind="run_finished")
        assert read(store, seen[-1])[0] == events[0]
    assert numbers(read(store))[-2:] == [events[0]["seq"], events[0]["seq"] + 1]


def test_after_a_kill_numbers_go_on_without_a_gap_where_nothing_was_lost(
    open_store: Open, start: Start, broker: str | None
) -> None:
    store = open_store(broker)
    book(store)
    process = start(broker, 20)
    assert process.stdout is not None
    seen = [int(process.stdout.readline()) for _ in range(21)]
    process.kill()
    process.wait(NEVER_S)
    wait_until(lambda: store.load("page").status == "interrupted")
    with store.lock("page"), opened(store) as log:
        assert numbers(told(log, "again", kind="run_started")) == [seen[-1] + 1]
    assert numbers(read(store)) == [*seen, seen[-1] + 1]


def test_a_session_without_redis_knows_of_one_that_had_it(open_store: Open, start: Start, redis: RedisServer) -> None:
    plain = open_store()
    book(plain)
    process = start(redis.url, 20)
    assert process.stdout is not None
    seen = [int(process.stdout.readline()) for _ in range(21)]
    process.kill()
    process.wait(NEVER_S)
    wait_until(lambda: plain.load("page").status == "interrupted")
    with plain.lock("page"), opened(plain) as log:
        assert log.last > seen[-1] + 1000
        told(log, "a")
    with plain.lock("page"), opened(plain) as log:
        assert log.last == numbers(read(plain))[-1], "which it was told once"


def test_whoever_lost_the_run_tells_nothing_more(open_store: Open, broker: str | None, database_url: str) -> None:
    """It was stopped, and writes before it learns that somebody else goes on with the run."""
    store, other = open_store(broker), open_store(broker)
    book(store)
    with store.lock("page"), opened(store) as late:
        made = told(late, "a", kind="run_started")
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("UPDATE runs SET owner = NULL, lease_until = NULL")
        with other.lock("page"), opened(other) as log:
            told(late, "lost", "lost", "lost")
            made += told(log, "b", kind="run_started")
            told(late, "lost", kind="run_failed")
            made += told(log, "c", kind="run_finished")
            assert read(other) == made
    assert read(other) == made
    assert numbers(made) == [1, 2, 3]


# servers that are away


async def test_redis_may_forget_everything_while_it_is_followed(
    open_store: Open, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graph.event_stream._LONGEST_PAUSE_S", 0.2)
    here, there, bells = open_store(redis.url), open_store(redis.url), Bells()
    record, seen = book(here), list[Event]()
    made: list[Event] = []

    async def following() -> None:
        async for event in follow(there, "page", 0, bells):
            seen.append(event)

    async with listening(redis.url, bells), asyncio.timeout(NEVER_S):
        task = asyncio.create_task(following())
        with here.lock("page"):
            record.status = "running"
            here.save(record)
            with opened(here) as log:
                made += told(log, "begin", kind="run_started")
                for number in range(150):
                    made += told(log, "x")
                    await asyncio.sleep(0.005)
                    if number in (50, 100):
                        await asyncio.to_thread(redis.restart, forget=True, after_s=0.3 * (number == 100))
                made += told(log, "end", kind="run_finished")
            record.status = "finished"
            here.save(record)
        await task
    assert seen == made
    assert numbers(made) == list(range(1, 153))


def test_redis_that_is_away_is_told_once_and_the_table_has_all(
    open_store: Open, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_table, "_WAITING_S", 0.0)
    store = open_store(f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    book(store)
    with store.lock("page"), opened(store) as log:
        made = told(log, *("x" for _ in range(200)))
        assert read(store) == made, "tokens, too, which nobody could hear of otherwise"
    with store.lock("page"), opened(store) as log:
        assert log.last == 200
    assert caplog.text.count("Redis does not answer") == 1
    assert "hunter2" not in caplog.text


def test_a_session_that_redis_never_heard_of_may_have_told_more(open_store: Open, start: Start) -> None:
    away = f"redis://127.0.0.1:{free_port()}/0"
    store = open_store(away)
    book(store)
    process = start(away, 5)
    assert process.stdout is not None
    seen = [int(process.stdout.readline()) for _ in range(6)]
    process.kill()
    process.wait(NEVER_S)
    wait_until(lambda: store.load("page").status == "interrupted")
    with store.lock("page"), opened(store) as log:
        assert log.last > seen[-1] + 1000


def test_what_the_table_does_not_take_at_once_it_takes_later(
    open_store: Open, redis: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store, plain = open_store(redis.url), open_store()
    book(store)
    execute = TableEventLog._execute

    def refuse(log: TableEventLog, statement: str, **values: Any) -> Any:
        raise psycopg.OperationalError("the server is starting up")

    with store.lock("page"), opened(store) as log:
        made = told(log, "a", kind="node_started")
        monkeypatch.setattr(TableEventLog, "_execute", refuse)
        made += told(log, "b", "c", kind="node_started")
        assert read(store) == made, "live"
        assert numbers(read(plain)) == [1]
        monkeypatch.setattr(TableEventLog, "_execute", execute)
        made += told(log, "d", kind="run_finished")
        assert read(plain) == made, "the last one is not put off"
    assert caplog.text.count("not all events can be written down") == 1
    with store.lock("page"), opened(store) as log:
        assert log.last == 4


def test_what_is_written_down_though_nobody_heard_so_is_written_down_again_with_what_came_since(
    open_store: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    book(store)
    execute = TableEventLog._execute

    def cut_off(log: TableEventLog, statement: str, **values: Any) -> Any:
        execute(log, statement, **values)
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    with store.lock("page"), opened(store) as log:
        monkeypatch.setattr(TableEventLog, "_execute", cut_off)
        made = told(log, "a")
        monkeypatch.setattr(TableEventLog, "_execute", execute)
        made += told(log, "b", "c", kind="run_finished")
    assert read(store) == made


def test_a_session_that_could_not_be_written_down_is_leapt_over(
    open_store: Open, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(redis.url)
    book(store)

    def refuse(log: TableEventLog, statement: str, **values: Any) -> Any:
        raise psycopg.OperationalError("the server is starting up")

    with store.lock("page"):
        with monkeypatch.context() as patch, opened(store) as log:
            told(log, "a", kind="node_started")
            patch.setattr(TableEventLog, "_execute", refuse)
            told(log, "b", "c")
        redis.restart(forget=True)
        with opened(store) as log:
            assert log.last > 1000


def test_events_outlive_a_pause_of_the_database(tmp_path: Path, redis: RedisServer) -> None:
    with postgres_server() as server, ExitStack() as stack:
        store = stack.enter_context(open_run_table(tmp_path, server.new_database(), redis.url))
        book(store)
        with store.lock("page"), opened(store) as log:
            made = told(log, "a", kind="node_started")
            away = threading.Thread(target=server.restart, kwargs={"after_s": 1.0})
            away.start()
            for _ in range(10):
                made += told(log, "b")
                time.sleep(0.05)
            made += told(log, "c", kind="run_finished")
            away.join()
        with Redis.from_url(redis.url) as client:
            client.flushall()
        assert read(store) == made


# bells of other processes


async def test_whoever_listens_hears_again_once_redis_is_back(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    bells = Bells()
    async with listening(redis.url, bells):
        for _ in range(2):
            await until(lambda: bells.hears_others)
            bell = bells.bell("page")
            with Redis.from_url(redis.url) as client:
                while not bell.is_set():
                    client.publish(RINGS, "page")
                    await asyncio.sleep(0.005)
            bell = bells.bell("page")
            await asyncio.to_thread(redis.kill)
            await until(lambda: not bells.hears_others)
            assert bell.is_set(), "whoever follows looks by himself from now on"
            await asyncio.to_thread(redis.start)
    assert not bells.hears_others
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "rings"]


async def test_a_redis_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch, redis: RedisServer) -> None:
    """The machine is gone, and nobody has told the connection."""
    monkeypatch.setattr("graph.rings._SILENCE_S", 1.0)
    bells = Bells()
    async with listening(redis.url, bells):
        await until(lambda: bells.hears_others)
        assert redis._process is not None
        await asyncio.sleep(2.5)
        assert bells.hears_others, "it answers when it is asked"
        redis._process.send_signal(signal.SIGSTOP)
        try:
            await until(lambda: not bells.hears_others)
        finally:
            redis._process.send_signal(signal.SIGCONT)
        await until(lambda: bells.hears_others)


async def test_a_cancellation_that_is_lost_is_said_again(monkeypatch: pytest.MonkeyPatch, redis: RedisServer) -> None:
    waiting, lost = asyncio.Event(), 0

    async def get_message(*_: Any, **__: Any) -> None:
        nonlocal lost
        waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost += 1
            if lost > 1:
                raise

    monkeypatch.setattr("graph.rings.PubSub.get_message", get_message)
    async with asyncio.timeout(NEVER_S), listening(redis.url, Bells()):
        await waiting.wait()
    assert lost == 2


async def test_no_broker_is_told_without_its_password(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError, match="no URL of a Redis") as caught:
        async with listening("http://:hunter2@x", Bells()):
            raise AssertionError("that is no Redis server")
    assert "hunter2" not in str(caught.value)
    bells = Bells()
    async with listening(f"redis://:hunter2@127.0.0.1:{free_port()}/0", bells):
        await until(lambda: "Redis does not answer" in caplog.text)
    assert "hunter2" not in caplog.text


def test_a_stream_may_be_asked_by_many_threads_while_redis_comes_and_goes(redis: RedisServer) -> None:
    stream = EventStream(redis.url)
    threads = [
        threading.Thread(target=lambda: [stream.add("page", 1, seq, b"{}") for seq in range(1, 200)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    redis.restart()
    for thread in threads:
        thread.join(NEVER_S)
    wait_until(lambda: stream.add("page", 1, 1000, b"{}"))
    assert stream.after("page", 999, 10) == [(1000, b"{}")]
    stream.close()
