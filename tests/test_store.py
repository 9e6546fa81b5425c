"""Whose run it is: on one machine by its lock, across machines by the heartbeat beside it."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from graph import ownership
from graph.inputs import RunInput
from graph.ownership import OWNER_FILE
from graph.run_files import FileRunStore
from graph.store import RunRecord
from providers.errors import RunBusyError, RunUnfinishedError, StorageError
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES
from tests.waiting import NEVER_S, wait_until

ELSEWHERE = {"host": "elsewhere", "kernel": "another", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}


@pytest.fixture
def store(tmp_path: Path) -> FileRunStore:
    store = FileRunStore(tmp_path)
    store.create(RunRecord(run_id="page", mode="mock", seed=1, nodes=["brand"], inputs={}, out=tmp_path))
    return store


@pytest.fixture
def owner_file(store: FileRunStore) -> Path:
    return store.folder("page") / OWNER_FILE


@pytest.fixture
def fast_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_BEAT_S", 0.01)


def write(path: Path, *, age_s: float = 0, **changes: Any) -> None:
    """The owner's file as another process would have left it so many seconds ago."""
    whole = path.with_name(f"{path.name}.whole")
    whole.write_text(json.dumps(ELSEWHERE | changes), encoding="utf-8")
    os.utime(whole, (time.time() - age_s,) * 2)
    whole.replace(path)


# held here


def test_the_owner_is_told_while_the_run_is_held(store: FileRunStore, owner_file: Path) -> None:
    assert not owner_file.exists()
    with store.lock("page"):
        owner = json.loads(owner_file.read_text(encoding="utf-8"))
        assert set(owner) == {"host", "kernel", "pid", "since"}
        assert (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid())
        assert store.load("page").status == "running"
    assert store.load("page").status == "interrupted"
    assert {path.name for path in owner_file.parent.iterdir()} == {"run.json", "lock"}


def test_what_only_looks_leaves_no_trace(
    store: FileRunStore, owner_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(folder: Path) -> Iterator[None]:
        raise AssertionError("nobody holds it")

    monkeypatch.setattr("graph.run_files.owned", told)
    assert store.load("page").status == "interrupted"
    assert not owner_file.exists()


@pytest.mark.usefixtures("fast_beats")
def test_the_file_is_renewed_and_never_torn(store: FileRunStore, owner_file: Path) -> None:
    with store.lock("page"):
        os.utime(owner_file, (0, 0))
        wait_until(lambda: json.loads(owner_file.read_bytes())["host"] and owner_file.stat().st_mtime > 1)
    assert not owner_file.exists()


def test_no_thread_outlives_the_hold(store: FileRunStore) -> None:
    before = set(threading.enumerate())
    for _ in range(20):
        with store.lock("page"):
            assert set(threading.enumerate()) > before
    assert set(threading.enumerate()) == before


def test_a_second_owner_on_this_machine_is_refused_by_the_lock(store: FileRunStore, owner_file: Path) -> None:
    with store.lock("page"):
        with pytest.raises(RunBusyError, match="being run already"), store.lock("page"):
            raise AssertionError("held twice")
        assert owner_file.exists(), "who was refused takes nothing away"


@pytest.mark.parametrize("left", [{"host": socket.gethostname()}, {"kernel": ownership._kernel() or "none"}])
def test_what_a_killed_process_of_this_machine_left_is_no_owner(
    store: FileRunStore, owner_file: Path, left: dict[str, Any]
) -> None:
    """Also of a container beside this one, which had a name of its own."""
    if "kernel" in left and ownership._kernel() is None:
        pytest.skip("nothing tells the kernels of this system apart")
    write(owner_file, **left)
    assert store.load("page").status == "interrupted"
    with store.lock("page"):
        assert json.loads(owner_file.read_bytes())["pid"] == os.getpid()


# held elsewhere


def test_a_run_that_another_machine_runs_is_busy_and_running(store: FileRunStore, owner_file: Path) -> None:
    write(owner_file, age_s=50)
    before = owner_file.read_bytes()
    assert store.load("page").status == "running"
    with pytest.raises(RunBusyError, match="elsewhere") as caught, store.lock("page"):
        raise AssertionError("held on two machines")
    assert "elsewhere" in caught.value.hint
    assert owner_file.read_bytes() == before
    assert {path.name for path in owner_file.parent.iterdir()} == {"run.json", "lock", OWNER_FILE}


def test_a_machine_that_died_is_no_owner_after_a_minute(store: FileRunStore, owner_file: Path) -> None:
    write(owner_file, age_s=70)
    assert store.load("page").status == "interrupted"
    with store.lock("page"):
        assert json.loads(owner_file.read_bytes())["host"] == socket.gethostname()
    assert not owner_file.exists()


@pytest.mark.parametrize("skew_s", [-3600, 3600])
def test_clocks_that_differ_do_no_harm(
    store: FileRunStore, owner_file: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float
) -> None:
    """Both times are the file server's; ours and the other machine's may be anything."""
    monkeypatch.setattr(ownership, "time", SimpleNamespace(time=lambda: time.time() + skew_s))
    write(owner_file, since="1999-01-01T00:00:00+00:00")
    assert store.load("page").status == "running"
    write(owner_file, age_s=70, since="2099-01-01T00:00:00+00:00")
    assert store.load("page").status == "interrupted"


@pytest.mark.parametrize("words", ["", "{", "[]", "{}", '"host"', '{"host": ""}', "\x00" * 30])
def test_a_file_that_tells_nobody_is_nobody_s(store: FileRunStore, owner_file: Path, words: str) -> None:
    owner_file.write_text(words, encoding="utf-8")
    assert store.load("page").status == "interrupted"
    with store.lock("page"):
        assert json.loads(owner_file.read_bytes())["host"] == socket.gethostname()


@pytest.mark.parametrize("leftover", [False, True])
def test_a_claim_that_came_between_our_look_and_ours_stays(
    store: FileRunStore, owner_file: Path, monkeypatch: pytest.MonkeyPatch, leftover: bool
) -> None:
    claim = ownership._claim

    def late(path: Path) -> None:
        write(path)
        claim(path)

    if leftover:
        write(owner_file, age_s=70)
    monkeypatch.setattr(ownership, "_claim", late)
    with pytest.raises(RunBusyError, match="elsewhere"), store.lock("page"):
        raise AssertionError("held on two machines")
    assert json.loads(owner_file.read_bytes()) == ELSEWHERE
    assert {path.name for path in owner_file.parent.iterdir()} == {"run.json", "lock", OWNER_FILE}


def test_of_two_machines_that_put_their_file_there_at_once_one_gets_it(
    store: FileRunStore, owner_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is there when we look; the other's appears while we write ours."""
    words = ownership._words

    def slow() -> str:
        write(owner_file)
        return words()

    monkeypatch.setattr(ownership, "_words", slow)
    with pytest.raises(RunBusyError, match="elsewhere"), store.lock("page"):
        raise AssertionError("held on two machines")
    assert json.loads(owner_file.read_bytes()) == ELSEWHERE


def test_machines_that_race_for_a_leftover_never_hold_it_both(
    store: FileRunStore, owner_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads, each with a machine's name of its own, and no lock of the system between them."""
    me = threading.local()
    monkeypatch.setattr(ownership, "_me", lambda: {"host": me.host, "kernel": me.host, "pid": 1})
    monkeypatch.setattr(ownership, "_here", lambda owner: owner["host"] == me.host)
    monkeypatch.setattr(ownership, "_beat", lambda *_: None)
    together = threading.Barrier(2)
    held: list[str] = []

    def take(host: str) -> None:
        me.host = host
        together.wait(NEVER_S)
        try:
            with ownership.owned(owner_file.parent):
                held.append(host)
                together.wait(NEVER_S)
        except RunBusyError:
            together.wait(NEVER_S)

    for _ in range(50):
        held.clear()
        write(owner_file, age_s=70)
        threads = [threading.Thread(target=take, args=(host,)) for host in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(NEVER_S)
        assert len(held) == 1
        assert not owner_file.exists()


@pytest.mark.usefixtures("fast_beats")
def test_who_took_over_while_we_slept_keeps_it(store: FileRunStore, owner_file: Path) -> None:
    record = store.read("page")
    with store.lock("page"):
        store.save(record)
        write(owner_file)
        wait_until(lambda: not any(thread.name == "heartbeat" for thread in threading.enumerate()))
        before = (owner_file.parent / "run.json").read_bytes()
        with pytest.raises(RunBusyError, match="elsewhere"):
            store.check_held("page")
        with pytest.raises(RunBusyError, match="elsewhere"):
            store.save(record.model_copy(update={"status": "failed"}))
        assert (owner_file.parent / "run.json").read_bytes() == before
    assert json.loads(owner_file.read_bytes()) == ELSEWHERE
    store.check_held("page")


@pytest.mark.usefixtures("fast_beats")
def test_a_file_that_somebody_took_away_is_put_back(store: FileRunStore, owner_file: Path) -> None:
    with store.lock("page"):
        owner_file.unlink()
        wait_until(owner_file.exists)
        store.check_held("page")
    assert not owner_file.exists()


@pytest.mark.usefixtures("fast_beats")
def test_a_dead_machine_s_file_that_comes_late_takes_nothing(store: FileRunStore, owner_file: Path) -> None:
    with store.lock("page"):
        write(owner_file, age_s=70)
        wait_until(lambda: (ownership._read(owner_file) or {}).get("host") == socket.gethostname())
        store.check_held("page")


# files that fail


@pytest.mark.usefixtures("fast_beats")
def test_beats_that_cannot_be_written_fail_no_run(
    store: FileRunStore, owner_file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ownership, "_renew", full)
    with store.lock("page"):
        wait_until(lambda: caplog.text.count("cannot renew") > 1)
    assert not owner_file.exists()


def test_a_first_beat_that_cannot_be_written_fails_no_run(
    store: FileRunStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ownership, "_claim", full)
    with store.lock("page"):
        assert "No space left" in caplog.text


def test_a_file_that_cannot_be_removed_is_logged(
    store: FileRunStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> bool:
        raise OSError(30, "Read-only file system")

    with store.lock("page"):
        monkeypatch.setattr(ownership, "_ours", refuse)
    assert "cannot remove" in caplog.text


def test_a_file_server_that_hangs_keeps_nobody(
    store: FileRunStore, monkeypatch: pytest.MonkeyPatch, fast_beats: None
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def hang(path: Path) -> None:
        begun.set()
        go_on.wait(NEVER_S)

    monkeypatch.setattr(ownership, "_renew", hang)
    monkeypatch.setattr(ownership, "_LEAVING_S", 0.01)
    with store.lock("page"):
        assert begun.wait(NEVER_S)
    assert any(thread.name == "heartbeat" for thread in threading.enumerate()), "left behind, and only it waits"
    go_on.set()
    wait_until(lambda: not any(thread.name == "heartbeat" for thread in threading.enumerate()))


def test_a_folder_that_vanishes_while_it_is_held(store: FileRunStore, owner_file: Path) -> None:
    with store.lock("page"):
        for path in owner_file.parent.iterdir():
            path.unlink()
        owner_file.parent.rmdir()
    assert not owner_file.parent.exists()


def test_a_clock_that_cannot_be_asked_of_the_server_is_our_own(
    store: FileRunStore, owner_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    write(owner_file)
    assert store.load("page").status == "running"
    write(owner_file, age_s=70)
    assert store.load("page").status == "interrupted"


def test_a_file_that_cannot_be_read_fails_no_run(
    store: FileRunStore, owner_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    owner_file.mkdir()
    with store.lock("page"):
        assert "cannot read" in caplog.text


def test_an_owner_that_leaves_while_we_look(
    store: FileRunStore, owner_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left(owner: dict[str, Any]) -> bool:
        owner_file.unlink()
        return False

    write(owner_file)
    monkeypatch.setattr(ownership, "_here", left)
    assert store.load("page").status == "interrupted"


# whole runs


async def test_a_run_elsewhere_is_neither_resumed_nor_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sparklio(mode="mock") as studio:
        async with aclosing(studio.stream(brand=BRAND, product=PRODUCT, run_id="page")) as events:
            async for event in events:
                if event["type"] == "node_finished":
                    break
        store = studio.runs.store
        record = store.read("page")
        record.status = "running"
        store.save(record)
        owner = store.folder("page") / OWNER_FILE
        write(owner)
        assert [record.status for record in store.all()] == ["running"]
        monkeypatch.setattr("graph.runs._LEAVING_S", 0.0)
        with pytest.raises(RunBusyError, match="elsewhere") as caught:
            await studio.resume("page")
        assert caught.value.run_id == "page"
        assert store.read("page").status == "running"
        owner.unlink()
        run = await studio.resume("page")
        assert set(run.result["meta"]["nodes"]) == NODES
        assert not owner.exists()


async def test_a_run_that_was_taken_over_stops_and_writes_nothing_more(
    monkeypatch: pytest.MonkeyPatch, fast_beats: None
) -> None:
    async with Sparklio(mode="mock") as studio:
        store = studio.runs.store
        with pytest.raises(RunBusyError, match="elsewhere") as caught:
            async for event in studio.stream(brand=BRAND, product=PRODUCT, run_id="page"):
                if event["type"] == "run_started":
                    write(store.folder("page") / OWNER_FILE)
                    wait_until(lambda: not any(thread.name == "heartbeat" for thread in threading.enumerate()))
        assert caught.value.run_id == "page"
        assert store.read("page").status == "running", "as the other machine has written it"


# what an earlier run left


async def test_a_new_run_takes_no_earlier_one_s_result_for_its_own(tmp_path: Path) -> None:
    async with Sparklio(mode="mock") as studio:
        first = await studio.run(brand=BRAND, product=PRODUCT, run_id="page", out=tmp_path / "mine")
        folder = studio.runs.store.folder("page")
        (folder / "run.json").unlink()
        record = await studio.runs.start(RunInput.parse({"brand": BRAND, "product": PRODUCT}), run_id="page")
        assert {path.name for path in folder.iterdir()} == {"run.json", "run.log", "lock"}
        with pytest.raises(RunUnfinishedError, match="no result"):
            await studio.load("page")
        assert record.out == folder
        assert (tmp_path / "mine" / "result.json").is_file(), "what stands elsewhere is its owner's"
        assert first.page_path.is_file()


def test_a_link_among_what_is_left_leads_nowhere(store: FileRunStore, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.png").write_bytes(b"x")
    (store.folder("page") / "images").symlink_to(tmp_path / "mine")
    store.clear("page")
    assert not (store.folder("page") / "images").is_symlink()
    assert (tmp_path / "mine" / "x.png").is_file()


def test_what_is_left_and_cannot_be_deleted_is_told(store: FileRunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StorageError, match="cannot delete") as caught:
        store.clear("page")
    assert caught.value.hint
