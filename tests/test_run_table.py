"""Runs in PostgreSQL: the same book as in files, and who of many machines holds a run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from graph.run_files import FileRunStore
from graph.run_table import PostgresRunStore, open_run_table
from graph.store import Parent, RunRecord, RunStore
from providers.errors import (
    ConfigError,
    ConflictError,
    InputError,
    RunBusyError,
    RunExistsError,
    SparklioError,
    StorageError,
    UnknownNameError,
)
from sparklio.server.run_list import RunList, Wanted, run_list
from sparklio.server.run_table_list import RunTableList, table_list
from tests.postgres_server import PostgresServer, postgres_server
from tests.redis_server import RedisServer, free_port
from tests.waiting import NEVER_S, wait_until

ROOT = Path(__file__).resolve().parent.parent
LEASE_S, BEAT_S = 1.0, 0.1

HOLDER = """
import sys, time
from pathlib import Path
from graph.run_table import open_run_table
from providers.errors import RunBusyError

url, home = sys.argv[1:]
with open_run_table(Path(home), url, lease_s=1.0, beat_s=0.1) as store, store.lock("page"):
    record = store.read("page")
    record.status = "running"
    store.save(record)
    print("held", flush=True)
    refused = []
    for ask in (lambda: store.check_held("page"), lambda: store.save(record)):
        try:
            while True:
                ask()
                time.sleep(0.02)
        except RunBusyError as exc:
            print("lost", exc, flush=True)
"""
"""Another process that holds "page" and writes its record again and again, until it is told that it lost it."""

Open = Callable[..., PostgresRunStore]


@pytest.fixture
def open_store(database_url: str, tmp_path: Path) -> Iterator[Open]:
    """Stores of one database, each as another machine has it."""
    with ExitStack() as stack:

        def open_store(
            broker: str | None = None, *, lease_s: float = LEASE_S, beat_s: float = BEAT_S
        ) -> PostgresRunStore:
            home = tmp_path / f"home-{len(list(tmp_path.iterdir()))}"
            home.mkdir()
            return stack.enter_context(open_run_table(home, database_url, broker, lease_s=lease_s, beat_s=beat_s))

        yield open_store


@pytest.fixture(params=["files", "table"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> RunStore:
    if request.param == "files":
        return FileRunStore(tmp_path)
    opened: RunStore = request.getfixturevalue("open_store")()
    return opened


def record(run_id: str = "page", **changes: Any) -> RunRecord:
    whole: dict[str, Any] = {
        "run_id": run_id,
        "mode": "mock",
        "seed": 1,
        "nodes": ["brand"],
        "inputs": {"product_input": {"name": "소리결 Air"}},
        "out": Path("/nowhere"),
    }
    return RunRecord(**(whole | changes))


def sql(url: str, statement: str, *values: Any) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def holder(database_url: str, open_store: Open, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Holds the run "page" until it is taken from it."""
    open_store().create(record())
    home = tmp_path / "other"
    home.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, database_url, str(home)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


# one book, wherever it is kept


def test_a_record_is_read_as_it_was_written(store: RunStore) -> None:
    first = record(
        status="queued",
        parent=Parent(run_id="x", start_at="vision"),
        keeper="server",
        batch="b",
        request="r",
        stage="final",
    )
    store.create(first)
    assert store.read("page") == store.load("page") == first
    assert store.exists("page")
    first.status, first.finished_at, first.error = "failed", datetime.now(UTC), {"code": "x\0"}
    store.save(first)
    assert store.read("page") == store.load("page") == first
    assert store.statuses(["page", "other"]) == {"page": "failed"}
    assert store.status_of("page") == "failed"


def test_an_id_is_taken_once(store: RunStore) -> None:
    first = record(seed=1)
    store.create(first)
    store.save_result("page", b"{}")
    for again in (first, record(seed=2)):
        with pytest.raises(RunExistsError, match="exists already"):
            store.create(again)
    assert store.read("page").seed == 1
    assert store.read_result("page") == b"{}", "who was refused has deleted nothing"


def test_what_was_taken_back_was_never_there(store: RunStore) -> None:
    store.create(record())
    store.discard("page")
    assert not store.exists("page")
    assert store.stamp("page") is None
    store.create(record())
    assert store.exists("page")


@pytest.mark.parametrize("ask", ["load", "read", "family", "status_of"])
def test_an_unknown_run_is_told_with_those_that_there_are(store: RunStore, ask: str) -> None:
    store.create(record("known"))
    with pytest.raises(UnknownNameError, match="known"):
        getattr(store, ask)("page")


@pytest.mark.parametrize("ask", ["load", "read", "family", "exists", "folder", "event_reader", "read_result"])
def test_what_is_no_id_is_told(store: RunStore, ask: str) -> None:
    with pytest.raises(InputError, match="not a run id"):
        getattr(store, ask)("../../page")


def test_a_run_that_nobody_holds_is_interrupted(store: RunStore) -> None:
    store.create(record())
    assert store.read("page").status == "running"
    assert store.load("page").status == "interrupted"
    assert store.statuses(["page"]) == {"page": "interrupted"}
    with store.lock("page"):
        assert store.load("page").status == "running"
        assert [run.status for run in store.all()] == ["running"]
        with pytest.raises(RunBusyError, match="being run"), store.lock("page"):
            raise AssertionError("held twice")
        store.check_held("page")
        assert not store.wants_cancel("page")
    assert store.status_of("page") == "interrupted"
    with store.lock("page"):
        store.check_held("page")


def test_the_list_and_the_family(store: RunStore) -> None:
    began = datetime.now(UTC)
    for minutes, run_id in enumerate(["page", "page.2", "other", "page.10", "page-x"]):
        store.create(record(run_id, created_at=began + timedelta(minutes=minutes)))
    assert [run.run_id for run in store.all()] == ["page-x", "page.10", "other", "page.2", "page"]
    assert [run.run_id for run in store.family("page.2")] == ["page", "page.2", "page.10"]
    assert sorted(store.members("page")) == ["page", "page.10", "page.2"]
    assert store.next_member("page.2") == "page.11"
    assert store.next_member("other") == "other.2"


def test_a_stamp_is_another_one_once_the_record_is_written_anew(store: RunStore) -> None:
    first = record()
    store.create(first)
    stamp = store.stamp("page")
    assert stamp == store.stamp("page") is not None
    store.save(first)
    assert store.stamp("page") != stamp


def test_a_result_is_kept_and_cleared(store: RunStore) -> None:
    store.create(record())
    assert store.read_result("page") is None
    with store.lock("page"):
        store.save_result("page", b'{"a": "\xec\x86\x8c"}')
    assert store.read_result("page") == b'{"a": "\xec\x86\x8c"}'
    store.clear("page")
    assert store.read_result("page") is None


# the table's own


def test_a_request_books_one_run(open_store: Open) -> None:
    here, there = open_store(), open_store()
    here.create(record("first", request="r1"))
    with pytest.raises(ConflictError, match="'first' was booked for this request") as caught:
        there.create(record("second", request="r1"))
    assert caught.value.hint
    assert not there.exists("second")
    assert (there.booked("r1"), there.booked("r2")) == ("first", None)
    there.create(record("third"))
    there.create(record("fourth"))


def test_a_booking_that_is_repeated_finds_itself(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection is lost between the commit and its answer."""
    store = open_store()
    execute = psycopg.Connection.execute
    lost: list[bytes] = []

    def losing(connection: Any, statement: Any, *args: Any, **kwargs: Any) -> Any:
        cursor = execute(connection, statement, *args, **kwargs)
        if isinstance(statement, bytes) and b"INSERT INTO runs" in statement and not lost:
            lost.append(statement)
            connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return cursor

    monkeypatch.setattr(psycopg.Connection, "execute", losing)
    store.create(record())
    assert lost
    assert store.exists("page")
    with pytest.raises(RunExistsError):
        store.create(record())


def test_bookers_of_one_moment_get_an_id_each(open_store: Open) -> None:
    stores = [open_store() for _ in range(2)]
    stores[0].create(record())

    def book(number: int) -> str:
        store = stores[number % 2]
        while True:
            run_id = store.next_member("page")
            try:
                store.create(record(run_id, seed=number))
            except RunExistsError:
                continue
            assert store.read(run_id).seed == number
            return run_id

    with ThreadPoolExecutor(10) as threads:
        booked = list(threads.map(book, range(20)))
    assert sorted(booked) == sorted(f"page.{number}" for number in range(2, 22))


def test_columns_say_what_the_record_says(open_store: Open, database_url: str) -> None:
    store = open_store()
    first = record(status="queued", keeper="workers", batch="b", request="r")
    store.create(first)
    columns = "SELECT status, mode, keeper, batch, request, finished_at, folded FROM runs"
    assert sql(database_url, columns) == [("queued", "mock", "workers", "b", "r", None, "소리결 air")]
    first.status, first.finished_at, first.keeper, first.batch = "failed", datetime.now(UTC), None, None
    store.save(first)
    assert sql(database_url, columns) == [("failed", "mock", None, None, "r", first.finished_at, "소리결 air")]
    sql(database_url, "UPDATE runs SET status = 'queued', keeper = 'workers', finished_at = NULL")
    assert (store.read("page").status, store.load("page").keeper, store.load("page").finished_at) == (
        "queued",
        "workers",
        None,
    )


def test_a_damaged_record_hides_no_other(open_store: Open, database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    store = open_store()
    store.create(record("good"))
    store.create(record("bad"))
    sql(database_url, "UPDATE runs SET record = '{}' WHERE run_id = 'bad'")
    assert [run.run_id for run in store.all()] == ["good"]
    assert "'bad' is damaged" in caplog.text
    with pytest.raises(StorageError, match="damaged"):
        store.load("bad")


def test_pages_of_the_table_are_those_of_the_files(open_store: Open, tmp_path: Path) -> None:
    files, table = FileRunStore(tmp_path), open_store()
    began = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(12):
        one = record(
            f"run-{number}" if number % 3 else f"page.{number + 2}",
            created_at=began + timedelta(microseconds=number // 2),
            status=("queued", "running", "finished")[number % 3],
            mode=("mock", "live")[number % 2],
            inputs={"product_input": {"name": f"Straße {number}%"}},
            parent=Parent(run_id="page") if number % 3 == 0 else None,
            keeper="server" if number < 9 else None,
            request=f"r{number}",
            finished_at=began if number % 3 == 2 else None,
        )
        files.create(one)
        table.create(one)
    lists = run_list(files), run_list(table)
    assert [type(one) for one in lists] == [RunList, RunTableList]
    for wanted in (
        Wanted(),
        Wanted(status="interrupted"),
        Wanted(status="queued", mode="live"),
        Wanted(product="STRASSE 1"),
        Wanted(product="_"),
        Wanted(family="page.9"),
        Wanted(status="cancelled"),
    ):
        cursors: list[str | None] = [None, None]
        while True:
            pages = [one.page(wanted, 2, cursor) for one, cursor in zip(lists, cursors, strict=True)]
            assert pages[0] == pages[1]
            cursors = [cursor for _, cursor in pages]
            if cursors[0] is None:
                break
    assert lists[0].kept_by("workers") == lists[1].kept_by("workers") == []
    assert [run for run in lists[0].kept_by("server") if run.status != "finished"] == lists[1].kept_by("server")
    for cursor in ("x", "ffffffffffffffff-page"):
        with pytest.raises(InputError, match="no cursor"):
            lists[1].page(Wanted(), 2, cursor)
    with pytest.raises(TypeError):
        table_list(files)


# who holds a run


def test_a_run_is_held_by_one_of_all(open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = open_store(), open_store()
    here.create(record())
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    with there.lock("page"):
        monkeypatch.undo()
        with pytest.raises(RunBusyError, match="elsewhere") as caught, here.lock("page"):
            raise AssertionError("held on two machines")
        assert "elsewhere" in caught.value.hint
        with pytest.raises(RunBusyError, match="elsewhere"):
            here.save(here.read("page"))
        with pytest.raises(RunBusyError, match="elsewhere"):
            here.save_result("page", b"")
        assert here.load("page").status == "running"
        there.save(there.read("page"))
    with here.lock("page"):
        here.save(here.read("page"))


def test_what_is_not_there_is_held_by_nobody(open_store: Open) -> None:
    store = open_store()
    with pytest.raises(UnknownNameError), store.lock("page"):
        raise AssertionError("there is none")
    with pytest.raises(UnknownNameError):
        store.save(record())
    store.create(record())
    with store.lock("page"):
        store.check_held("page")


def test_of_a_hundred_that_want_a_run_one_gets_it(open_store: Open) -> None:
    stores = [open_store(lease_s=30.0) for _ in range(4)]
    stores[0].create(record())
    together, held, refused = threading.Barrier(100), [], []
    done = threading.Event()

    def want(number: int) -> None:
        together.wait(NEVER_S)
        try:
            with stores[number % 4].lock("page"):
                held.append(number)
                done.wait(NEVER_S)
        except RunBusyError:
            refused.append(number)
            if len(refused) == 99:
                done.set()

    with ThreadPoolExecutor(100) as threads:
        list(threads.map(want, range(100)))
    assert (len(held), len(refused)) == (1, 99)


def test_a_lease_is_renewed_for_as_long_as_a_run_is_held(open_store: Open, database_url: str) -> None:
    store = open_store()
    store.create(record())
    until = "SELECT lease_until FROM runs"
    with store.lock("page"):
        [(first,)] = sql(database_url, until)
        wait_until(lambda: sql(database_url, until)[0][0] > first + timedelta(seconds=2 * LEASE_S))
        store.check_held("page")
        assert store.load("page").status == "running"
    assert sql(database_url, "SELECT owner, lease_until FROM runs") == [(None, None)]


def test_a_killed_holder_s_run_is_free_soon(open_store: Open, holder: subprocess.Popen[str]) -> None:
    store = open_store()
    with pytest.raises(RunBusyError), store.lock("page"):
        raise AssertionError("held twice")
    holder.kill()
    assert holder.wait(NEVER_S) == -signal.SIGKILL
    wait_until(lambda: store.load("page").status == "interrupted")
    with store.lock("page"):
        assert store.load("page").status == "running"


def test_a_holder_that_was_stopped_learns_that_it_lost_its_run(open_store: Open, holder: subprocess.Popen[str]) -> None:
    store = open_store()
    holder.send_signal(signal.SIGSTOP)
    wait_until(lambda: store.load("page").status == "interrupted")
    with store.lock("page"):
        ours = store.read("page")
        ours.spent_usd = 7.0
        store.save(ours)
        stamp = store.stamp("page")
        holder.send_signal(signal.SIGCONT)
        assert holder.stdout is not None
        told = holder.stdout.read().splitlines()
        assert [line.split()[0] for line in told] == ["lost", "lost"]
        assert holder.wait(NEVER_S) == 0
        assert store.stamp("page") == stamp, "it has written nothing more, nor taken our lease with it"
        store.check_held("page")


def test_what_was_taken_from_us_is_not_ours_to_write(open_store: Open, database_url: str) -> None:
    """Before any beat tells: the table itself refuses."""
    store = open_store(beat_s=1000.0, lease_s=1000.0)
    store.create(record())
    with store.lock("page"):
        sql(database_url, "UPDATE runs SET owner = 'elsewhere:1:x'")
        with pytest.raises(RunBusyError, match="elsewhere"):
            store.save(store.read("page"))
        with pytest.raises(RunBusyError, match="elsewhere"):
            store.save_result("page", b"{}")
        assert store.read_result("page") is None
    assert sql(database_url, "SELECT owner FROM runs") == [("elsewhere:1:x",)]


def test_an_old_lease_is_looked_at_before_it_is_believed(open_store: Open, database_url: str) -> None:
    """Whoever was stopped asks at once, and not with the next beat."""
    store = open_store(beat_s=1000.0, lease_s=0.01)
    store.create(record())
    with store.lock("page"):
        store._leases._beat_s = 0.0
        time.sleep(0.02)
        store.check_held("page")
        sql(database_url, "UPDATE runs SET owner = 'elsewhere:1:x'")
        time.sleep(0.02)
        with pytest.raises(RunBusyError, match="taken over"):
            store.check_held("page")
        with pytest.raises(RunBusyError, match="being run"), store.lock("page"):
            raise AssertionError("whoever has lost it has not left it yet")


def test_a_run_that_was_let_go_a_moment_ago_is_busy(open_store: Open, database_url: str) -> None:
    store = open_store(beat_s=1000.0, lease_s=1000.0)
    store.create(record())
    with store.lock("page"):
        sql(database_url, "UPDATE runs SET owner = NULL")
        with pytest.raises(RunBusyError, match="a moment ago"):
            store.save(record())


# somebody wants it stopped


def test_a_wish_to_stop_a_run_reaches_who_holds_it(open_store: Open) -> None:
    here, there = open_store(), open_store()
    here.create(record())
    assert not here.wants_cancel("page")
    with here.lock("page"):
        assert there.request_cancel("page")
        wait_until(lambda: here.wants_cancel("page"))
        assert not there.wants_cancel("page")
        ended = here.read("page")
        ended.status = "cancelled"
        here.save(ended)
    assert not there.request_cancel("page")
    assert not there.request_cancel("other")


def test_a_wish_is_for_the_session_that_is_to_come_and_no_later_one(open_store: Open) -> None:
    store = open_store()
    run = record(status="queued")
    store.create(run)
    store.request_cancel("page")
    for status, wanted in (("running", True), ("interrupted", True), ("queued", False)):
        with store.lock("page"):
            run.status = status  # type: ignore[assignment]
            store.save(run)
        with store.lock("page"):
            assert store.wants_cancel("page") == wanted


# a database that is away


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def test_a_pause_of_the_database_is_waited_out(own_server: PostgresServer, tmp_path: Path) -> None:
    """It is longer than a lease, which is ours all the same: nobody else can have taken it."""
    url = own_server.new_database()
    with open_run_table(tmp_path, url, lease_s=LEASE_S, beat_s=BEAT_S) as store:
        store.create(record())
        with store.lock("page"):
            mine = store.read("page")
            away = threading.Thread(target=own_server.restart, kwargs={"after_s": 3 * LEASE_S})
            away.start()
            wait_until(lambda: store._leases._failing)
            store.check_held("page")
            mine.spent_usd = 7.0
            store.save(mine)
            away.join()
            store.check_held("page")
            wait_until(lambda: not store._leases._failing)
            assert store.load("page").status == "running"
        assert (store.load("page").status, store.read("page").spent_usd) == ("interrupted", 7.0)


def test_a_lease_that_cannot_be_given_back_expires(
    own_server: PostgresServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = own_server.new_database()
    with open_run_table(tmp_path, url, lease_s=LEASE_S, beat_s=BEAT_S) as store:
        store.create(record())
        with store.lock("page"):
            own_server.stop()
        assert "was not given back" in caplog.text
        own_server.start()
        wait_until(lambda: store.load("page").status == "interrupted")
        with store.lock("page"):
            store.check_held("page")


def test_no_thread_and_no_connection_is_left(database_url: str, tmp_path: Path, redis: RedisServer) -> None:
    before = set(threading.enumerate())
    for _ in range(3):
        with open_run_table(tmp_path, database_url, redis.url) as store:
            store.create(record(store.new_id()))
            for run in store.all():
                with store.lock(run.run_id), store.event_log(run.run_id, lambda: None):
                    assert any(thread.name == "leases" for thread in threading.enumerate())
    assert set(threading.enumerate()) == before
    ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sparklio' AND datname = current_database()"
    wait_until(lambda: sql(database_url, ours) == [(0,)])


@pytest.mark.parametrize(
    "url", ["postgresql://me:hunter2@127.0.0.1:{port}/x", "postgresql://me:hunter2@127.0.0.1:x/x", "hunter2://x"]
)
def test_no_error_tells_a_password(tmp_path: Path, url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SparklioError) as caught, open_run_table(tmp_path, url.format(port=free_port())):
        raise AssertionError("there is no such server")
    assert caught.value.hint
    assert "hunter2" not in f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r} {caplog.text}"


def test_a_broker_s_url_is_checked(tmp_path: Path, database_url: str) -> None:
    with (
        pytest.raises(ConfigError, match="no URL of a Redis server") as caught,
        open_run_table(tmp_path, database_url, "http://:hunter2@x"),
    ):
        raise AssertionError("that is no Redis server")
    assert "hunter2" not in str(caught.value)


def test_starters_of_one_moment_make_the_tables_once(database_url: str, tmp_path: Path) -> None:
    def start(number: int) -> bool:
        with open_run_table(tmp_path, database_url) as store:
            store.create(record(f"run-{number}"))
            return store.exists(f"run-{number}")

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(start, range(8)))
