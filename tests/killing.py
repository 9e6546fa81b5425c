"""Runs in processes that may be killed at any moment, against servers that live on and count; and what must hold then.

A process begins the run "page", or its rerun "page.2", or goes on with it. Its seed is given, and the servers' answers
follow from the requests alone, so that every way to the end ends in the same page.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from graph import build_graph
from graph.database import Database
from graph.history import calls_of
from graph.ledger import Ledger
from providers.errors import SparklioError
from providers.media.comfyui.watch import Patience
from routing.contracts import ImageRequest, LLMRequest
from sparklio import Sparklio
from tests.conftest import BRAND, OURS, PRODUCT, THEIRS
from tests.faults import SCHEMAS
from tests.kept import Kept
from tests.standins.chat import Body
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn, default_answer, payload_of
from tests.waiting import NEVER_S, wait_until

__all__ = [
    "FAILED",
    "OF_A_RETRY",
    "OF_THE_CLOCK",
    "RERUN",
    "ROOT",
    "RUN",
    "SEED",
    "THOROUGH",
    "TRIALS",
    "Servers",
    "Trial",
    "Twin",
    "check_whole",
    "comparable",
    "visible",
]

ROOT = Path(__file__).parent.parent
RUN, RERUN = "page", "page.2"
RERUN_FROM = "strategist"
SEED = 1_021
TRIALS = int(os.environ.get("KILL_TRIALS", "5"))
THOROUGH = TRIALS >= 200
"""Enough trials for each window to be hit, and time for each single write to fail in each way."""
FAILED, KILLED = 3, -9
"""Exit codes of a process whose run ended in a typed error, and of one that was killed."""

_PRELOADED = (
    "providers.llm.ollama",
    "providers.media.comfyui",
    "sparklio.page",
    "jinja2",
    "graph.postgres_database",
    "graph.event_table",
    "tests.killing",
)
_QUICK = Patience(poll_s=0.1, idle_queue_s=2.0, outage_s=5.0)
_STARTED = re.compile(r": (\w+) node_started ")
_REWRITTEN = "(고침)"

OF_THE_CLOCK = {"wall_ms", "ms"}
"""What may differ between a run and its undisturbed twin: how long the run and its agents took."""
OF_A_RETRY = {"attempts", "usage"}
"""What may differ, too, where a server went away during a call: that call is made again, and both are booked."""

Call = tuple[str, str]
"""One call of a model: the title of the schema that it asks for, and its payload as JSON."""


# the process


def work(home: Path, settings: Mapping[str, str], run_id: str) -> None:
    """What each process does, from its first line to its last."""
    os.chdir(home)
    for name in [name for name in os.environ if name.startswith(OURS + THEIRS)]:
        del os.environ[name]
    patch = pytest.MonkeyPatch()  # of this process alone, and never undone
    patch.setattr("graph.runs.randbits", lambda bits: SEED)
    patch.setattr("graph.store.RunStore.next_member", lambda store, of: RERUN)  # the dead leave gaps in the numbers
    patch.setattr("routing.attempts._BACKOFF", lambda state: 0.05)
    patch.setattr("providers.media.comfyui.ComfyUIProvider.patience", _QUICK)
    try:
        asyncio.run(_to_the_end(home, settings, run_id))
    except SparklioError as exc:
        sys.exit(FAILED if exc.hint else f"an error without a hint: {exc!r}")


async def _to_the_end(home: Path, settings: Mapping[str, str], run_id: str) -> None:
    async with Sparklio(mode="live", home=home, settings=settings) as studio:
        if studio.runs.store.exists(run_id):
            await studio.resume(run_id)
        elif run_id == RERUN:
            await studio.rerun(RUN, start_at=RERUN_FROM)
        else:
            await studio.run(brand=BRAND, product=PRODUCT, run_id=RUN)


def prepared() -> multiprocessing.context.ForkServerContext:
    """Processes of this context have everything imported: one takes some 20 ms to start instead of 1 s."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context


# the servers


class Servers:
    """Ollama and ComfyUI; their books outlive the processes that ask them."""

    def __init__(self) -> None:
        self.ollama = OllamaStandIn()
        self.ollama.answerer = answer
        self.ollama.delay_s = 0.01
        self.comfyui = ComfyUIStandIn(previews=False, step_delay=0.002, restart_seconds=0.15)
        self.settings: dict[str, str] = {}

    def __enter__(self) -> Servers:
        with ExitStack() as stack:
            self.settings["OLLAMA_BASE_URL"] = stack.enter_context(self.ollama).url
            self.settings["COMFYUI_BASE_URL"] = stack.enter_context(self.comfyui).url
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._opened.close()

    def quiet(self) -> None:
        """Wait until what a dead process had sent has been read."""
        for server in (self.ollama, self.comfyui):
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), server.loop).result(5)
        wait_until(lambda: not (self.ollama.active or self.ollama.open_connections or self.comfyui.open_connections))

    def calls(self) -> list[Call]:
        return [(self.ollama.task_of(body), _canonical(payload_of(body))) for body in self.ollama.chats]


def answer(body: Body) -> str | dict[str, Any]:
    """Follows from the request alone; the first review sends the copy back, so that two agents are asked twice."""
    made = default_answer(body)
    assert isinstance(made, dict)
    payload = payload_of(body)
    if "revision" in payload:
        made["headline"] += _REWRITTEN
    if "copy" in payload and _REWRITTEN not in payload["copy"]["headline"]:
        issue = {"section_id": "", "severity": "medium", "message": "제목이 밋밋합니다.", "suggestion": "고쳐 주세요."}
        made |= {"approved": False, "score": 55, "issues": [issue]}
    return made


def _canonical(payload: object) -> str:
    return json.dumps(payload, sort_keys=True, ensure_ascii=False)


# what stands on the disk


@dataclass(frozen=True)
class Standing:
    """What a dead process left: nothing of it may be asked for again, nor get lost.

    Attributes:
        answered: calls whose answer the ledger holds, by call.
        image: whether it holds the image's; ``ordered``: whether at least the order.
        done: the records of the agents that are finished.
        started: how often each agent was begun, by the run's log.
        status: the run's record; None where there is none.
        published: whether some file of the result is there.
    """

    answered: Mapping[Call, str] = field(default_factory=dict)
    image: bool = False
    ordered: bool = False
    done: frozenset[str] = frozenset()
    started: Mapping[str, int] = field(default_factory=Counter)
    status: str | None = None
    published: bool = False

    @property
    def agents(self) -> Counter[str]:
        return Counter(json.loads(call)["node"] for call in self.done)

    def window(self, asked: int) -> str:
        """Where the process died, of which ``asked`` calls were known."""
        if self.status is None:
            return "before the record"
        if self.status == "finished":
            return "after the end"
        if self.published:
            return "while publishing"
        if self._recorded - self.agents:
            return "recorded, not yet done"
        if self.ordered and not self.image:
            return "the image under way"
        if len(self.answered) < asked:
            return "a call under way"
        return "all done, not published" if self.agents == _EXECUTIONS else "between calls"

    @property
    def _recorded(self) -> Counter[str]:
        """Of how many executions of each agent all answers are recorded, as far as is known."""
        agents = Counter(_agent(schema) for schema, _ in self.answered)
        return agents if self.image else agents - Counter(["vision"])


async def standing(kept: Kept, run_id: str) -> Standing:
    folder = kept.home / "runs" / run_id
    log = folder / "run.log"
    known = Standing(
        started=Counter(_STARTED.findall(log.read_text(encoding="utf-8"))) if log.exists() else Counter(),
        status=kept.status(run_id),
        published=(folder / "images").exists(),
    )
    async with kept.database() as database:
        return known if database is None else await _with_work(known, database, run_id)


async def _with_work(known: Standing, database: Database, run_id: str) -> Standing:
    effects = await Ledger(database).load(run_id)
    calls = await calls_of(run_id, build_graph().compile(checkpointer=database.saver))
    images = [effect for effect in effects if isinstance(effect.request, ImageRequest)]
    return replace(
        known,
        answered={
            (SCHEMAS[effect.node], _canonical(effect.request.payload)): effect.answer.model_dump_json()
            for effect in effects
            if effect.answer and isinstance(effect.request, LLMRequest)
        },
        image=any(effect.answer for effect in images),
        ordered=bool(images),
        done=frozenset(map(_canonical, calls)),  # an unfinished step tells its own twice
    )


def check_whole(home: Path, *, temporary: bool) -> None:
    """Whatever can be seen in the data folder is whole. A killed process may leave ``temporary`` files, hidden ones."""
    for path in home.rglob("*"):
        if path.name.startswith("."):
            assert temporary, path
        elif path.suffix == ".json" and path.name != "owner.json":
            json.loads(path.read_bytes())
        elif path.suffix == ".html":
            assert path.read_text(encoding="utf-8").rstrip().endswith("</html>"), path
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()


def visible(folder: Path) -> list[Path]:
    """The files of a folder, but for temporary ones that a killed process left."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def comparable(home: Path, run_id: str = RUN, *, but: set[str] = OF_THE_CLOCK) -> tuple[Any, bytes]:
    """The result and the page, without what rightly differs from run to run and from folder to folder."""
    folder = home / "runs" / run_id
    result = json.loads((folder / "result.json").read_bytes(), object_hook=lambda part: _without(part, but))
    result["image"]["url"] = result["image"]["url"].removeprefix(home.resolve().as_uri())
    return result, (folder / "page.html").read_bytes()


def _without(part: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name not in names}


def _differences(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in one.keys() | other.keys():
            yield from _differences(one.get(name), other.get(name), f"{path}.{name}")
    elif one != other:
        yield path, (one, other)


# a trial


@dataclass(frozen=True)
class Twin:
    """An undisturbed run: its result and page, see :func:`comparable`, and the calls that its ledger holds."""

    result: Any
    page: bytes
    calls: frozenset[Call]


class Trial:
    """One run on its way to the end, in as many processes as it takes."""

    def __init__(self, servers: Servers, kept: Kept, run_id: str = RUN) -> None:
        self.servers = servers
        self.kept = kept
        self.home = kept.home
        self.run_id = run_id
        self.folder = self.home / "runs" / run_id
        self.stood = Standing()
        self.windows: list[str] = []
        self._asked = 0
        self.home.mkdir(exist_ok=True)

    @contextmanager
    def process(self) -> Iterator[ForkServerProcess]:
        """A process that is gone when the block ends, killed if need be; then what it left is checked."""
        settings = self.servers.settings | self.kept.settings
        process = prepared().Process(target=work, args=(self.home, settings, self.run_id))
        process.start()
        try:
            yield process
        finally:
            process.kill()
            process.join(NEVER_S)
        assert process.exitcode in (0, FAILED, KILLED), process.exitcode
        self._check()

    def killed(self, moment: Callable[[], object], delay_s: float) -> bool:
        """Run until ``moment`` has come and ``delay_s`` have passed, then die; False: it was at its end before."""
        with self.process() as process:
            wait_until(lambda: moment() or not process.is_alive(), every_s=0.0002)
            process.join(delay_s)
        return process.exitcode == KILLED

    def finish(self) -> int | None:
        """Run undisturbed; the exit code."""
        with self.process() as process:
            process.join(NEVER_S)
        return process.exitcode

    def _check(self) -> None:
        """Nothing that stood before this process was asked for again, and nothing of it is lost."""
        self.servers.quiet()
        self.kept.quiet()
        check_whole(self.home, temporary=True)
        stands, calls = asyncio.run(standing(self.kept, self.run_id)), self.servers.calls()
        again = self.stood.answered.keys() & set(calls[self._asked :])
        assert not again, f"asked again: {again}"
        assert self.stood.answered.items() <= stands.answered.items(), "an answer is lost"
        assert self.stood.done <= stands.done, "a finished agent is lost"
        assert stands.agents <= Counter(_agent(task) for task, _ in stands.answered), "done before it was recorded"
        assert not self.stood.image or stands.image, "the image is lost"
        begun = Counter(stands.started) - Counter(self.stood.started)
        assert begun + self.stood.agents <= _EXECUTIONS, f"a finished agent ran again: {begun}"
        self.windows.append(stands.window(len(set(calls))))
        self.stood, self._asked = stands, len(calls)

    def twin(self) -> Twin:
        """What others come to, where this one was not disturbed."""
        assert self.stood.answered.keys() >= set(self.servers.calls())
        return Twin(*comparable(self.home, self.run_id), frozenset(self.stood.answered))

    def check_end(self, twin: Twin, *, lost_jobs: int = 0, but: set[str] = OF_THE_CLOCK) -> None:
        """The run is finished, as its undisturbed twin, with one image; ComfyUI itself may have lost jobs."""
        assert self.stood.status == "finished"
        assert self.stood.agents == _EXECUTIONS
        assert self.stood.answered.keys() == twin.calls
        result, page = comparable(self.home, self.run_id, but=but)
        expected = json.loads(json.dumps(twin.result), object_hook=lambda part: _without(part, but))
        assert result == expected, dict(_differences(result, expected))
        assert page == twin.page
        accepted = self.servers.comfyui.accepted
        assert 1 <= len(accepted) <= 1 + lost_jobs, accepted
        assert len(visible(self.home / "images")) == len(visible(self.folder / "images")) == 1
        self.kept.check_end(self.run_id)


_EXECUTIONS = Counter([*SCHEMAS, "copywriter", "reviewer"])
_AGENTS = {schema: agent for agent, schema in SCHEMAS.items()}


def _agent(schema: str) -> str:
    return _AGENTS[schema]
