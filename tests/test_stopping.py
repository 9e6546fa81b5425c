"""Signals: what the first, the second and the third of them do to a run, told by real processes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from graph.run_files import FileRunStore
from providers.errors import ProviderError
from routing.packaged_files import EXAMPLE_INPUT
from sparklio import Run, Sparklio
from sparklio.scaffold import told_example
from sparklio.stopping import STOPPED_WITHIN_S
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES, SCHEMAS
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import Fault, OllamaStandIn
from tests.waiting import wait_until

pytestmark = [pytest.mark.usefixtures("live"), pytest.mark.no_cover]

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "sparklio"]
GOES_ON, RESUME = "the image goes on being made", "sparklio resume page"
USES = told_example(EXAMPLE_INPUT)
MOCK_RUNS = 4


class Process:
    """``sparklio`` as a process of its own.

    "Within 2 s of the signal" is what is promised, so it is the one absolute time that these tests know. How much a
    busy machine adds to it is taken from the same process: what it needed to start.
    """

    def __init__(self, words: list[str], **options: Any) -> None:
        self._started = time.monotonic()
        environ = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.popen = subprocess.Popen(words, env=environ, **{**pipes, **options})
        self._noise_s = self._signalled = 0.0

    def reached(self, moment: Callable[[], object]) -> None:
        """Wait for a moment that the stand-ins or the disk tell of."""
        until = time.monotonic() + 30
        while not moment():
            assert self.popen.poll() is None, self.popen.communicate()
            assert time.monotonic() < until, "it never came so far"
            time.sleep(0.005)
        self._noise_s = time.monotonic() - self._started

    def told(self, words: str) -> str:
        """The line of its output that tells a moment, e.g. that an agent's result is kept."""
        assert self.popen.stdout is not None
        line: str = next(line for line in self.popen.stdout if words in line)
        self._noise_s = time.monotonic() - self._started
        return line

    def signal(self, number: signal.Signals) -> None:
        self._signalled = self._signalled or time.monotonic()
        self.popen.send_signal(number)

    def stopped(self) -> str:
        """What it said on stderr, having ended with 130 in time."""
        out, err = self.popen.communicate(timeout=30)
        took = time.monotonic() - self._signalled
        assert self.popen.returncode == 130, err
        assert took < STOPPED_WITHIN_S + self._noise_s
        assert "Traceback" not in (err or "")
        assert '"review"' not in (out or "")
        return err or ""


Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def start(*words: str, **options: Any) -> Process:
            process = Process([*COMMAND, *words] if words[0] in ("run", "resume", "rerun") else [*words], **options)
            stack.enter_context(process.popen)
            stack.callback(process.popen.kill)
            return process

        yield start


def status(run_id: str = "page") -> str:
    return FileRunStore(Path(".sparklio")).read(run_id).status


def resumed(ollama: OllamaStandIn, run_id: str = "page") -> tuple[Run, dict[str, int]]:
    """The run, resumed to its end in this process, and the chat calls that this took."""
    before = Counter(ollama.by_task)

    async def resume() -> Run:
        async with asyncio.timeout(30), Sparklio() as studio:
            return await studio.resume(run_id)

    run = asyncio.run(resume())
    assert set(run.result["meta"]["nodes"]) == NODES
    return run, dict(ollama.by_task - before)


async def begun() -> None:
    """The run in this process, to its end."""
    async with asyncio.timeout(30), Sparklio() as studio:
        await studio.run(brand=BRAND, product=PRODUCT, run_id="page")


def only_the_image_is_missing(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> Callable[[], object]:
    comfyui.hold()
    return lambda: comfyui.running and ollama.by_task[SCHEMAS["reviewer"]] and not ollama.active


# the first signal


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGINT, ("run", "--run-id", "page")),
        (signal.SIGTERM, ("run", "--run-id", "page", "--plain")),
        (signal.SIGHUP, ("resume", "page")),
        (signal.SIGINT, ("rerun", "page", "--from", "vision")),
    ],
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value[0],
)
def test_the_first_signal_leaves_the_image_to_be_made(
    start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, number: signal.Signals, words: tuple[str, ...]
) -> None:
    run_id = "page"
    if words[0] == "resume":
        comfyui.hold()
        ollama.fail("status_400", task=SCHEMAS["copywriter"])
        with pytest.raises(ProviderError):
            asyncio.run(begun())
    if words[0] == "rerun":
        run_id = "page.2"
        asyncio.run(begun())
    made = len(comfyui.executed)
    comfyui.hold()
    process = start(*words)
    if words[0] != "rerun":
        process.told("reviewer finished")
    process.reached(lambda: comfyui.running)
    process.signal(number)
    said = process.stopped()
    assert said.splitlines()[-1] == f"interrupted; go on with: sparklio resume {run_id}"
    assert GOES_ON in said
    assert status(run_id) == "interrupted"
    assert (comfyui.interrupts, comfyui.deleted) == ([], [])
    comfyui.release()
    _, calls = resumed(ollama, run_id)
    assert set(calls) <= {SCHEMAS["vision"]}
    assert len(comfyui.executed) == len(comfyui.accepted) == made + 1, "it was made, and picked up"


@pytest.mark.parametrize(("agent", "fault"), [("brief", Fault.STALL), ("vision", Fault.HANG)])
def test_a_chat_call_is_cancelled_and_counts_as_unfinished(
    start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, agent: str, fault: Fault
) -> None:
    ollama.fail_always(fault, task=SCHEMAS[agent])
    process = start("run", "--run-id", "page", "--plain")
    process.told("reviewer finished" if agent == "vision" else "brief started")
    process.reached(lambda: ollama.active == 1 and ollama.by_task[SCHEMAS[agent]])
    asked = ollama.by_task.copy()
    process.signal(signal.SIGINT)
    said = process.stopped()
    assert GOES_ON not in said, "there is none"
    assert RESUME in said
    wait_until(lambda: not ollama.active)
    assert ollama.by_task == asked, "no new step began"
    assert status() == "interrupted"
    ollama.fail_always(None)
    _, calls = resumed(ollama)
    missing = NODES - ({"brand"} if agent == "brief" else NODES - {"vision"})
    assert calls == {SCHEMAS[name]: 1 for name in missing}
    assert len(comfyui.accepted) == 1


def test_the_error_object_tells_the_same(start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    process = start("run", "--run-id", "page", "--json")
    process.reached(only_the_image_is_missing(ollama, comfyui))
    process.signal(signal.SIGTERM)
    assert json.loads(process.stopped()) == {
        "error": {
            "code": "interrupted",
            "message": "interrupted",
            "hint": f"go on with: {RESUME}",
            "request_id": None,
            "run_id": "page",
        }
    }


# the second and the third


@pytest.mark.parametrize("waits", [False, True], ids=["running", "pending"])
def test_the_second_signal_stops_the_image_too(
    start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, waits: bool
) -> None:
    comfyui.hold()
    workflow = json.loads((ROOT / "workflows" / "hero_v1.json").read_text(encoding="utf-8"))
    others = [comfyui.submit(workflow)] if waits else []
    process = start("run", "--run-id", "page", "--plain", stderr=subprocess.STDOUT)
    process.told("reviewer finished")
    process.reached(lambda: len(comfyui.accepted) == 1 + waits)
    ours = comfyui.accepted[-1]
    process.signal(signal.SIGINT)
    assert "Ctrl-C again" in process.told(GOES_ON)
    process.signal(signal.SIGTERM)
    process.stopped()
    if waits:
        assert (comfyui.pending, comfyui.interrupts) == ([], []), "the other's goes on"
    else:
        wait_until(lambda: ours in comfyui.finished)
        assert (comfyui.interrupted, comfyui.executed) == ([ours], [])
    assert status() == "interrupted"
    comfyui.release()
    _, calls = resumed(ollama)
    assert set(calls) <= {SCHEMAS["vision"]}
    assert len(set(comfyui.executed) - set(others)) == 1


def test_two_signals_at_once(start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    process = start("run", "--run-id", "page", "--plain")
    process.reached(only_the_image_is_missing(ollama, comfyui))
    process.signal(signal.SIGINT)
    process.signal(signal.SIGTERM)
    assert GOES_ON not in process.stopped()
    wait_until(lambda: comfyui.interrupted == comfyui.accepted)


@pytest.mark.parametrize("signals", [2, 3])
def test_a_server_that_hangs_keeps_nobody(
    start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, signals: int
) -> None:
    comfyui.hold()
    process = start("run", "--run-id", "page", "--plain")
    process.told("reviewer finished")
    process.reached(lambda: comfyui.running)
    comfyui.hang("/queue")
    for _ in range(signals):
        process.signal(signal.SIGINT)
        time.sleep(0.2)
    said = process.stopped()
    assert said.count(RESUME) == 1
    assert ("no time left" in said) == (signals == 2)
    comfyui.heal()
    comfyui.release()
    _, calls = resumed(ollama)
    assert set(calls) <= {SCHEMAS["vision"]}
    assert len(comfyui.accepted) == 1


def test_a_server_that_refuses_to_stop_is_told(start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    process = start("run", "--run-id", "page", "--plain")
    process.reached(only_the_image_is_missing(ollama, comfyui))
    comfyui.answer_next("/interrupt", 500)
    process.signal(signal.SIGINT)
    process.signal(signal.SIGTERM)
    assert "could not be stopped" in process.stopped()


# where it is hard to stop

PATCHED = """
import asyncio, os, signal, sys, time
from graph.runs import Runs
from sparklio.cli import main
from sparklio.publish import Publisher
import graph.inputs
def here(): open("here", "w").close()
{patch}
main()
"""
BLOCKED = """
async def blocked(self, run_id):
    here()
    time.sleep(60)
Runs.open_jobs = blocked
"""
UNBOOKED = """
async def start(self, *_, **__):
    here()
    await asyncio.Event().wait()
Runs.start = start
"""
READING = """
def load(*_):
    here()
    time.sleep(60)
graph.inputs.load_input = load
"""
PUBLISHING = """
publish = Publisher.__call__
async def signalled(self, *words):
    {before}
    published = await publish(self, *words)
    {after}
    return published
Publisher.__call__ = signalled
"""
WAITING = """
import graph.runs, graph.run_files
graph.runs._LEAVING_S = 60
lock = graph.run_files.FileRunStore.lock
def tried(self, run_id):
    here()
    return lock(self, run_id)
graph.run_files.FileRunStore.lock = tried
"""
KILL = "os.kill(os.getpid(), signal.SIGTERM)"


def patched(patch: str, *words: str) -> list[str]:
    words = words or ("run", "--run-id", "page")
    return [sys.executable, "-c", PATCHED.format(patch=patch), *words, "--plain"]


def test_a_process_that_is_stuck_is_ended(start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    process = start(*patched(BLOCKED))
    process.reached(only_the_image_is_missing(ollama, comfyui))
    process.signal(signal.SIGINT)
    assert process.stopped().splitlines() == [USES, f"interrupted; go on with: {RESUME}"]
    assert status() == "interrupted"


@pytest.mark.parametrize(
    ("patch", "number"),
    [(UNBOOKED, signal.SIGINT), (READING, signal.SIGTERM), (READING, signal.SIGHUP)],
    ids=["booking", "reading", "reading-closed"],
)
def test_a_run_that_is_not_booked_yet(start: Start, patch: str, number: signal.Signals) -> None:
    process = start(*patched(patch))
    process.reached(Path("here").exists)
    process.signal(number)
    assert process.stopped().splitlines() == [USES, "interrupted"]
    assert not list(Path(".sparklio").glob("runs/*"))


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_signal_while_the_result_is_published(
    start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, moment: str
) -> None:
    patch = PUBLISHING.format(**{"before": "pass", "after": "pass", moment: KILL})
    process = start(*patched(patch))
    _, err = process.popen.communicate(timeout=30)
    assert process.popen.returncode in (0, 130), err
    assert status() in {0: ("finished",), 130: ("finished", "interrupted")}[process.popen.returncode]
    run, calls = resumed(ollama)
    assert not calls
    assert run.page_path.is_file()
    assert len(comfyui.accepted) == 1


def test_signals_at_any_moment_leave_a_run_whole(
    start: Start, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mock a run is so short that some come while it starts, some while it is published, some too late."""
    monkeypatch.setenv("GENERATOR_MODE", "mock")
    dice = random.Random(5)
    for number in range(MOCK_RUNS):
        process = start("run", "--run-id", f"run-{number}", "--plain")
        folder = Path(f".sparklio/runs/run-{number}")
        process.reached((folder / "run.json").is_file)
        time.sleep(dice.uniform(0, 0.25))
        process.signal(dice.choice([signal.SIGINT, signal.SIGTERM]))
        _, err = process.popen.communicate(timeout=30)
        assert process.popen.returncode in (0, 130), err
        assert "Traceback" not in err
        assert status(f"run-{number}") in ("finished", "interrupted")
        resumed(ollama, f"run-{number}")


def test_who_waits_for_another_s_run_does_not_stop_its_image(
    start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    comfyui.hold()
    owner = start("run", "--run-id", "page", "--plain")
    owner.told("reviewer finished")
    owner.reached(lambda: comfyui.running)
    process = start(*patched(WAITING, "resume", "page"))
    process.reached(Path("here").exists)
    process.signal(signal.SIGINT)
    process.signal(signal.SIGTERM)
    assert GOES_ON not in process.stopped()
    assert status() == "running"
    comfyui.release()
    assert owner.popen.wait(30) == 0
    assert (comfyui.interrupts, len(comfyui.executed)) == ([], 1)


# terminals and shells


@pytest.mark.parametrize(
    ("ignored", "number"), [("HUP", signal.SIGHUP), ("INT", signal.SIGINT)], ids=["nohup", "background"]
)
def test_what_the_shell_ignores_stays_ignored(
    start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, ignored: str, number: signal.Signals
) -> None:
    words = shlex.join([*COMMAND, "run", "--run-id", "page", "--plain"])
    process = start("sh", "-c", f'trap "" {ignored}; exec {words}')
    process.reached(only_the_image_is_missing(ollama, comfyui))
    process.signal(number)
    time.sleep(0.2)
    assert status() == "running"
    process.signal(signal.SIGTERM)
    assert RESUME in process.stopped()


def in_a_terminal(start: Start, *words: str) -> tuple[Process, int]:
    """The command as the first process of a terminal of its own, and the terminal's other end."""
    master, slave = os.openpty()
    try:
        command = f"exec {shlex.join([*COMMAND, *words])} <$0 >$0 2>&1"
        process = start(
            "sh", "-c", command, os.ttyname(slave), start_new_session=True, stdout=None, stderr=None, stdin=None
        )
        process.reached(lambda: FileRunStore(Path(".sparklio"))._file("page").exists())
    finally:
        os.close(slave)
    return process, master


def test_ctrl_c_twice_in_a_terminal(
    start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    process, terminal = in_a_terminal(start, "run", "--run-id", "page")
    process.reached(only_the_image_is_missing(ollama, comfyui))
    os.write(terminal, b"\x03")
    shown = b""
    while GOES_ON.encode() not in shown:
        shown += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    process.signal(signal.SIGCONT)  # harmless: it starts the clock
    while RESUME.encode() not in shown:
        shown += os.read(terminal, 4096)
    process.stopped()
    os.close(terminal)
    assert b"Traceback" not in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l"), "the cursor is back"
    wait_until(lambda: comfyui.interrupted == comfyui.accepted)


def test_a_terminal_that_is_closed(start: Start, ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    process, terminal = in_a_terminal(start, "run", "--run-id", "page")
    process.reached(only_the_image_is_missing(ollama, comfyui))
    os.close(terminal)
    process.signal(signal.SIGCONT)  # harmless: it starts the clock
    process.stopped()
    assert status() == "interrupted"
