"""The server's runner: who is driven when, what a full queue says, what is stopped, and what is gone on with."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, aclosing
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from graph.inputs import RunInput
from graph.run_files import FileRunStore
from graph.runs import Event, Runs
from graph.store import RunRecord, Status
from providers.errors import ConflictError, QueueFullError, RunBusyError, StorageError, UnknownNameError, UsageError
from sparklio import Sparklio
from sparklio.server import runner as runner_module
from sparklio.server.run_list import Kept
from sparklio.server.runner import KEEPER, Runner
from tests.conftest import BRAND, PRODUCT
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.waiting import until

INPUTS = RunInput.parse({"brand": BRAND, "product": PRODUCT})


async def book(studio: Sparklio, run_id: str, status: Status = "queued", **what: Any) -> RunRecord:
    return await studio.runs.start(INPUTS, run_id=run_id, status=status, keeper=KEEPER, **what)


async def submitted(studio: Sparklio, runner: Runner, run_id: str) -> None:
    async with runner.place() as submit:
        submit(await book(studio, run_id))


async def enter(runner: Runner) -> None:
    async with runner.place():
        pass


def status(studio: Sparklio, run_id: str) -> str:
    return studio.runs.store.load(run_id).status


async def idle(runner: Runner) -> None:
    await until(lambda: not any(runner.counts().values()))


class Gate:
    """Holds every run at its beginning until it is opened; ``began`` are the runs in the order in which they came."""

    def __init__(self, drive: Callable[[Runs, RunRecord], AsyncGenerator[Event, None]]) -> None:
        self._drive = drive
        self._open = asyncio.Event()
        self.began: list[str] = []
        self.inside = self.most = 0

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.clear()

    async def drive(self, runs: Runs, record: RunRecord) -> AsyncGenerator[Event, None]:
        self.began.append(record.run_id)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self._open.wait()
            async with aclosing(self._drive(runs, record)) as events:
                async for event in events:
                    yield event
        finally:
            self.inside -= 1


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate(Runs.drive)
    monkeypatch.setattr(Runs, "drive", lambda runs, record: gate.drive(runs, record))  # noqa: PLW0108  # a method
    return gate


@pytest.mark.parametrize("at_once", [1, 2])
async def test_runs_are_driven_in_their_order_and_so_many_at_once(tmp_path: Path, gate: Gate, at_once: int) -> None:
    names = [f"run-{number}" for number in range(6)]
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=at_once, queued=10) as runner:
        for name in names:
            await submitted(studio, runner, name)
        await until(lambda: gate.inside == at_once)
        assert runner.counts() == {"running": at_once, "queued": 6 - at_once}
        assert [await runner.position(name) for name in names] == [*[None] * at_once, *range(1, 7 - at_once)]
        gate.open()
        await idle(runner)
        assert {status(studio, name) for name in names} == {"finished"}
        assert runner.ended == {"finished": 6}
    assert set(gate.began[:at_once]) == set(names[:at_once]), "of two that begin at once either may be the first"
    assert at_once > 1 or gate.began == names
    assert gate.most == at_once


async def test_a_full_queue_says_when_to_come_again_and_the_last_place_is_taken_once(
    tmp_path: Path, gate: Gate
) -> None:
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=2) as runner:
        names = [f"run-{number}" for number in range(8)]
        outcomes = await asyncio.gather(*(submitted(studio, runner, name) for name in names), return_exceptions=True)
        refused = [outcome for outcome in outcomes if outcome is not None]
        assert len(refused) == 5
        assert all(isinstance(error, QueueFullError) and error.hint and error.retry_after >= 1 for error in refused)
        assert len(studio.runs.store.all()) == 3, "a refused run is not booked"
        gate.open()
        await idle(runner)
        await submitted(studio, runner, "later")
        await idle(runner)


async def test_the_time_to_come_again_is_that_of_the_latest_runs(tmp_path: Path, gate: Gate) -> None:
    times = chain([0.0, 100.0, 0.0, 300.0], repeat(0.0))
    async with (
        Sparklio(home=tmp_path) as studio,
        Runner(studio.runs, at_once=2, queued=1, clock=times.__next__) as runner,
    ):
        gate.open()
        for name in ("a", "b"):
            await submitted(studio, runner, name)
            await idle(runner)
        gate.close()
        for name in ("c", "d", "e"):
            await submitted(studio, runner, name)
        with pytest.raises(QueueFullError) as refused:
            await enter(runner)
        assert refused.value.retry_after == 100, "200 s on average, two at a time"
        gate.open()
        await idle(runner)


async def test_before_a_run_has_ended_the_time_to_come_again_is_small(tmp_path: Path, gate: Gate) -> None:
    times = chain([0.0, 0.0, 12.5], repeat(5000.0))
    async with (
        Sparklio(home=tmp_path) as studio,
        Runner(studio.runs, at_once=1, queued=0, clock=times.__next__) as runner,
    ):
        await submitted(studio, runner, "first")
        await until(lambda: gate.inside)
        told = []
        for _ in range(3):
            with pytest.raises(QueueFullError) as refused:
                await enter(runner)
            told.append(refused.value.retry_after)
        assert told == [1, 13, 30], "as long as the run has taken so far, within bounds"
        gate.open()
        await idle(runner)


async def test_a_place_is_free_again_when_booking_fails(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=1) as runner:
        for _ in range(5):
            with pytest.raises(UsageError):
                await submitted(studio, runner, "not an id")
        await submitted(studio, runner, "page")
        await idle(runner)
        assert status(studio, "page") == "finished"


async def test_nobody_need_listen_and_nothing_is_left_of_many_runs(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=4, queued=100) as runner:
        tasks = asyncio.all_tasks()
        for number in range(12):
            await submitted(studio, runner, f"run-{number}")
        await idle(runner)
        assert asyncio.all_tasks() == tasks
        gc.collect()
        assert not [kept for kept in gc.get_objects() if isinstance(kept, RunRecord)]


@pytest.mark.usefixtures("live")
async def test_a_failed_run_is_told_in_its_record_and_the_next_one_goes_on(
    tmp_path: Path, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    ollama.fail("status_400", task="BrandSummary")
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=5) as runner:
        await submitted(studio, runner, "bad")
        await submitted(studio, runner, "good")
        await idle(runner)
        record = studio.runs.store.load("bad")
        assert record.status == "failed"
        assert record.error is not None
        assert status(studio, "good") == "finished"
        assert runner.ended == {"failed": 1, "finished": 1}
        resumed = await runner.resume("bad")
        assert (resumed.status, resumed.error) == ("queued", None)
        await idle(runner)
        assert status(studio, "bad") == "finished"


async def test_a_defect_in_one_run_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drive = Runs.drive

    def broken(runs: Runs, record: RunRecord) -> AsyncGenerator[Event, None]:
        if record.run_id == "bad":
            raise ZeroDivisionError
        return drive(runs, record)

    monkeypatch.setattr(Runs, "drive", broken)
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=5) as runner:
        await submitted(studio, runner, "bad")
        await submitted(studio, runner, "good")
        await idle(runner)
        assert status(studio, "good") == "finished"
        record = studio.runs.store.load("bad")
        assert record.error is not None
        assert (record.status, record.error["code"]) == ("failed", "internal")
        assert record.finished_at is not None
        async with asyncio.timeout(30):
            assert [event async for event in studio.follow("bad")] == [], "nobody waits for what nobody begins"
        assert runner.ended == {"failed": 1, "finished": 1}
    assert "ZeroDivisionError" in caplog.text


async def test_a_damaged_record_does_not_stop_the_others(tmp_path: Path, gate: Gate) -> None:
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=5) as runner:
        for name in ("first", "damaged", "last"):
            await submitted(studio, runner, name)
        (tmp_path / "runs/damaged/run.json").write_text("{")
        gate.open()
        await idle(runner)
        assert (status(studio, "first"), status(studio, "last")) == ("finished", "finished")


# a disk that refuses


class FullDisk:
    """While it is ``full`` no record can be written. ``refused`` counts how often that was tried."""

    def __init__(self, save: Callable[[FileRunStore, RunRecord], None]) -> None:
        self._save = save
        self.full = False
        self.refused = 0

    def save(self, store: FileRunStore, record: RunRecord) -> None:
        if self.full:
            self.refused += 1
            raise StorageError("no space left", hint="make room")
        self._save(store, record)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    disk = FullDisk(FileRunStore.save)
    monkeypatch.setattr(FileRunStore, "save", lambda store, record: disk.save(store, record))  # noqa: PLW0108  # a method
    return disk


async def test_what_the_disk_refuses_is_gone_on_with_when_there_is_room(
    tmp_path: Path, disk: FullDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_FIRST_DELAY_S", 0.001)
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=5) as runner:
        record = await book(studio, "page")
        disk.full = True
        runner.submit(record)
        following = asyncio.create_task(_types(studio, "page"))
        await until(lambda: disk.refused >= 6)
        assert status(studio, "page") == "queued"
        assert runner.ended == {}
        disk.full = False
        await idle(runner)
        assert status(studio, "page") == "finished"
        assert (await following)[-1] == "run_finished"
        assert runner.ended == {"finished": 1}


async def _types(studio: Sparklio, run_id: str) -> list[str]:
    return [event["type"] async for event in studio.follow(run_id)]


async def test_what_the_disk_stops_half_way_is_gone_on_with(
    tmp_path: Path, disk: FullDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_FIRST_DELAY_S", 0.001)
    drive, tried = Runs.drive, list[str]()

    async def half(runs: Runs, record: RunRecord) -> AsyncGenerator[Event, None]:
        tried.append(record.status)
        async with aclosing(drive(runs, record)) as events:
            async for event in events:
                yield event
                if len(tried) < 3 and event["type"] == "node_finished":
                    raise StorageError("no space left", hint="make room")

    monkeypatch.setattr(Runs, "drive", half)
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=5) as runner:
        await submitted(studio, runner, "page")
        await idle(runner)
        assert status(studio, "page") == "finished"
        assert tried == ["queued", "interrupted", "interrupted"]
        assert runner.ended == {"finished": 1}


async def test_who_is_put_off_waits_behind_the_others_and_can_be_resumed_and_cancelled(
    tmp_path: Path, disk: FullDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_FIRST_DELAY_S", 1_000.0)
    monkeypatch.setattr(runner_module, "_LONGEST_DELAY_S", 1_000.0)
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=2) as runner:
        records = [await book(studio, name) for name in ("first", "second")]
        disk.full = True
        for record in records:
            runner.submit(record)
        await until(lambda: disk.refused >= 4 and not runner.counts()["running"])
        assert runner.counts() == {"running": 0, "queued": 2}
        assert [await runner.position(name) for name in ("first", "second")] == [1, 2]
        disk.full = False
        assert (await runner.cancel("first")).status == "cancelled"
        assert (await runner.resume("second")).status == "queued"
        await idle(runner)
        assert [status(studio, name) for name in ("first", "second")] == ["cancelled", "finished"]


async def test_what_was_put_off_is_left_to_the_next_server(
    tmp_path: Path, disk: FullDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "_FIRST_DELAY_S", 1_000.0)
    async with Sparklio(home=tmp_path) as studio:
        async with Runner(studio.runs, at_once=1, queued=2) as runner:
            record = await book(studio, "page")
            disk.full = True
            runner.submit(record)
            await until(lambda: disk.refused >= 2)
        disk.full = False
        async with Runner(studio.runs, at_once=1, queued=2) as runner:
            await idle(runner)
        assert status(studio, "page") == "finished"


def test_the_disk_is_tried_again_ever_later_and_never_too_late() -> None:
    delays = [runner_module._delay_s(refused) for refused in (0, 1, 2, 3, 50, 100_000)]
    assert delays == [1, 2, 4, 8, 30, 30]


# cancel


async def test_a_waiting_run_is_taken_out_of_the_queue(tmp_path: Path, gate: Gate) -> None:
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=5) as runner:
        for name in ("first", "second", "third"):
            await submitted(studio, runner, name)
        assert (await runner.cancel("second")).status == "cancelled"
        assert [await runner.position(name) for name in ("second", "third")] == [None, 1]
        gate.open()
        await idle(runner)
        assert status(studio, "second") == "cancelled"
        assert runner.ended == {"finished": 2, "cancelled": 1}
    assert gate.began == ["first", "third"]


@pytest.mark.usefixtures("live")
async def test_a_running_run_is_stopped_and_its_image_too(
    tmp_path: Path, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    comfyui.hold()
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=5) as runner:
        await submitted(studio, runner, "page")
        await until(lambda: comfyui.running)
        assert (await runner.cancel("page")).status == "cancelled"
        assert comfyui.interrupted == comfyui.accepted
        assert runner.counts() == {"running": 0, "queued": 0}
        with pytest.raises(ConflictError, match="cancelled"):
            await runner.cancel("page")
    comfyui.release()
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=5) as runner:
        assert not any(runner.counts().values()), "a cancelled run is not taken up by itself"
        await runner.resume("page")
        await idle(runner)
        assert status(studio, "page") == "finished"


@pytest.mark.usefixtures("live")
async def test_an_image_service_that_is_gone_does_not_keep_a_run_from_being_cancelled(
    tmp_path: Path, comfyui: ComfyUIStandIn
) -> None:
    comfyui.hold()
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=5) as runner:
        await submitted(studio, runner, "page")
        await until(lambda: comfyui.running)
        comfyui.leave()
        assert (await runner.cancel("page")).status == "cancelled"
    comfyui.release()


async def test_what_has_ended_cannot_be_cancelled(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=5) as runner:
        await submitted(studio, runner, "page")
        await idle(runner)
        with pytest.raises(ConflictError, match="finished"):
            await runner.cancel("page")
        with pytest.raises(UnknownNameError):
            await runner.cancel("nobody")


# stop and go on


@pytest.mark.usefixtures("live")
async def test_a_stop_interrupts_what_is_driven_and_leaves_the_image_to_be_made(
    tmp_path: Path, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    comfyui.hold()
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=5) as runner:
        await submitted(studio, runner, "first")
        await submitted(studio, runner, "second")
        events = studio.runs.store.folder("first") / "events.jsonl"
        await until(lambda: comfyui.running and events.read_text(encoding="utf-8").count("node_finished") == 5)
    async with Sparklio(home=tmp_path) as studio:
        assert (status(studio, "first"), status(studio, "second")) == ("interrupted", "queued")
    assert not comfyui.interrupts
    asked = len(ollama.chats)
    comfyui.release()
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=5) as runner:
        assert await runner.position("second") == 1, "the oldest first"
        await idle(runner)
        assert (status(studio, "first"), status(studio, "second")) == ("finished", "finished")
    assert len(comfyui.accepted) == len(comfyui.executed) == 2
    assert asked < len(ollama.chats) <= 12, "six a run, and none again"


async def test_only_the_server_s_own_runs_of_its_mode_are_gone_on_with(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path) as studio:
        for state in ("queued", "running", "interrupted", "failed", "cancelled", "finished"):
            await book(studio, state, status=state)
        await studio.runs.start(INPUTS, run_id="somebodys", status="interrupted")
        other = await book(studio, "live")
        studio.runs.store.save(other.model_copy(update={"mode": "live"}))
        with studio.runs.store.lock("interrupted"):
            async with Runner(studio.runs, at_once=1, queued=1) as runner:
                await until(lambda: runner.counts() == {"running": 0, "queued": 0})
        statuses = {record.run_id: studio.runs.store.read(record.run_id).status for record in studio.runs.store.all()}
    assert statuses == {
        "queued": "finished",
        "running": "finished",
        "interrupted": "interrupted",
        "failed": "failed",
        "cancelled": "cancelled",
        "finished": "finished",
        "somebodys": "interrupted",
        "live": "queued",
    }


async def test_two_servers_share_a_data_folder_and_no_run_is_run_twice(tmp_path: Path) -> None:
    names = [f"run-{number}" for number in range(10)]
    async with Sparklio(home=tmp_path) as one, Sparklio(home=tmp_path) as other:
        for name in names:
            await book(one, name)
        async with Runner(one.runs, at_once=2, queued=5) as first, Runner(other.runs, at_once=2, queued=5) as second:
            await idle(first)
            await idle(second)
        assert {status(one, name) for name in names} == {"finished"}
        for name in names:
            begun = [event for event in [event async for event in one.follow(name)] if event["type"] == "run_started"]
            assert len(begun) == 1


async def test_what_a_dead_server_has_left_is_taken_over_by_one_that_lives(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path) as studio, Sparklio(home=tmp_path) as other:
        await book(other, "held", status="running")
        with ExitStack() as held:
            held.enter_context(other.runs.store.lock("held"))
            async with Runner(studio.runs, at_once=2, queued=2, looks_every_s=0.01) as runner:
                await book(other, "waits", request="token")
                await book(other, "left", status="running")
                await other.runs.start(INPUTS, run_id="somebodys", status="interrupted")
                await until(lambda: runner.ended["finished"] == 2)
                found = {name: status(studio, name) for name in ("waits", "left", "somebodys", "held")}
                assert found == {"waits": "finished", "left": "finished", "somebodys": "interrupted", "held": "running"}
                held.close()
                await until(lambda: runner.ended["finished"] == 3)
                assert status(studio, "held") == "finished", "its owner is gone now"
                assert await runner.booked("token") == "waits"


async def test_what_was_seen_once_may_still_be_being_booked(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    async with (
        Sparklio(home=tmp_path) as studio,
        Runner(studio.runs, at_once=1, queued=2, looks_every_s=0.01) as runner,
    ):
        kept_by = runner.list.kept_by

        def seen(keeper: str) -> list[Kept]:
            looks.append([run.run_id for run in kept_by(keeper)])
            return [run for run in kept_by(keeper) if looks.count([run.run_id]) == 1]

        monkeypatch.setattr(runner.list, "kept_by", seen)
        await book(studio, "page")
        await until(lambda: looks.count(["page"]) > 3)
        assert gate.began == []
        gate.open()


async def test_a_living_server_s_queue_is_taken_over_by_few_at_a_time(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        Sparklio(home=tmp_path) as studio,
        Runner(studio.runs, at_once=1, queued=20, looks_every_s=0.2) as runner,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(runner.list, "kept_by", lambda _: [])
            for number in range(20):
                await book(studio, f"run-{number}")
        await until(lambda: runner.counts()["running"])
        assert sum(runner.counts().values()) < 20
        gate.open()


async def test_the_look_for_what_was_left_outlives_a_folder_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def unreadable(*_: object) -> list[str]:
        tried.append(1)
        raise OSError("too many open files")

    async with (
        Sparklio(home=tmp_path) as studio,
        Runner(studio.runs, at_once=1, queued=2, looks_every_s=0.01) as runner,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(runner.list, "kept_by", unreadable)
            await book(studio, "page")
            await until(lambda: tried)
        await until(lambda: runner.ended["finished"])


async def test_what_was_booked_for_a_request_is_found_again(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path) as studio:
        await book(studio, "page", request="token")
        async with Runner(studio.runs, at_once=1, queued=1) as runner:
            assert (await runner.booked("token"), await runner.booked("another")) == ("page", None)
            await idle(runner)


# resume


async def test_resume_takes_a_run_of_anybody_s_over(tmp_path: Path, gate: Gate) -> None:
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=1) as runner:
        await submitted(studio, runner, "first")
        await studio.runs.start(INPUTS, run_id="page")
        record = await runner.resume("page")
        assert (record.status, record.keeper) == ("queued", KEEPER)
        assert (await runner.resume("page")).status == "queued", "it waits already"
        assert runner.counts() == {"running": 1, "queued": 1}
        await studio.runs.start(INPUTS, run_id="third")
        with pytest.raises(QueueFullError):
            await runner.resume("third")
        gate.open()
        await idle(runner)
        assert (await runner.resume("page")).status == "finished"
        assert runner.counts() == {"running": 0, "queued": 0}


async def test_what_another_process_runs_is_neither_resumed_nor_cancelled(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=1) as runner:
        await studio.runs.start(INPUTS, run_id="page")
        with studio.runs.store.lock("page"):
            with pytest.raises(RunBusyError):
                await runner.resume("page")
            with pytest.raises(RunBusyError):
                await runner.cancel("page")


async def test_a_run_of_the_other_mode_is_not_resumed(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path) as studio, Runner(studio.runs, at_once=1, queued=1) as runner:
        record = await studio.runs.start(INPUTS, run_id="page", status="interrupted")
        studio.runs.store.save(record.model_copy(update={"mode": "live"}))
        with pytest.raises(UsageError, match="live"):
            await runner.resume("page")
