"""SIGKILL at any moment of a run, servers that restart: nothing finished is done twice, and nothing of it is lost.

``CHAOS_SEED`` and ``KILL_TRIALS`` repeat a failure or look for rarer ones; `make chaos` makes hundreds of trials. Where
exactly a process dies also depends on the machine.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import COVERAGE
from tests.kept import InFiles, InPostgres, Kept
from tests.killing import FAILED, OF_A_RETRY, OF_THE_CLOCK, RERUN, ROOT, RUN, THOROUGH, TRIALS, Servers, Trial, Twin
from tests.places import KINDS
from tests.postgres_server import postgres_server

pytestmark = pytest.mark.no_cover

CHAOS_SEED = int(os.environ.get("CHAOS_SEED", "20"))
CALLS = 8
"""Of the models, in an undisturbed run: six agents, two of them twice."""
MOST_KILLS = 3
MOST_FAILURES = 6

WINDOWS = {
    "before the record",
    "between calls",
    "a call under way",
    "recorded, not yet done",
    "the image under way",
    "all done, not published",
    "while publishing",
    "after the end",
}


@dataclass(frozen=True)
class Measure:
    """Undisturbed runs: what each comes to, and how long the first one's process took.

    Attributes:
        make: an empty place for runs.
        finished: one with the finished run.
    """

    make: Callable[[Path], Kept]
    finished: Kept
    twins: Mapping[str, Twin]
    seconds: float


@pytest.fixture(scope="module", params=KINDS)
def measure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Measure:
    folder = tmp_path_factory.mktemp("twins")
    make = _maker(request)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # the server that forks the processes finds our modules by it alone
        patch.delenv(COVERAGE, raising=False)  # it would trace them all, and none of them is left to tell
        undisturbed(make(folder / "first"))  # waits for that server's imports
    started = time.perf_counter()
    second = make(folder / "second")
    twin = undisturbed(second)
    seconds = time.perf_counter() - started
    assert len(twin.calls) == CALLS
    twins = {RUN: twin, RERUN: undisturbed(second.copied(folder / "rerun"), RERUN)}
    return Measure(make, second, twins, seconds)


def _maker(request: pytest.FixtureRequest) -> Callable[[Path], Kept]:
    if request.param == "postgres":
        return partial(InPostgres, server=request.getfixturevalue("postgres"))
    return InFiles


def undisturbed(kept: Kept, run_id: str = RUN) -> Twin:
    with Servers() as servers:
        trial = Trial(servers, kept, run_id)
        assert trial.finish() == 0
        assert len(servers.calls()) == len(set(servers.calls()))
        return trial.twin()


# moments to die at

Moment = Callable[[Trial, random.Random, float], tuple[Callable[[], object], float]]
"""What to wait for, and how many seconds more, of a trial whose twin took so many."""


def any_moment(trial: Trial, rolls: random.Random, seconds: float) -> tuple[Callable[[], object], float]:
    return lambda: True, rolls.uniform(0, 1.1 * seconds)


def starting(trial: Trial, rolls: random.Random, seconds: float) -> tuple[Callable[[], object], float]:
    return lambda: True, rolls.uniform(0, 0.3 * seconds)


def answered(trial: Trial, rolls: random.Random, seconds: float) -> tuple[Callable[[], object], float]:
    """Right after an answer was sent, while it is read, recorded and taken into the state."""
    book = trial.servers.ollama.answered
    wanted = len(book) + rolls.randint(1, CALLS)
    return lambda: len(book) >= wanted, rolls.triangular(0, 0.02, 0)


def drawing(trial: Trial, rolls: random.Random, seconds: float) -> tuple[Callable[[], object], float]:
    """From the image's order until it is fetched, kept and taken into the state."""
    comfyui = trial.servers.comfyui
    book, length = rolls.choice([(comfyui.accepted, 0.1), (comfyui.executed, 0.08)])
    return lambda: book, rolls.uniform(0, length)


def booking(trial: Trial, rolls: random.Random, seconds: float) -> tuple[Callable[[], object], float]:
    """From the run's record until it is begun."""
    return lambda: trial.kept.status(trial.run_id), rolls.triangular(0, 0.02, 0)


def publishing(trial: Trial, rolls: random.Random, seconds: float) -> tuple[Callable[[], object], float]:
    return (trial.folder / "images").exists, rolls.triangular(0, 0.02, 0)


MOMENTS = (any_moment, any_moment, starting, booking, answered, answered, drawing, publishing)


@pytest.mark.parametrize(("run_id", "trials"), [(RUN, TRIALS), (RERUN, TRIALS // 3)])
def test_a_run_that_is_killed_at_any_moment_ends_as_if_nothing_had_been(
    measure: Measure, tmp_path: Path, run_id: str, trials: int
) -> None:
    windows: Counter[str] = Counter()
    repeated = 0
    for number in range(_first(measure, trials), trials):
        print(f"CHAOS_SEED={CHAOS_SEED}: {run_id}, trial {number}")  # noqa: T201
        rolls = random.Random(f"{CHAOS_SEED} {run_id} {number}")
        home = tmp_path / f"kill-{number}"
        kept = measure.finished.copied(home) if run_id == RERUN else measure.make(home)
        with Servers() as servers:
            trial = Trial(servers, kept, run_id)
            windows.update(killed_in(trial, rolls, MOMENTS[number % len(MOMENTS)], measure.seconds))
            assert trial.finish() == 0
            trial.check_end(measure.twins[run_id])
            assert len(servers.comfyui.executed) == 1
            repeated += len(servers.calls()) - len(set(servers.calls()))
        shutil.rmtree(home)
    print(f"{windows.total()} kills: {dict(windows)}; repeated without an answer: {repeated}")  # noqa: T201
    assert windows or trials - _first(measure, trials) < 4, "of a few trials none may have died in time"
    if THOROUGH and run_id == RUN:
        assert set(windows) == WINDOWS


def _first(measure: Measure, trials: int) -> int:
    """A few trials in PostgreSQL, unless there are to be many: those that begin with a chosen moment."""
    return 0 if THOROUGH or isinstance(measure.finished, InFiles) else trials // 2


def killed_in(trial: Trial, rolls: random.Random, first: Moment, seconds: float) -> list[str]:
    """Kill it once or more, at the ``first`` moment and then at others; the windows that were hit."""
    for moment in [first, *rolls.choices(MOMENTS, k=rolls.randrange(MOST_KILLS))]:
        if not trial.killed(*moment(trial, rolls, seconds)):
            return trial.windows[:-1]
    return list(trial.windows)


# servers that restart


def comfyui_loses_all(servers: Servers) -> int:
    before = len(servers.comfyui.accepted)
    servers.comfyui.restart()
    return before


def comfyui_is_cut(servers: Servers) -> int:
    return _away(servers.comfyui)


def ollama_is_cut(servers: Servers) -> int:
    return _away(servers.ollama)


def _away(server: Any) -> int:
    server.leave()
    time.sleep(0.15)
    server.come_back()
    return 0


RESTARTS: Mapping[str, Callable[[Servers], int]] = {
    "ComfyUI starts anew": comfyui_loses_all,
    "ComfyUI is away, and keeps its jobs": comfyui_is_cut,
    "Ollama is away": ollama_is_cut,
}


@pytest.mark.parametrize("measure", ["sqlite"], indirect=True)
@pytest.mark.parametrize("event", RESTARTS)
def test_a_server_that_restarts_in_the_middle_is_asked_for_nothing_again_but_what_it_lost(
    measure: Measure, tmp_path: Path, event: str
) -> None:
    ends: Counter[int | None] = Counter()
    for number in range(max(1, TRIALS // 4)):
        rolls = random.Random(f"{CHAOS_SEED} {event} {number}")
        with Servers() as servers:
            trial = Trial(servers, measure.make(tmp_path / f"restart-{number}"))
            print(f"CHAOS_SEED={CHAOS_SEED}: {event}, trial {number}")  # noqa: T201
            with trial.process() as process:
                process.join(rolls.uniform(0.15, 0.9) * measure.seconds)
                lost = RESTARTS[event](servers)
                if rolls.random() < 0.3:
                    process.kill()
                process.join(60)
            ends[process.exitcode] += 1
            failures = 0
            while (code := trial.finish()) == FAILED:
                failures += 1
                assert failures < MOST_FAILURES
            assert code == 0
            trial.check_end(measure.twins[RUN], lost_jobs=lost, but=OF_THE_CLOCK | OF_A_RETRY)
        shutil.rmtree(trial.home)
    print(f"{event}: ended with {dict(ends)}")  # noqa: T201


@pytest.mark.parametrize("measure", ["postgres"], indirect=True)
def test_a_database_that_restarts_or_crashes_in_the_middle_is_waited_for(measure: Measure, tmp_path: Path) -> None:
    with postgres_server() as postgres:
        for number, how in enumerate((signal.SIGINT, signal.SIGQUIT) * max(1, TRIALS // 8)):
            print(f"CHAOS_SEED={CHAOS_SEED}: {how.name}, trial {number}")  # noqa: T201
            rolls = random.Random(f"{CHAOS_SEED} PostgreSQL {number}")
            with Servers() as servers:
                trial = Trial(servers, InPostgres(tmp_path / f"database-{number}", postgres))
                with trial.process() as process:
                    process.join(rolls.uniform(0.15, 0.9) * measure.seconds)
                    postgres.restart(how=how, after_s=0.3)
                    process.join(60)
                assert process.exitcode == 0
                trial.check_end(measure.twins[RUN])
                assert len(servers.calls()) == len(set(servers.calls())), "a call was made again"
