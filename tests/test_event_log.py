"""The log of a run's events: numbered over its sessions, followed from anywhere, and whole whatever happens to it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import Any

import pytest

from graph import event_log, following
from graph.event_log import EVENTS_FILE, FileEventLog, FileEventReader
from graph.events import Event, Events, Once
from graph.following import Bells
from graph.inputs import RunInput
from graph.run_files import FileRunStore
from graph.store import RunRecord
from providers.errors import InputError, RejectedError, RunBusyError, RunUnfinishedError, StorageError, UnknownNameError
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.waiting import NEVER_S, until

ROOT = Path(__file__).resolve().parent.parent
INPUTS: Any = {"brand": BRAND, "product": PRODUCT}

WORKER = """
import asyncio, json, os, signal, sys
from sparklio import Sparklio

inputs, moment, node, pause_s, hold_s = json.loads(sys.argv[1])

async def main():
    async with Sparklio(mode="mock") as studio:
        async for event in studio.stream(**inputs, run_id="page"):
            print(event["seq"], flush=True)
            if (event["type"], event["node"]) == (moment, node):
                await asyncio.sleep(hold_s)
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.sleep(pause_s)

asyncio.run(main())
"""
"""Another process that runs "page" at the pace that it is given, and dies where it is told to."""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def start(
            moment: str = "", node: str | None = None, *, pause_s: float = 0, hold_s: float = 0
        ) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", WORKER, json.dumps([INPUTS, moment, node, pause_s, hold_s])],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture(params=["files", "table", "table and redis"])
def anywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs and their events are kept where the parameter says."""
    if request.param != "files":
        monkeypatch.setenv("SPARKLIO_DATABASE_URL", request.getfixturevalue("database_url"))
    if request.param == "table and redis":
        monkeypatch.setenv("SPARKLIO_BROKER_URL", request.getfixturevalue("redis").url)
        monkeypatch.setenv("SPARKLIO_ARTIFACTS_URL", Path.cwd().as_uri())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / EVENTS_FILE


def read_events(path: Path, run_id: str, after: int = 0) -> Iterator[Event]:
    reader = FileEventReader(path, run_id, after)
    while (events := reader.read()) is not None:
        yield from events


def opened(path: Path) -> FileEventLog:
    return FileEventLog(path, "page", lambda: None)


def told(log: FileEventLog, *words: str) -> list[Event]:
    events = Events("page", log)
    return [events.make("token", {"text": word, "attempt": 1}, "brand") for word in words]


def texts(path: Path, after: int = 0) -> list[tuple[int, str]]:
    return [(event["seq"], event["data"]["text"]) for event in read_events(path, "page", after)]


def numbers(events: list[Event]) -> list[int]:
    return [event["seq"] for event in events]


def logged(studio: Sparklio, run_id: str = "page") -> list[Event]:
    return list(studio.runs.store.events(run_id))


async def followed(studio: Sparklio, run_id: str = "page", after: int = 0) -> list[Event]:
    async with asyncio.timeout(NEVER_S):
        return [event async for event in studio.follow(run_id, after=after)]


async def left_after(studio: Sparklio, event_type: str, node: str | None) -> list[Event]:
    """A run "page" whose loop is left at an event; what it yielded."""
    seen = []
    async with aclosing(studio.stream(**INPUTS, run_id="page")) as events:
        async for event in events:
            seen.append(event)
            if (event["type"], event["node"]) == (event_type, node):
                break
    return seen


def check_story(events: list[Event], sessions: int) -> None:
    """Whatever became of the processes: numbers that rise, one end, and each agent told as finished once."""
    assert numbers(events) == list(range(1, len(events) + 1))
    kinds = Counter(event["type"] for event in events)
    assert (kinds["run_started"], kinds["run_finished"], events[-1]["type"]) == (sessions, 1, "run_finished")
    assert Counter(event["node"] for event in events if event["type"] == "node_finished") == Counter(NODES)


# the file


def test_events_are_read_as_they_were_made(path: Path) -> None:
    with opened(path) as log:
        made = told(log, "열두 시간", 'quote " and \n line', "\u2028", "")
        made.append(Events("page", log).make("run_failed", {"code": "x", "details": {"seq": 99, "n": [1, None]}}))
        assert list(read_events(path, "page")) == made, "there at once, and not only behind the end of the session"
    assert list(read_events(path, "page", 3)) == made[3:]
    assert b"page" not in path.read_bytes()
    assert path.read_bytes().count(b"\n") == len(made)


def test_half_a_letter_breaks_nothing(path: Path) -> None:
    with opened(path) as log:
        told(log, "a\ud83d", "b")
    path.read_bytes().decode()
    assert texts(path) == [(1, "a\ud83d"), (2, "b")]


def test_numbers_go_on_where_the_last_session_ended(path: Path) -> None:
    for session in range(3):
        with opened(path) as log:
            assert log.last == 2 * session
            told(log, "a", "b")
    assert numbers(list(read_events(path, "page"))) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("size", [0, 100, event_log._CHUNK_BYTES - 40, 3 * event_log._CHUNK_BYTES])
def test_the_last_number_is_found_behind_lines_of_any_length(path: Path, size: int) -> None:
    with opened(path) as log:
        told(log, *"abc", "x" * size)
    with opened(path) as log:
        assert log.last == 4
        told(log, "d")
    assert [(seq, len(text)) for seq, text in texts(path, 3)] == [(4, size), (5, 1)]


def test_a_long_log_is_never_held_as_a_whole(path: Path) -> None:
    with opened(path) as log:
        told(log, *("x" * 1000 for _ in range(5000)))
    size, chunk = path.stat().st_size, event_log._CHUNK_BYTES
    tracemalloc.start()
    try:
        with opened(path) as log:
            assert log.last == 5000
        end_only = tracemalloc.get_traced_memory()[1]
        assert sum(1 for _ in read_events(path, "page")) == 5000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert end_only < 4 * chunk
    assert peak < 12 * chunk < size


@pytest.mark.parametrize("kept", [1, 7, 9, 10, 30, -2, -1])
def test_a_line_that_was_broken_off_is_passed_over_and_closed(path: Path, kept: int) -> None:
    """Broken off within its own newline it is whole, and its number is used."""
    with opened(path) as log:
        told(log, "a")
        whole = path.read_bytes()
        told(log, "b")
    line = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + line[:kept])
    assert texts(path) == [(1, "a")]
    with opened(path) as log:
        seen = told(log, "c", "d")
    found = texts(path)
    assert numbers(list(read_events(path, "page"))) == sorted({seq for seq, _ in found})
    assert found[-2:] == [(event["seq"], event["data"]["text"]) for event in seen]
    assert ("b" in [text for _, text in found]) == (kept == -1)


@pytest.mark.parametrize(
    "line",
    ['{"seq":2,"type":1}', '{"seq":2,', '{"seq":2,"a":' + "[" * 100_000, '{"seq":1,"type":"x"}', "", "[]", "\x00"],
)
def test_lines_that_are_no_events_are_passed_over(path: Path, line: str) -> None:
    with opened(path) as log:
        told(log, "a")
        with path.open("a") as file:
            file.write(f"{line}\n")
        log.last = 2
        told(log, "b")
    assert texts(path) == [(1, "a"), (3, "b")]


def test_there_is_nothing_in_a_log_that_is_not_there(path: Path) -> None:
    assert texts(path) == []


# a disk that refuses


class FullDisk:
    """Takes the first bytes of a write, or none, and says so as an error or by the number of bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, taken: int, *, says_so: bool) -> None:
        self._write, self._taken, self._says_so = os.write, taken, says_so
        self.full = True
        monkeypatch.setattr(os, "write", self)

    def __call__(self, file: int, content: bytes) -> int:
        if not self.full or not content.lstrip().startswith(b'{"seq"'):
            return self._write(file, content)
        taken = self._write(file, content[: self._taken])
        if self._says_so:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return taken


@pytest.mark.parametrize("says_so", [True, False])
@pytest.mark.parametrize("taken", [0, 1, 20])
def test_what_the_disk_refuses_is_lost_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, taken: int, says_so: bool
) -> None:
    with opened(path) as log:
        told(log, "a")
        disk = FullDisk(monkeypatch, taken, says_so=says_so)
        assert numbers(told(log, "b", "c")) == [2, 3]
        disk.full = False
        assert numbers(told(log, "d", "e")) == [4, 5]
    assert texts(path) == [(1, "a"), (4, "d"), (5, "e")]
    assert caplog.text.count("not all events can be written") == 1


@pytest.mark.parametrize("name", ["open", "fsync"])
async def test_a_log_that_cannot_be_opened_or_synced_fails_no_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    function: Any = getattr(os, name)

    def refuse(what: Any, *args: Any, **kwargs: Any) -> Any:
        named = str(Path(f"/proc/self/fd/{what}").readlink() if isinstance(what, int) else what)
        if named.endswith(EVENTS_FILE):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return function(what, *args, **kwargs)

    if name == "fsync" and not Path("/proc/self/fd").exists():
        pytest.skip("nothing tells the name of an open file here")
    async with Sparklio(mode="mock") as studio:
        monkeypatch.setattr(os, name, refuse)
        seen = [event async for event in studio.stream(**INPUTS, run_id="page")]
        assert logged(studio) == (seen if name == "fsync" else [])
        assert await followed(studio) == logged(studio)
    assert numbers(seen) == list(range(1, len(seen) + 1))
    assert caplog.text.count("not all events can be written") == 1


async def test_a_log_that_cannot_even_be_read_fails_no_run(caplog: pytest.LogCaptureFixture) -> None:
    async with Sparklio(mode="mock") as studio:
        record = await studio.runs.start(RunInput.parse(INPUTS), run_id="page")
        (studio.runs.store.folder("page") / EVENTS_FILE).mkdir()
        seen = [event async for event in studio.runs.drive(record)]
        assert numbers(seen) == list(range(1, len(seen) + 1))
        with pytest.raises(StorageError, match="the run's events"):
            await followed(studio)
    assert caplog.text.count("not all events can be written") == 1


async def test_a_full_disk_hides_no_failure(monkeypatch: pytest.MonkeyPatch, live: None, ollama: OllamaStandIn) -> None:
    ollama.fail_always("status_400", task="BrandSummary")
    disk = FullDisk(monkeypatch, 5, says_so=True)
    async with Sparklio() as studio:
        with pytest.raises(RejectedError):
            await studio.run(**INPUTS, run_id="page")
        assert studio.runs.store.load("page").status == "failed"
        assert await followed(studio) == []
        ollama.fail_always(None)
        disk.full = False
        await studio.resume("page")
        assert [event["type"] for event in logged(studio)][-1] == "run_finished"


# what is told


@pytest.mark.usefixtures("anywhere")
async def test_a_run_s_log_holds_what_its_loop_was_given() -> None:
    async with Sparklio(mode="mock") as studio:
        seen = [event async for event in studio.stream(**INPUTS, run_id="page")]
        assert logged(studio) == seen
        assert await followed(studio) == seen
        check_story(seen, 1)
        await studio.resume("page")
        assert logged(studio) == seen, "a finished run is not gone on with"
        rerun = await studio.rerun("page", start_at="vision")
        events = logged(studio, rerun.id)
    assert numbers(events) == list(range(1, len(events) + 1))
    assert [event["node"] for event in events if event["type"] == "node_finished"] == ["vision"]
    assert not events[0]["data"]["resumed"]


@pytest.mark.usefixtures("anywhere")
async def test_numbers_and_clock_of_a_resumed_run() -> None:
    async with Sparklio(mode="mock") as studio:
        first = await left_after(studio, "node_started", "copywriter")
        then = [event async for event in studio.runs.drive(studio.runs.resumable("page"))]
        everything = logged(studio)
    assert numbers(first) < numbers(then)
    assert everything[: len(first)] == first
    assert everything[-len(then) :] == then
    assert then[0]["type"] == "run_started"
    assert then[0]["data"]["resumed"]
    assert then[0]["elapsed_ms"] <= then[-1]["elapsed_ms"]
    check_story(everything, 2)


@pytest.mark.usefixtures("anywhere")
async def test_a_failed_run_s_log_goes_on_when_it_is_resumed(live: None, ollama: OllamaStandIn) -> None:
    ollama.fail_always("status_400", task="StyleReview")
    async with Sparklio() as studio:
        with pytest.raises(RejectedError):
            await studio.run(**INPUTS, run_id="page")
        kinds = [event["type"] for event in logged(studio)]
        assert (kinds.count("node_failed"), kinds[-1]) == (1, "run_failed")
        assert await followed(studio) == logged(studio)
        ollama.fail_always(None)
        await studio.resume("page")
        check_story(logged(studio), 2)


async def test_an_error_that_passed_no_gateway_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise RuntimeError("refused: no-key-of-anybody")

    async with Sparklio(mode="mock", settings={"OLLAMA_API_KEY": "no-key-of-anybody"}) as studio:
        monkeypatch.setattr("routing.llm_gateway.LLMGateway.generate", broken)
        with pytest.raises(RuntimeError):
            await studio.run(**INPUTS, run_id="page")
        told = {event["type"]: event["data"].get("message") for event in logged(studio)}
        assert b"no-key-of-anybody" not in (studio.runs.store.folder("page") / EVENTS_FILE).read_bytes()
    for kind in ("node_failed", "run_failed"):
        assert str(told[kind]).startswith("RuntimeError: refused: ***")


async def test_a_new_run_begins_without_an_older_one_s_events() -> None:
    async with Sparklio(mode="mock") as studio:
        await studio.run(**INPUTS, run_id="page")
        (studio.runs.store.folder("page") / "run.json").unlink()
        await studio.run(**INPUTS, run_id="page")
        check_story(logged(studio), 1)


def call(node: str, *effects: str) -> dict[str, Any]:
    return {"node": node, "effects": list(effects), "checkpoint_id": "1"}


def step(event_type: str, node: str, *effects: str) -> dict[str, Any]:
    return {"type": event_type, "node": node, "data": call(node, *effects)}


def event(seq: int, node: str, *effects: str) -> Event:
    data = call(node, *effects)
    return Event(seq=seq, run_id="page", type="node_finished", node=node, at="", elapsed_ms=0, data=data)


def test_an_agent_that_does_over_what_was_told_is_not_told_again() -> None:
    once = Once(
        [event(1, "brand", "a"), event(2, "copywriter", "b"), event(3, "copywriter", "c")], [call("brand", "a")]
    )
    assert (once.untold, once.done) == ([], {"brand", "copywriter"})
    for effect in ("b", "c"):
        assert once.of(step("node_started", "copywriter")) == []
        assert once.of(step("token", "vision")) == [step("token", "vision")], "others are heard all the while"
        assert once.of(step("node_finished", "copywriter", effect)) == []
    third = [step("node_started", "copywriter"), step("node_finished", "copywriter", "d")]
    assert [told for one in third for told in once.of(one)] == third


@pytest.mark.parametrize("second", [("token",), ("node_failed",), ("node_finished", "of another prompt")])
def test_an_agent_that_does_otherwise_is_told(second: tuple[str, ...]) -> None:
    once = Once([event(1, "brand", "a")], [])
    started, other = step("node_started", "brand"), step(second[0], "brand", *second[1:])
    assert [told for one in (started, other) for told in once.of(one)] == [started, other]


def test_what_was_stored_and_not_told_is_told_once() -> None:
    """An unfinished step of LangGraph's tells its own twice, and runs of before the ledger name no effects."""
    old = {"node": "brand", "checkpoint_id": "1"}
    once = Once([], [old, old, call("vision", "a")])
    assert once.untold == [old, call("vision", "a")]
    assert Once([event(1, "vision", "a")], [call("vision", "a")]).untold == []


# following


@pytest.mark.usefixtures("anywhere")
async def test_a_run_is_followed_while_it_runs_and_from_any_point() -> None:
    async with Sparklio(mode="mock") as studio:
        record = await studio.runs.start(RunInput.parse(INPUTS), run_id="page", status="queued")
        early = asyncio.create_task(followed(studio))
        await asyncio.sleep(0)
        seen: list[Event] = []
        late: list[asyncio.Task[list[Event]]] = []
        async for event in studio.runs.drive(record):
            seen.append(event)
            if len(seen) % 10 == 0:
                late.append(asyncio.create_task(followed(studio, after=len(seen) // 2)))
        assert await early == seen
        assert not seen[0]["data"]["resumed"], "it was queued, and nothing of it done"
        for number, task in enumerate(late, 1):
            assert await task == seen[number * 10 // 2 :]
        assert await followed(studio, after=len(seen) - 1) == seen[-1:]
        assert await followed(studio, after=10**6) == []


@pytest.mark.usefixtures("anywhere")
async def test_many_followers_get_the_same_events_and_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for poll in ("_POLL_S", "_SELDOM_S"):
        monkeypatch.setattr(following, poll, NEVER_S)  # who drives here wakes them
    async with Sparklio(mode="mock") as studio:
        record = await studio.runs.start(RunInput.parse(INPUTS), run_id="page", status="queued")
        count = 10 if studio.runs.store.shared else 50
        followers = [asyncio.create_task(followed(studio)) for _ in range(count)]
        await asyncio.sleep(0)
        assert len(studio.runs.bells._bells) == 1
        seen = [event async for event in studio.runs.drive(record)]
        assert await asyncio.gather(*followers) == [seen] * count
        assert not studio.runs.bells._bells


async def test_who_waits_for_a_queued_run_asks_ever_less_often_and_reads_its_record_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pauses: list[float] = []
    read: list[str] = []
    load = FileRunStore.load

    async def heard(bells: Bells, run_id: str, bell: asyncio.Event, pause_s: float) -> None:
        pauses.append(pause_s)
        await asyncio.sleep(0)

    def counted(store: FileRunStore, run_id: str) -> RunRecord:
        read.append(run_id)
        return load(store, run_id)

    async with Sparklio(mode="mock", home=tmp_path) as studio:
        record = await studio.runs.start(RunInput.parse(INPUTS), run_id="page", status="queued")
        monkeypatch.setattr(Bells, "heard", heard)
        monkeypatch.setattr(FileRunStore, "load", counted)
        waiting = asyncio.create_task(followed(studio))
        await until(lambda: len(pauses) > 20)
        assert read == ["page"]
        assert pauses == sorted(pauses)
        assert (pauses[0], pauses[-1]) == (following._POLL_S, following._SELDOM_S)
        assert following._POLL_S < following._SELDOM_S
        other = FileRunStore(tmp_path)
        with other.lock("page"):  # as another process does that takes it
            record.status = "running"
            other.save(record)
            await until(lambda: pauses[-1] == following._POLL_S)
            record.status = "failed"
            other.save(record)
        assert await waiting == []


@pytest.mark.usefixtures("anywhere")
async def test_a_run_that_is_run_again_has_not_ended_yet(live: None, ollama: OllamaStandIn) -> None:
    ollama.fail_always("status_400", task="StyleReview")
    async with Sparklio() as studio:
        with pytest.raises(RejectedError):
            await studio.run(**INPUTS, run_id="page")
        assert studio.runs.store.read("page").finished_at is not None
        ollama.fail_always(None)
        async with aclosing(studio.runs.drive(studio.runs.resumable("page"))) as events:
            assert (await anext(events))["type"] == "run_started"
            record = studio.runs.store.read("page")
        assert (record.status, record.error, record.finished_at) == ("running", None, None)


async def test_who_leaves_and_who_is_slow_change_nothing() -> None:
    async with Sparklio(mode="mock") as studio:
        record = await studio.runs.start(RunInput.parse(INPUTS), run_id="page", status="queued")

        async def leave() -> None:
            async with aclosing(studio.follow("page")) as events:
                assert (await anext(events))["type"] == "run_started"

        async def dawdle(pace: asyncio.Semaphore) -> list[Event]:
            found = []
            async for event in studio.follow("page"):
                await pace.acquire()
                found.append(event)
            return found

        pace = asyncio.Semaphore(1)
        leaver, slow = asyncio.create_task(leave()), asyncio.create_task(dawdle(pace))
        broken_off = asyncio.create_task(followed(studio))
        seen = []
        async for event in studio.runs.drive(record):
            seen.append(event)
            if event["type"] == "node_started":
                broken_off.cancel()
        await leaver
        assert not slow.done()
        for _ in seen:
            pace.release()
        assert await slow == seen
        assert broken_off.cancelled()
        check_story(seen, 1)


async def test_an_interrupted_run_ends_its_followers_and_they_go_on_with_the_next_session() -> None:
    async with Sparklio(mode="mock") as studio:
        record = await studio.runs.start(RunInput.parse(INPUTS), run_id="page", status="queued")
        follower = asyncio.create_task(followed(studio))
        async with aclosing(studio.runs.drive(record)) as events:
            async for event in events:
                if event["type"] == "node_finished":
                    break
        first = await follower
        assert first == logged(studio)
        assert first[-1]["type"] == "node_finished"
        assert await followed(studio) == first
        driving = asyncio.create_task(studio.resume("page"))
        await until(lambda: studio.runs.bells.is_driven("page"))
        rest = await followed(studio, after=first[-1]["seq"])
        await driving
    check_story(first + rest, 2)


async def test_the_last_event_is_there_before_the_record_says_how_it_ended(
    live: None, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    last: list[tuple[str, str]] = []
    save = FileRunStore.save

    def watched(store: FileRunStore, record: RunRecord) -> None:
        events = list(read_events(store.folder(record.run_id) / EVENTS_FILE, record.run_id))
        last.append((record.status, events[-1]["type"] if events else ""))
        save(store, record)

    monkeypatch.setattr(FileRunStore, "save", watched)
    ollama.fail_always("status_400", task="StyleReview")
    async with Sparklio() as studio:
        with pytest.raises(RejectedError):
            await studio.run(**INPUTS, run_id="page")
        ollama.fail_always(None)
        await studio.resume("page")
    assert {pair for pair in last if pair[0] in ("failed", "finished")} == {
        ("failed", "run_failed"),
        ("finished", "run_finished"),
    }


async def test_a_follower_waits_between_the_last_event_and_the_record(tmp_path: Path) -> None:
    """As another process writes them: the event, then the record, then it lets the run go."""
    async with Sparklio(mode="mock", home=tmp_path) as studio:
        store, other = studio.runs.store, FileRunStore(tmp_path)
        record = await studio.runs.start(RunInput.parse(INPUTS), run_id="page")
        with other.lock("page"), opened(store.folder("page") / EVENTS_FILE) as log:
            follower = asyncio.create_task(followed(studio))
            last = Events("page", log).make("run_finished", {})
            await asyncio.sleep(2 * following._POLL_S)
            assert not follower.done(), "its record still says that it runs"
            record.status = "finished"
            other.save(record)
            assert await follower == [last], "though it is still held"


async def test_a_run_of_another_process_is_followed_to_its_end(start: Start) -> None:
    process = start(pause_s=0.01)
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    async with Sparklio(mode="mock") as studio:
        assert studio.runs.store.load("page").status == "running"
        everything, rest = await asyncio.gather(followed(studio), followed(studio, after=20))
        assert studio.runs.store.read("page").status == "finished"
        assert everything == logged(studio)
        assert rest == everything[20:]
    assert process.wait(NEVER_S) == 0
    check_story(everything, 1)


@pytest.mark.parametrize(
    ("moment", "node", "hold_s"),
    [
        *(("node_finished", node, 0) for node in ("brand", "strategist", "copywriter", "reviewer", "vision")),
        ("node_started", "brand", 0.5),
        ("token", "brief", 0.01),
        ("run_finished", None, 0),
    ],
)
async def test_after_a_kill_each_agent_is_told_once_and_no_number_twice(
    start: Start, moment: str, node: str | None, hold_s: float
) -> None:
    """Killed at once, LangGraph has not stored what was told; killed late, what was stored is not told."""
    process = start(moment, node, hold_s=hold_s)
    seen = [int(line) for line in process.stdout or ()]
    assert process.wait(NEVER_S) == -9
    async with Sparklio(mode="mock") as studio:
        before = await followed(studio)
        assert numbers(before) == seen, "nobody has seen what is not in the log"
        events = [event async for event in studio.runs.drive(studio.runs.resumable("page"))]
        everything = logged(studio)
        assert await followed(studio, after=seen[-1]) == everything[len(seen) :]
        assert (await studio.load("page")).page_path.is_file()
    check_story(everything, 1 if moment == "run_finished" else 2)
    if events:
        told = {event["node"] for event in events if event["type"] == "node_finished"}
        assert events[0]["seq"] > seen[-1]
        assert (told | set(events[0]["data"]["done"]), told & set(events[0]["data"]["done"])) == (NODES, set())


async def test_a_run_of_an_older_version_has_no_log() -> None:
    async with Sparklio(mode="mock") as studio:
        await left_after(studio, "node_finished", "strategist")
        (studio.runs.store.folder("page") / EVENTS_FILE).unlink()
        assert await followed(studio) == []
        events = [event async for event in studio.runs.drive(studio.runs.resumable("page"))]
        assert events[0]["data"]["resumed"]
        check_story(logged(studio), 1)
        (studio.runs.store.folder("page") / EVENTS_FILE).unlink()
        assert await followed(studio) == []


@pytest.mark.usefixtures("anywhere")
async def test_what_cannot_be_followed_is_said_at_once() -> None:
    async with Sparklio(mode="mock") as studio:
        with pytest.raises(UnknownNameError, match="unknown run 'page'"):
            studio.follow("page")
        with pytest.raises(InputError, match="not a run id"):
            studio.follow("../page")
        await studio.runs.start(RunInput.parse(INPUTS), run_id="page")
        with pytest.raises(InputError, match="-1"):
            studio.follow("page", after=-1)


async def test_a_run_that_is_deleted_ends_its_followers() -> None:
    async with Sparklio(mode="mock") as studio:
        await studio.runs.start(RunInput.parse(INPUTS), run_id="page", status="queued")
        follower = asyncio.create_task(followed(studio))
        await asyncio.sleep(0)
        (studio.runs.store.folder("page") / "run.json").unlink()
        assert await follower == []


async def test_bells_are_shared_and_gone_with_who_hears_them() -> None:
    bells = Bells()
    bell = bells.bell("page")
    assert bells.bell("page") is bell
    bells.ring("page")
    assert bell.is_set()
    assert bells.bell("page") is not bell
    assert not bells._bells
    with bells.driving("page"):
        waiting = asyncio.create_task(bells.heard("page", bells.bell("page"), 0))
        await asyncio.sleep(0)
    await waiting


# queued and cancelled


@pytest.mark.usefixtures("anywhere")
async def test_a_queued_run_is_queued_until_somebody_runs_it() -> None:
    async with Sparklio(mode="mock") as studio:
        inputs = RunInput.parse(INPUTS)
        booked = await studio.runs.start(inputs, run_id="page", status="queued", keeper="server", request="r1")
        record = studio.runs.store.load("page")
        assert (record.status, record.keeper, record.request) == ("queued", "server", "r1")
        with pytest.raises(RunUnfinishedError, match="queued"):
            await studio.load("page")
        events = [event async for event in studio.runs.drive(booked)]
        assert not events[0]["data"]["resumed"]
        assert studio.runs.store.load("page").status == "finished"
        await studio.run(**INPUTS, run_id="plain")
        plain = studio.runs.store.load("plain")
        assert (plain.keeper, plain.request) == (None, None)
        rerun = await studio.runs.start_rerun(
            "page", start_at="vision", changes={}, status="queued", keeper="server", request="r2"
        )
        assert studio.runs.store.load(rerun.run_id) == rerun
        assert (rerun.status, rerun.keeper, rerun.request) == ("queued", "server", "r2")


@pytest.mark.usefixtures("anywhere")
async def test_an_interrupted_run_that_is_queued_again_says_what_is_done() -> None:
    async with Sparklio(mode="mock") as studio:
        await left_after(studio, "node_started", "copywriter")
        record = studio.runs.store.load("page")
        record.status = "queued"
        studio.runs.store.save(record)
        events = [event async for event in studio.runs.drive(record)]
        assert events[0]["data"]["resumed"]
        assert {"brand", "brief", "strategist"} <= set(events[0]["data"]["done"])
        check_story(logged(studio), 2)


@pytest.mark.usefixtures("anywhere")
async def test_nothing_is_saved_of_a_run_that_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """LangGraph does not wait for what a task came to that ended in that moment: the next session would find it only
    after it had looked what there is to be told."""
    async with Sparklio(mode="mock") as studio:
        texts = studio.runs.database.texts
        under_way, begun = 0, 0

        async def slowly(run_id: str, value: Any) -> Any:
            nonlocal under_way, begun
            if isinstance(value, list) and value[0][0] == "__error__":  # of a task that was cancelled
                under_way, begun = under_way + 1, begun + 1
                await asyncio.sleep(0.1)
                under_way -= 1
            return await fold(run_id, value)

        fold = texts.fold
        monkeypatch.setattr(texts, "fold", slowly)
        await left_after(studio, "node_started", "copywriter")
        assert begun
        assert not under_way


@pytest.mark.usefixtures("anywhere")
async def test_a_cancelled_run_stays_so_until_a_person_goes_on_with_it() -> None:
    async with Sparklio(mode="mock") as studio:
        queued = await studio.runs.start(RunInput.parse(INPUTS), run_id="page", status="queued")
        follower = asyncio.create_task(followed(studio))
        await asyncio.sleep(0)
        assert studio.runs.cancelled("page").status == "cancelled"
        assert await follower == []
        record = studio.runs.store.load("page")
        assert record.status == "cancelled"
        assert record.finished_at is not None
        assert [event async for event in studio.runs.drive(queued)] == [], "who had it in a queue does not know yet"
        assert studio.runs.store.load("page").status == "cancelled"
        events = [event async for event in studio.runs.drive(studio.runs.resumable("page"))]
        assert not events[0]["data"]["resumed"]
        assert studio.runs.cancelled("page").status == "finished"
        assert studio.runs.store.load("page").status == "finished"
        with pytest.raises(UnknownNameError):
            studio.runs.cancelled("other")


@pytest.mark.usefixtures("anywhere")
async def test_a_run_that_is_being_run_is_not_marked_as_cancelled(live: None, comfyui: ComfyUIStandIn) -> None:
    async with Sparklio() as studio:
        events: AsyncGenerator[Event, None] = studio.stream(**INPUTS, run_id="page")
        async with aclosing(events):
            await anext(events)
            with pytest.raises(RunBusyError):
                studio.runs.cancelled("page")
            assert studio.runs.store.read("page").status == "running"
        assert studio.runs.cancelled("page").status == "cancelled"
        await studio.resume("page")
        check_story(logged(studio), 2)
