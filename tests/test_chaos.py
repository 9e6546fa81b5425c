"""Hundreds of whole runs in which every call may fail in every way: each ends whole, or as one typed error to resume.

``CHAOS_SEED`` and ``CHAOS_RUNS`` repeat a failure or look for rarer ones; which call meets which fault also depends on
the order in which calls arrive.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby, starmap
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from PIL import Image

from graph.store import RunStore
from providers.errors import DeadlineError, MalformedAnswerError, ProviderError, SparklioError
from providers.media.comfyui import ComfyUIProvider
from providers.media.comfyui.watch import Patience
from routing import attempts
from routing.attempts import MAX_ATTEMPTS
from sparklio import Run, Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES, is_free, nothing_left, routed
from tests.standins import comfyui as comfyui_standin
from tests.standins import ollama as ollama_standin
from tests.standins.chat import Fault
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.standins.openai import OpenAIStandIn
from tests.standins.openai_images import error as openai_error
from tests.standins.rented import IMAGES, Refusal
from tests.waiting import until

pytestmark = [pytest.mark.usefixtures("live"), pytest.mark.no_cover]

SEED = int(os.environ.get("CHAOS_SEED", "20"))
RUNS = int(os.environ.get("CHAOS_RUNS", "40"))
ENOUGH_RUNS = 120
"""From so many on each fault is to come up. On a slow machine more runs end before they have asked for an image, and
fewer calls meet fewer faults: then there are more runs, up to twice as many in all."""
RUNS_ON_POSTGRES = max(20, RUNS // 6)
"""What befalls the calls is the same; it tells whether so many runs at once get on with one another there."""
RATE = 0.3
AT_ONCE = 16
RESUMED = 20
SUCCESSES = 0.5
"""Two routes, each good for some four calls of five, leave about four runs of five; fewer on a slow machine."""

CHAT_S, GATEWAY_S, IMAGE_S, OUTAGE_S = 1.5, 2.5, 1.0, 3.0
LONGEST_CHAIN = 7
"""Chat calls one behind the other: brand, brief, strategist, then copywriter and reviewer twice."""
IMAGE_BOUND_S = MAX_ATTEMPTS * (2 * (AT_ONCE * IMAGE_S + OUTAGE_S) + CHAT_S)
"""A job that got lost waits twice behind everybody else's, each of which may run to its limit; then the rented one."""
BOUND_S = LONGEST_CHAIN * GATEWAY_S + IMAGE_BOUND_S

OF_IMAGES = frozenset({Fault.IMAGE_REFUSED, Fault.IMAGE_PROHIBITED, Fault.NO_IMAGE, Fault.BROKEN_IMAGE})
OF_TEXTS = frozenset(
    {
        Fault.ERROR_LINE,
        Fault.NO_DONE,
        Fault.LENGTH,
        Fault.REFUSAL,
        Fault.CONTENT_FILTER,
        Fault.EMPTY,
        Fault.PROSE_AROUND,
        Fault.FENCED,
        Fault.THINK_TAGS,
        Fault.WRONG_SHAPE,
    }
)
RENTED = OpenAIStandIn.faults - {Fault.NONE}
AT_HOME = frozenset(ollama_standin.Fault) - {ollama_standin.Fault.NONE}

KINDS = ("product_shot", "concept")
ROUTES = [{"ollama", "openai"}, {"comfyui", "dalle"}]
SECRETS = ("key-of-the-house-4711", "sk-test-openai-0123456789abcdef", "password-of-the-proxy")


def _codes(kind: type[SparklioError]) -> Iterator[str]:
    """Codes of the errors below ``kind`` that are worth another attempt."""
    for leaf in kind.__subclasses__():
        yield from ([leaf.code] if leaf.retryable else [])
        yield from _codes(leaf)


RETRYABLE = frozenset(_codes(ProviderError))


@dataclass
class Dice:
    """What befalls the calls to one server: each fault once before any comes again, so that none is left out."""

    rolls: random.Random
    rate: float = RATE
    struck: Counter[str] = field(default_factory=Counter)
    decks: defaultdict[frozenset[Any], list[Any]] = field(default_factory=lambda: defaultdict(list))

    def fault(self, faults: frozenset[Any]) -> Any:
        if self.rolls.random() >= self.rate:
            return None
        deck = self.decks[faults]
        if not deck:
            deck += self.rolls.sample(sorted(faults), len(faults))
        self.struck[deck[-1]] += 1
        return deck.pop()


class IndiscreetOpenAI(OpenAIStandIn):
    """Repeats the key that it refuses."""

    def refusals(self, fault: Fault) -> Refusal | None:
        if fault is Fault.STATUS_401:
            return 401, openai_error(f"Incorrect API key provided: {self.key}.", code="invalid_api_key")
        return super().refusals(fault)


class World:
    """The three servers and what befalls them."""

    def __init__(self, ollama: OllamaStandIn, openai: OpenAIStandIn, comfyui: ComfyUIStandIn) -> None:
        self.ollama, self.openai, self.comfyui = ollama, openai, comfyui
        self.dice = {name: Dice(random.Random(f"{name} {SEED}")) for name in ("ollama", "openai", "comfyui")}
        ollama.chance = lambda task: self.dice["ollama"].fault(AT_HOME)
        openai.chance = lambda task: self.dice["openai"].fault(RENTED - (OF_TEXTS if task == IMAGES else OF_IMAGES))
        comfyui.chance = self.dice["comfyui"].fault

    def heal(self) -> None:
        for dice in self.dice.values():
            dice.rate = 0.0

    @property
    def open_connections(self) -> int:
        servers = (self.ollama, self.openai, self.comfyui)
        return sum(server.open_connections for server in servers)

    @property
    def never_struck(self) -> set[tuple[str, str]]:
        every = {"ollama": AT_HOME, "openai": RENTED, "comfyui": frozenset(comfyui_standin.Fault)}
        return {(name, fault) for name, faults in every.items() for fault in faults - set(self.dice[name].struck)}


@pytest.fixture
def openai() -> Iterator[OpenAIStandIn]:
    with IndiscreetOpenAI(key=SECRETS[1]) as server:
        yield server


@pytest.fixture
def world(
    ollama: OllamaStandIn,
    openai: OpenAIStandIn,
    comfyui: ComfyUIStandIn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    for name, value in {
        "OLLAMA_API_KEY": SECRETS[0],
        "OLLAMA_TIMEOUT": CHAT_S,
        "OPENAI_BASE_URL": openai.url,
        "OPENAI_API_KEY": openai.key,
        "OPENAI_TIMEOUT": CHAT_S,
        "DALLE_BASE_URL": openai.url,
        "DALLE_TIMEOUT": CHAT_S,
        "COMFYUI_BASE_URL": comfyui.url.replace("://", f"://user:{SECRETS[2]}@"),
        "COMFYUI_TIMEOUT": IMAGE_S,
        "GATEWAY_TIMEOUT_LIVE": GATEWAY_S,
        "SPARKLIO_CONFIG": routed(
            tmp_path, providers=_providers, llm_routing=_chat_routes, media_routing=_image_routes
        ),
    }.items():
        monkeypatch.setenv(name, str(value))
    patience = Patience(poll_s=0.05, idle_queue_s=0.5, still_queue_s=AT_ONCE * IMAGE_S, outage_s=OUTAGE_S)
    monkeypatch.setattr(ComfyUIProvider, "patience", patience)
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)
    ollama.chunk_chars = openai.chunk_chars = 200
    comfyui.previews, comfyui.history_delay, comfyui.slow_seconds, comfyui.restart_seconds = False, 0.002, 0.1, 0.1
    return World(ollama, openai, comfyui)


def _providers(_: Any) -> Any:
    return {"llm": {"active": ["ollama", "openai"]}, "media": {"active": ["comfyui", "dalle"]}}


def _chat_routes(routing: Any) -> Any:
    return {"rules": [*routing["rules"], {"provider": "openai", "model": "test-large", "priority": 9}]}


def _image_routes(routing: Any) -> Any:
    """Small pictures in few steps, product shots at home first and concepts rented first."""
    [home] = [rule for rule in routing["image"] if rule.get("kind") == ["product_shot"]]
    home["options"] |= {"steps": 3, "width": 64, "height": 64}
    rented = {"provider": "dalle", "model": "test-image"}
    return {"image": [{**home, "kind": []}, {**rented, "priority": 2}, {**rented, "kind": ["concept"], "priority": 0}]}


@pytest.mark.each_place
async def test_every_run_ends_whole_or_as_one_error_to_resume(world: World, place: str) -> None:
    runs = RUNS if place == "files" else RUNS_ON_POSTGRES
    async with nothing_left(world.ollama, world.comfyui):
        async with Sparklio() as studio:
            home = studio.settings.home
            ends = await all_runs(studio, range(runs))
            while runs >= ENOUGH_RUNS and world.never_struck and len(ends) < 2 * runs:
                ends |= await all_runs(studio, range(len(ends), len(ends) + AT_ONCE))
            failed = {run_id: end for run_id, end in ends.items() if not isinstance(end, Run)}
            tell(ends)
            for run_id, end in ends.items():
                check(studio.runs.store, run_id, end)
            assert {record.run_id for record in studio.runs.store.all() if record.status == "failed"} == set(failed)
            assert len(ends) - len(failed) >= SUCCESSES * len(ends)
            assert runs < ENOUGH_RUNS or not world.never_struck
            world.heal()
            for run_id in random.Random(SEED).sample(sorted(failed), min(RESUMED, len(failed))):
                check(studio.runs.store, run_id, await bounded(studio.resume(run_id)))
            assert all(is_free(studio, run_id) for run_id in ends)
        await until(lambda: world.open_connections == 0)
    assert (home / "checkpoints.sqlite").exists() is (place == "files")
    check_files(home)


async def all_runs(studio: Sparklio, numbers: Iterable[int]) -> dict[str, Run | BaseException]:
    few = asyncio.Semaphore(AT_ONCE)

    async def one(run_id: str, kind: str) -> Run:
        async with few:
            return await bounded(studio.run(brand=BRAND, product=PRODUCT, image={"kind": kind}, run_id=run_id))

    kinds = {f"run-{number}": KINDS[number % len(KINDS)] for number in numbers}
    return dict(zip(kinds, await asyncio.gather(*starmap(one, kinds.items()), return_exceptions=True), strict=True))


async def bounded(work: Coroutine[Any, Any, Run]) -> Run:
    """A TimeoutError, which no check lets through, for a run that hangs."""
    async with asyncio.timeout(BOUND_S):
        return await work


def tell(ends: Mapping[str, Run | BaseException]) -> None:
    errors = Counter(getattr(end, "code", type(end).__name__) for end in ends.values() if not isinstance(end, Run))
    print(f"CHAOS_SEED={SEED}: {len(ends) - errors.total()} of {len(ends)} runs succeeded; errors: {dict(errors)}")  # noqa: T201


# what a run may end as


def check(store: RunStore, run_id: str, end: Run | BaseException) -> None:
    if isinstance(end, Run):
        check_success(store, end)
        return
    if not isinstance(end, SparklioError):  # a hang, or a defect
        raise end
    check_failure(store, run_id, end)


def check_success(store: RunStore, run: Run) -> None:
    record = store.read(run.id)
    assert (record.status, record.error) == ("finished", None)
    assert json.loads((record.out / "result.json").read_bytes()) == run.result
    assert set(run.result["meta"]["nodes"]) == NODES
    assert all(run.result[key] for key in ("brand_summary", "brief", "sections", "copy", "image", "review"))
    assert run.page_path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    told = run.result["image"]
    with Image.open(Path(unquote(urlparse(told["url"]).path))) as image:
        image.load()
        assert image.size == (told["width"], told["height"])


def check_failure(store: RunStore, run_id: str, error: SparklioError) -> None:
    assert isinstance(error, ProviderError | DeadlineError), error
    assert error.code not in (SparklioError.code, ProviderError.code)
    assert error.message
    assert error.hint
    assert error.run_id == run_id
    record = store.read(run_id)
    assert record.status == "failed"
    told = json.loads(json.dumps(error.to_dict()))["error"]
    assert record.error == told
    assert not [secret for secret in SECRETS if secret in json.dumps(told)]
    check_attempts(error, told["details"]["attempts"])


def check_attempts(error: SparklioError, made: list[dict[str, Any]]) -> None:
    """Every route was used up; the deadline alone may end a request before that, once its time is over."""
    routes = [(name, [attempt["outcome"] for attempt in some]) for name, some in groupby(made, itemgetter("provider"))]
    assert "cancelled" not in [attempt["outcome"] for attempt in made], made
    if isinstance(error, DeadlineError):
        assert sum(attempt["latency_ms"] for attempt in made) >= GATEWAY_S * 1000 / 2, made
        return
    assert {name for name, _ in routes} in ROUTES, made
    assert len(routes) == len(ROUTES[0]), made
    assert all(used_up(outcomes) for _, outcomes in routes), made
    assert error.code == made[-1]["outcome"] or (error.code, made[-1]["outcome"]) == (MalformedAnswerError.code, "ok")


def used_up(outcomes: list[str]) -> bool:
    """The last of a route's attempts was of no use for good, or the last of all that it has; "ok" was malformed."""
    *_, last = outcomes
    return last not in RETRYABLE or (len(outcomes) >= MAX_ATTEMPTS and set(outcomes[-MAX_ATTEMPTS:]) <= RETRYABLE)


# what is left on the disk


def check_files(home: Path) -> None:
    """Nothing half written, nothing damaged and no secret in all of the data folder."""
    files = [path for path in home.rglob("*") if path.is_file()]
    assert not [path for path in files if path.name.startswith(".") or path.name.endswith(("-wal", "-shm", "-journal"))]
    for path in files:
        check_file(path)
    for path in home.glob("checkpoints.sqlite"):
        with closing(sqlite3.connect(path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def check_file(path: Path) -> None:
    content = path.read_bytes()
    assert content or path.name in ("lock", "checkpoints.sqlite.lock")
    assert not [secret for secret in SECRETS if secret.encode() in content], path
    if path.suffix == ".json":
        json.loads(content)
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
