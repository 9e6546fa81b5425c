"""Runs that workers drive, as a server sees them: booked, counted, stopped, retried. A lock is a worker here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from graph.inputs import RunInput
from graph.run_table import PostgresRunStore
from graph.store import RunRecord, Status
from graph.vault import Vault
from providers.errors import ConflictError, QueueFullError, RunBusyError, StorageError, describe
from sparklio import Sparklio
from sparklio.server import shared
from sparklio.server.dispatcher import Dispatcher
from sparklio.server.queue_figures import Bounded, QueueFigures
from sparklio.server.queue_view import QueueView
from sparklio.server.request_book import Answer, Turn
from sparklio.server.request_table import RequestTable
from sparklio.server.run_list import run_list
from sparklio.worker.queue import KEEPER, Queue
from tests.conftest import BRAND, PRODUCT
from tests.redis_server import RedisServer
from tests.serving import serving
from tests.waiting import until

INPUTS = RunInput.parse({"brand": BRAND, "product": PRODUCT})
LETTERS = "/api/v1/dead-letters"


class Desk:
    """A studio with a dispatcher, and nobody who sends anything."""

    def __init__(self, studio: Sparklio, queued: int, stops_within_s: float) -> None:
        self.studio = studio
        self.store: PostgresRunStore = shared.table_of(studio)
        self.woken = 0
        self.dispatcher = Dispatcher(
            studio.runs,
            Queue(self.store, studio.settings.mode),
            run_list(self.store),
            queued=queued,
            wake=self._wake,
            stops_within_s=stops_within_s,
        )
        self.view = QueueView(self.store)

    def _wake(self) -> None:
        self.woken += 1

    async def book(self, run_id: str, status: Status = "queued", **what: Any) -> RunRecord:
        words = {"keeper": KEEPER, **what}
        return await self.studio.runs.start(INPUTS, run_id=run_id, status=status, **words)

    def end(self, run_id: str, status: Status, **what: Any) -> None:
        record = self.store.read(run_id)
        self.store.save(record.model_copy(update={"status": status, **what}))

    def fail(self, run_id: str) -> None:
        self.end(run_id, "failed", error=describe(StorageError("no space left", hint="make room")))

    def sql(self, statement: str, *values: Any) -> list[Any]:
        with self.store.pool.connection() as connection:
            found = connection.execute(statement.encode(), values)
            return found.fetchall() if found.description else []


@asynccontextmanager
async def a_desk(
    folder: Path, database_url: str, *, queued: int = 100, stops_within_s: float = 10.0
) -> AsyncIterator[Desk]:
    async with Sparklio(home=folder / "home", settings={"SPARKLIO_DATABASE_URL": database_url}) as studio:
        desk = Desk(studio, queued, stops_within_s)
        desk.view.open()
        yield desk


async def test_a_place_for_each_that_fits(tmp_path: Path, database_url: str) -> None:
    """Those that are being booked count, and so do another server's."""
    async with a_desk(tmp_path, database_url, queued=3) as desk:
        await desk.book("another")
        async with desk.dispatcher.place() as submit, desk.dispatcher.place():
            with pytest.raises(QueueFullError) as refused:
                async with desk.dispatcher.place():
                    pass
            submit(await desk.book("mine"))
        async with desk.dispatcher.place():
            pass
        assert desk.woken == 1
        assert refused.value.retry_after == 30, "nothing has ended of late"


async def test_how_long_a_place_takes_is_as_runs_have_ended_of_late(tmp_path: Path, database_url: str) -> None:
    async with a_desk(tmp_path, database_url, queued=1) as desk:
        for name in ("a", "b", "waits"):
            await desk.book(name)
        ends = "UPDATE runs SET status = 'finished', finished_at = now() - %s * interval '1 second' WHERE run_id = %s"
        desk.sql(ends, 50, "a")
        desk.sql(ends, 20, "b")
        with pytest.raises(QueueFullError) as refused:
            async with desk.dispatcher.place():
                pass
        assert refused.value.retry_after in (25, 26), "two in 50 s"
        standing = desk.view.standing()
        assert (standing.queued, standing.running, standing.dead) == (1, 0, 0)
        assert standing.oldest_s > 0


async def test_what_waits_is_cancelled_at_once(tmp_path: Path, database_url: str) -> None:
    async with a_desk(tmp_path, database_url) as desk:
        await desk.book("page")
        assert (await desk.dispatcher.cancel("page")).status == "cancelled"
        with pytest.raises(ConflictError):
            await desk.dispatcher.cancel("page")
        assert desk.dispatcher.ended == {"cancelled": 1}


@pytest.mark.parametrize("left", ["cancelled", "queued", "running", "finished"])
async def test_what_a_worker_drives_is_stopped_by_the_worker(tmp_path: Path, database_url: str, left: Status) -> None:
    """However that leaves it: a worker that has died, too, and one that was faster."""
    async with a_desk(tmp_path, database_url) as desk:
        await desk.book("page", "running")
        with desk.store.lock("page"):
            cancelling = asyncio.create_task(desk.dispatcher.cancel("page"))
            await until(lambda: desk.sql("SELECT 1 FROM runs WHERE cancel_wanted"))
            desk.end("page", left)
        if left == "finished":
            with pytest.raises(ConflictError):
                await cancelling
        else:
            assert (await cancelling).status == "cancelled"
            assert desk.store.load("page").status == "cancelled"


async def test_what_a_worker_is_about_to_begin_is_told_to_it(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds a run that still says "queued"; whoever waits for it does not ask without a pause."""
    async with a_desk(tmp_path, database_url, stops_within_s=1) as desk:
        await desk.book("page")
        load, looks = desk.store.load, 0

        def counted(run_id: str) -> RunRecord:
            nonlocal looks
            looks += 1
            return load(run_id)

        monkeypatch.setattr(desk.store, "load", counted)
        with desk.store.lock("page"):
            assert (await desk.dispatcher.cancel("page")).status == "queued"
        assert desk.sql("SELECT cancel_wanted FROM runs") == [(True,)]
        assert looks < 10


async def test_a_worker_that_does_not_stop_in_time_is_told_of(tmp_path: Path, database_url: str) -> None:
    async with a_desk(tmp_path, database_url, stops_within_s=0.1) as desk:
        await desk.book("page", "running")
        with desk.store.lock("page"):
            told = await asyncio.gather(desk.dispatcher.cancel("page"), desk.dispatcher.cancel("page"))
            assert {record.status for record in told} == {"running"}
            assert desk.sql("SELECT cancel_wanted FROM runs") == [(True,)]
            with pytest.raises(RunBusyError):
                await desk.dispatcher.resume("page")


@pytest.mark.parametrize("ended", ["failed", "cancelled", "interrupted"])
async def test_resume_queues_it_as_if_it_had_never_been_delivered(
    tmp_path: Path, database_url: str, ended: Status
) -> None:
    async with a_desk(tmp_path, database_url) as desk:
        await desk.book("page")
        desk.end("page", ended, keeper=None)
        desk.sql("UPDATE runs SET deliveries = 3, sent_at = now(), not_before = now() + interval '1 hour'")
        record = await desk.dispatcher.resume("page")
        assert (record.status, record.keeper, record.error) == ("queued", KEEPER, None)
        assert desk.sql("SELECT deliveries, sent_at, not_before FROM runs") == [(0, None, None)]
        assert await desk.dispatcher.position("page") == 1
        assert (await desk.dispatcher.resume("page")).status == "queued", "it waits already"
        desk.end("page", "finished")
        assert (await desk.dispatcher.resume("page")).status == "finished"
        assert desk.woken == 1


async def test_what_servers_have_left_is_given_to_the_workers(tmp_path: Path, database_url: str) -> None:
    async with a_desk(tmp_path, database_url) as desk:
        for name, status in (("waits", "queued"), ("left", "running"), ("held", "running"), ("done", "finished")):
            await desk.book(name, status, keeper="server")  # type: ignore[arg-type]  # each is a status
        await desk.book("somebodys", keeper=None)
        with desk.store.lock("held"):
            assert desk.view.adopt() == 2
        found = {record.run_id: record.keeper for record in desk.store.all()}
        assert found == {"waits": KEEPER, "left": KEEPER, "held": "server", "done": "server", "somebodys": None}


async def test_a_request_that_two_servers_book_at_once_is_found(tmp_path: Path, database_url: str) -> None:
    async with a_desk(tmp_path, database_url) as desk:
        assert await desk.dispatcher.booked("token") is None
        await desk.book("first", request="token")
        with pytest.raises(ConflictError):
            await desk.book("second", request="token")
        assert await desk.dispatcher.booked("token") == "first"


# dead letters


async def test_dead_letters_are_told_page_by_page(tmp_path: Path, database_url: str) -> None:
    async with a_desk(tmp_path, database_url) as desk:
        for name in ("a", "b", "c", "waits"):
            await desk.book(name)
        await desk.book("of-a-server", keeper="server")
        await desk.book("somebodys", keeper=None)
        for name in ("a", "b", "c", "of-a-server", "somebodys"):
            desk.fail(name)
        desk.sql("UPDATE runs SET deliveries = 3 WHERE run_id = 'a'")
        first = desk.view.page(3)
        rest = desk.view.page(3, first.next_cursor)
        found = [(letter.record.run_id, letter.deliveries) for letter in (*first.letters, *rest.letters)]
        assert found == [("of-a-server", 0), ("c", 0), ("b", 0), ("a", 3)]
        assert rest.next_cursor is None
        assert desk.view.page(3, "ffffffffffffffff-x").letters == first.letters
        assert desk.view.standing().dead == 4


@pytest.mark.parametrize("shares", [False, True], ids=["files", "database"])
async def test_dead_letters_over_http(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, *, shares: bool
) -> None:
    """The same wherever runs are kept: which have failed, why, and that they finish once that is mended."""
    settings = {"SPARKLIO_DATABASE_URL": request.getfixturevalue("database_url")} if shares else {}
    async with serving(tmp_path, **settings) as client:
        with monkeypatch.context() as patch:
            patch.setattr("sparklio.publish.render_page", _fails)
            for name in ("a", "b", "c"):
                body = {"brand": BRAND, "product": PRODUCT, "run_id": name}
                assert (await client.post("/api/v1/runs", json=body)).status_code == 202
                await client.get(f"/api/v1/runs/{name}/events")
        page = (await client.get(LETTERS, params={"limit": 2})).json()
        rest = (await client.get(LETTERS, params={"limit": 2, "cursor": page["next_cursor"]})).json()
        assert [letter["run_id"] for letter in (*page["dead_letters"], *rest["dead_letters"])] == ["c", "b", "a"]
        assert {letter["error"]["code"] for letter in page["dead_letters"]} == {"storage"}
        assert rest["next_cursor"] is None
        one = await client.post(f"{LETTERS}/a/retry")
        assert (one.status_code, one.json()["run_id"]) == (202, "a")
        assert (await client.post(f"{LETTERS}/retry")).json() == {"retried": 2, "left": 0}
        for name in ("a", "b", "c"):
            assert "event: run_finished" in (await client.get(f"/api/v1/runs/{name}/events")).text
        assert (await client.get(LETTERS)).json() == {"dead_letters": [], "next_cursor": None}
        again = await client.post(f"{LETTERS}/a/retry")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
        assert (await client.get(LETTERS, params={"cursor": "x"})).status_code == 422


def _fails(*_: object, **__: object) -> None:
    raise StorageError("no space left", hint="make room")


async def test_all_are_retried_as_far_as_there_is_room(tmp_path: Path, database_url: str, redis: RedisServer) -> None:
    shared = {"SPARKLIO_DATABASE_URL": database_url, "SPARKLIO_ARTIFACTS_URL": tmp_path.as_uri()}
    settings = {**shared, "SPARKLIO_BROKER_URL": redis.url, "SPARKLIO_MAX_QUEUED": "2"}
    async with a_desk(tmp_path, database_url) as desk, serving(tmp_path / "b", **settings) as client:
        for name in ("a", "b", "c", "d"):
            await desk.book(name)
            desk.fail(name)
        assert (await client.post(f"{LETTERS}/retry")).json() == {"retried": 2, "left": 2}
        assert {record.run_id for record in desk.store.all() if record.status == "queued"} == {"c", "d"}


# the book of requests


async def test_a_request_is_one_server_s_until_its_lease_ends(tmp_path: Path, database_url: str) -> None:
    async with a_desk(tmp_path, database_url) as desk:
        books = [RequestTable(desk.store.pool, Vault(None)) for _ in range(2)]
        for book in books:
            book.open()
        try:
            await check_turns(desk, *books)
        finally:
            for book in books:
                book.close()


async def check_turns(desk: Desk, one: RequestTable, other: RequestTable) -> None:
    turn = one.begin("name", "digest")
    assert isinstance(turn, Turn)
    with pytest.raises(ConflictError, match="still being answered"):
        other.begin("name", "digest")
    desk.sql("UPDATE requests SET owned_until = now() - interval '1 second'")
    taken = other.begin("name", "digest")
    assert taken == turn, "its server has died: the same deed has the same token"
    one.give_back(turn)
    with pytest.raises(ConflictError, match="still being answered"):
        one.begin("name", "digest")
    answer = Answer(202, {"location": "/x"}, b"{}")
    other.keep(turn, answer)
    assert one.begin("name", "digest") == answer
    with pytest.raises(ConflictError, match="another request"):
        one.begin("name", "another digest")
    desk.sql("UPDATE requests SET at = now() - interval '25 hours'")
    late = one.begin("name", "another digest")
    assert isinstance(late, Turn)
    assert late.token != turn.token
    one.give_back(late)
    assert isinstance(other.begin("name", "a third"), Turn), "what has failed may come as something else"


# figures


async def test_a_figure_that_does_not_come_is_left_out_and_asked_for_once() -> None:
    asked, answers = [], threading.Event()

    def hangs() -> int:
        asked.append(1)
        answers.wait(30)
        return 7

    bounded = Bounded(hangs, seconds=0.05)
    assert await asyncio.gather(*(bounded.get() for _ in range(5))) == [None] * 5
    assert len(asked) == 1
    answers.set()
    async with asyncio.timeout(30):
        while (found := await bounded.get()) is None:
            pass
    assert found == 7
    assert len(asked) == 1


async def test_of_a_database_and_a_broker_that_are_away_nothing_is_told() -> None:
    def away() -> Any:
        raise StorageError("no connection", hint="start it")

    assert await QueueFigures(away, away).metrics() == []
    assert [one.name for one in await QueueFigures(away, list).metrics()] == [
        "sparklio_workers",
        "sparklio_worker_slots",
    ]
