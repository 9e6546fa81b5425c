"""What LangGraph does to others, and not to a run: each row of the table in whole runs on real checkpoints."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys
import zlib
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import ormsgpack
import pytest
from langgraph._internal import _serde
from langgraph.checkpoint.serde import _msgpack, jsonplus

import sparklio
from graph import build_graph
from graph.database import open_database
from graph.state import OUTPUT_KEYS, PageState
from nodes.context import Context
from providers.errors import AttemptTimeoutError, AuthenticationError, JobError, RejectedError, StorageError
from providers.media.comfyui import ComfyUIProvider
from providers.media.comfyui.watch import Patience
from routing import attempts
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES, SCHEMAS, failure, finished_agents, going_on, one_image_route, routed, whole_run
from tests.standins import comfyui as comfy
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import Fault, OllamaStandIn
from tests.waiting import NEVER_S, until, wait_until

pytestmark = pytest.mark.usefixtures("live")

ROOT = Path(__file__).parent.parent
BIGGEST_CHECKPOINT = 32_000
BIGGEST_DATABASE = 2_000_000


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, comfyui: ComfyUIStandIn) -> None:
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)
    monkeypatch.setattr(ComfyUIProvider, "patience", Patience(poll_s=0.03))
    comfyui.previews = False


# a failing node beside a running image


@pytest.mark.parametrize("agent", ["copywriter", "reviewer"])
@pytest.mark.parametrize("finished", [True, False], ids=["finished meanwhile", "still running"])
async def test_an_image_goes_on_beside_a_failure_and_is_found_again(
    ollama: OllamaStandIn, comfyui: ComfyUIStandIn, monkeypatch: pytest.MonkeyPatch, agent: str, finished: bool
) -> None:
    words = [{"prompt": f"earbuds, take {n}", "negative_prompt": "text"} for n in (1, 2)]
    ollama.answers_for["ImagePrompt"].extend(words)  # a model never writes the same twice
    ollama.fail(Fault.HANG, task=SCHEMAS[agent])  # long enough for the image to begin
    monkeypatch.setenv("OLLAMA_TIMEOUT", "3")
    comfyui.hold()
    async with Sparklio() as studio:
        failed = await failure(studio, AttemptTimeoutError)
    assert failed.finished == {"brand", "brief", "strategist", "copywriter"} - {agent}
    [job] = comfyui.accepted
    assert comfyui.running == job
    if finished:
        comfyui.release()
        await until(lambda: job in comfyui.finished)
    monkeypatch.delenv("OLLAMA_TIMEOUT")
    async with Sparklio() as studio:
        going = asyncio.create_task(going_on(studio, ollama, failed.finished))
        if not finished:
            await until(lambda: Counter(path for _, path in comfyui.requests)["/ws"] == 2)
            comfyui.release()
        run = await going
    assert len(comfyui.prompts) == 1
    assert (comfyui.interrupts, comfyui.deleted) == ([], [])
    assert run.result["image"]["prompt_used"] == "earbuds, take 1"
    assert run.result["image"]["seed"] == comfyui.prompts[0]["prompt"]["3"]["inputs"]["seed"]


# a process that is killed

DESK = {"brand", "brief", "strategist", "copywriter", "reviewer"}
KILLED_AT = {  # moment -> the schema whose answer never comes, the agents that are finished then, image jobs
    "after brand": ("MarketingBrief", {"brand"}, 0),
    "between copy and review": ("StyleReview", DESK - {"reviewer"}, 1),
    "before the image is sent": ("ImagePrompt", DESK, 0),
    "while the image runs": (None, DESK, 1),
}
HELD = """
import asyncio, sparklio, sparklio.publish
async def never(*_): await asyncio.Event().wait()
if {hold}: sparklio.publish.Publisher.__call__ = never
sparklio.run(brand={brand!r}, product={product!r}, run_id="page")
"""


@asynccontextmanager
async def killed_run(folder: Path, *, hold: bool = False) -> AsyncGenerator[None, None]:
    """A process that runs "page" and is killed where the block ends; with ``hold`` it never comes to publish."""
    code = HELD.format(hold=hold, brand=BRAND, product=PRODUCT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=folder, env=environment)
    try:
        yield
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def stands(studio: Sparklio, finished: set[str]) -> None:
    """Wait until another process has written what the ``finished`` agents of "page" made."""
    async with asyncio.timeout(NEVER_S):
        await until(lambda: studio.runs.store.exists("page"))
        while set(await _done(studio)) != finished:  # noqa: ASYNC110  # written by another process
            await asyncio.sleep(0.02)


async def interrupted(studio: Sparklio) -> None:
    """Where nobody sees that a process has died, its lease tells."""
    store = studio.runs.store
    await until(lambda: store.status_of("page") == "interrupted", timeout_s=NEVER_S if store.shared else 1.0)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("moment", KILLED_AT)
async def test_a_killed_process_leaves_a_run_that_goes_on(
    ollama: OllamaStandIn, comfyui: ComfyUIStandIn, tmp_path: Path, moment: str
) -> None:
    schema, finished, jobs = KILLED_AT[moment]
    if schema:
        ollama.fail(Fault.HANG, task=schema)
    comfyui.hold()
    async with Sparklio() as studio:
        async with killed_run(tmp_path):
            await stands(studio, finished)
            await until(lambda: len(comfyui.accepted) == jobs)
            await until(lambda: schema is None or ollama.by_task[schema])
        await interrupted(studio)
        sent = len(comfyui.prompts)
        comfyui.release()
        await going_on(studio, ollama, finished)
    assert sent == jobs
    assert len(comfyui.prompts) == len(comfyui.executed) == 1


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.each_place
async def test_a_process_killed_before_it_published_has_nothing_to_ask_again(
    ollama: OllamaStandIn, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    async with Sparklio() as studio:
        async with killed_run(tmp_path, hold=True):
            await stands(studio, NODES)
        await interrupted(studio)
        assert not list(tmp_path.rglob("result.json"))
        run = await going_on(studio, ollama, NODES)
    assert run.result["review"]["approved"]
    assert (set(ollama.by_task.values()), len(comfyui.prompts)) == ({1}, 1)


# retries


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_is_refused_is_tried_once(ollama: OllamaStandIn, status: int) -> None:
    """LangGraph's default policy would try it again."""
    ollama.fail_always(f"status_{status}", task="ContentPlan")
    async with Sparklio() as studio:
        failed = await failure(studio, AuthenticationError)
    assert (failed.finished, ollama.by_task["ContentPlan"]) == ({"brand", "brief"}, 1)


@pytest.mark.parametrize("kind", [ConnectionError, ValueError], ids=lambda kind: kind.__name__)
async def test_a_defect_is_run_into_once(
    ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    asked: list[str] = []

    async def broken(self: Context, role: str, *_: Any, **__: Any) -> None:
        asked.append(role)
        raise kind("a defect")

    monkeypatch.setattr(Context, "ask", broken)
    async with Sparklio() as studio:
        with pytest.raises(kind, match="a defect"):
            await studio.run(brand=BRAND, product=PRODUCT)
    assert asked == ["brand"]


# the checkpoints


class Foreign:
    """A type that no checkpoint may bring back to life."""

    revived = 0

    def __init__(self, word: str) -> None:
        type(self).revived += 1
        self.word = word

    def __reduce__(self) -> tuple[type[Foreign], tuple[str]]:
        return Foreign, (self.word,)


def calls_of(kind: type) -> list[Any]:
    """LangGraph's msgpack for "call this class", in each of its codes that name one."""
    name = (kind.__module__, kind.__name__)
    by_code = {
        jsonplus.EXT_CONSTRUCTOR_SINGLE_ARG: (*name, "x"),
        jsonplus.EXT_CONSTRUCTOR_POS_ARGS: (*name, ["x"]),
        jsonplus.EXT_CONSTRUCTOR_KW_ARGS: (*name, {"word": "x"}),
        jsonplus.EXT_METHOD_SINGLE_ARG: (*name, "x", "made"),
        jsonplus.EXT_PYDANTIC_V1: (*name, {"word": "x"}, "construct"),
        jsonplus.EXT_PYDANTIC_V2: (*name, {"word": "x"}, "model_construct"),
    }
    return [ormsgpack.Ext(code, ormsgpack.packb(call)) for code, call in by_code.items()]


async def test_foreign_types_are_not_revived(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        await whole_run(studio)
        serde = studio.runs.database.saver.serde
        with pytest.raises(TypeError):
            serde.dumps_typed(Foreign("x"))
        with pytest.raises(StorageError, match="pickle"):
            serde.loads_typed(("pickle", b"\x80\x04."))
        planted = {"lc": 2, "type": "constructor", "id": [__name__, "Foreign"], "args": ["x"]}
        assert serde.loads_typed(("json", json.dumps(planted).encode())) == planted


@pytest.mark.parametrize("host_is_strict", [False, True])
async def test_the_serializer_is_as_strict_as_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host_is_strict: bool
) -> None:
    """Whether the host set LANGGRAPH_STRICT_MSGPACK, which LangGraph reads at its import, or did not."""
    blobs = [("msgpack", ormsgpack.packb(call)) for call in [*calls_of(Foreign), *calls_of(UUID)]]
    monkeypatch.setattr(_msgpack, "STRICT_MSGPACK_ENABLED", False)
    permissive = jsonplus.JsonPlusSerializer()
    monkeypatch.setattr(_msgpack, "STRICT_MSGPACK_ENABLED", True)
    strict = jsonplus.JsonPlusSerializer()
    for module in (_msgpack, _serde):
        monkeypatch.setattr(module, "STRICT_MSGPACK_ENABLED", host_is_strict)
    async with open_database(tmp_path / "checkpoints.sqlite") as database:
        used: Any = build_graph().compile(checkpointer=database.saver).checkpointer
        before = Foreign.revived
        assert [used.serde.loads_typed(blob) for blob in blobs] == [strict.loads_typed(blob) for blob in blobs]
        assert Foreign.revived == before
        assert not used.serde.serde.pickle_fallback
    assert isinstance(permissive.loads_typed(blobs[0]), Foreign), "the blob would do its harm elsewhere"


async def test_a_type_planted_in_the_database_is_not_revived(ollama: OllamaStandIn) -> None:
    ollama.fail(Fault.STATUS_400, task="MarketingBrief")
    async with Sparklio() as studio:
        await failure(studio, RejectedError)
        vault = studio.runs.database.vault
        database = sqlite3.connect(studio.settings.home / "checkpoints.sqlite")
        for row, blob in database.execute("select rowid, checkpoint from checkpoints").fetchall():
            checkpoint = ormsgpack.unpackb(vault.decrypt("zlib", blob))
            if "brand" in checkpoint["channel_values"]:
                checkpoint["channel_values"]["brand"]["tone"] = calls_of(Foreign)[1]
                packed = ormsgpack.packb(checkpoint)
                kept = vault.encrypt(packed)[1]
                database.execute("update checkpoints set checkpoint = ? where rowid = ?", (kept, row))
                assert b"Foreign" in packed
        assert database.total_changes > 0
        database.commit()
        database.close()
        before = Foreign.revived
        assert (await studio.runs.values("page"))["brand"]["tone"] == ["x"]
        await studio.resume("page")
    assert Foreign.revived == before


async def test_the_state_is_plain_json_and_small(ollama: OllamaStandIn) -> None:
    ollama.fail(Fault.STATUS_400, task="StyleReview")
    async with Sparklio() as studio:
        await failure(studio, RejectedError)
        await studio.resume("page")
        await studio.rerun("page", start_at="copywriter")
        checkpointer = studio.runs.database.saver
        for run_id in ("page", "page.2"):
            stored = [item async for item in checkpointer.alist({"configurable": {"thread_id": run_id}})]
            assert len(stored) >= 4
            for item in stored:
                values = item.checkpoint["channel_values"]
                text = json.dumps(values, ensure_ascii=False)
                assert json.loads(text) == values
                assert len(text.encode()) < BIGGEST_CHECKPOINT
    database = sqlite3.connect(studio.settings.home / "checkpoints.sqlite")
    for table, column in (("checkpoints", "checkpoint"), ("writes", "value")):
        for kind, blob in database.execute(f"select type, {column} from {table}"):
            assert kind in ("msgpack+zlib", "null+zlib", "empty+zlib", "json+zlib")
            content = zlib.decompress(blob)
            assert b"PNG\r\n" not in content
            assert b"iVBORw0KGgo" not in content
    database.close()
    assert (studio.settings.home / "checkpoints.sqlite").stat().st_size < BIGGEST_DATABASE


async def test_what_the_agents_return_stands_in_the_state(ollama: OllamaStandIn) -> None:
    answer = {"target": "통근자", "positioning": "조용한 출근길", "key_messages": ["가", "나", "다"], "mood": "슬픔"}
    ollama.answers_for["MarketingBrief"].append(answer)
    async with Sparklio() as studio:
        run = await whole_run(studio)
        points = await studio.history("page")
    assert set(OUTPUT_KEYS) <= set(run.state) <= set(PageState.__annotations__)
    assert [call["node"] for call in run.state["calls"][:3]] == ["brand", "brief", "strategist"]
    assert {call["node"] for call in run.state["calls"]} == NODES
    assert run.state["brief"]["positioning"] == "조용한 출근길"
    assert points[-1].values.keys() == run.state.keys() - {"calls"}


@pytest.mark.no_cover
@pytest.mark.each_place
async def test_two_studios_on_one_home_run_five_each_at_once(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    async with Sparklio() as one, Sparklio() as two:
        runs = await asyncio.gather(
            *(whole_run(studio, run_id=f"{name}-{n}") for name, studio in (("a", one), ("b", two)) for n in range(5))
        )
        both = [{record.run_id for record in studio.runs.store.all()} for studio in (one, two)]
    assert both[0] == both[1] == {run.id for run in runs}
    assert len({run.result["image"]["seed"] for run in runs}) == 10
    assert set(ollama.by_task.values()) == {10}
    assert len(comfyui.executed) == 10


async def test_a_database_that_is_locked_for_a_while_is_waited_for(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        await whole_run(studio, run_id="first")
        other = sqlite3.connect(studio.settings.home / "checkpoints.sqlite", isolation_level=None)
        other.execute("begin immediate")
        run = asyncio.create_task(whole_run(studio))
        await asyncio.sleep(0.3)
        assert not run.done()
        other.execute("commit")
        other.close()
        await run


async def test_a_database_that_is_lost_is_one_typed_error(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        await whole_run(studio)
        home = studio.settings.home
    for path in home.glob("checkpoints.sqlite*"):
        path.unlink()
    (home / "checkpoints.sqlite").write_bytes(b"no database at all, but long enough to be looked at" * 10)
    with pytest.raises(StorageError) as caught:
        async with Sparklio():
            pass
    assert caught.value.hint


# event loops


@pytest.mark.each_place
def test_several_loops_one_after_another(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    async def first() -> None:
        async with Sparklio() as studio:
            await failure(studio, RejectedError)

    async def second() -> None:
        async with Sparklio() as studio:
            await going_on(studio, ollama, {"brand", "brief"})

    ollama.fail(Fault.STATUS_400, task="ContentPlan")
    asyncio.run(first())
    asyncio.run(second())
    third = sparklio.run(brand=BRAND, product=PRODUCT, run_id="other")
    fourth = sparklio.run(brand=BRAND, product=PRODUCT, run_id="more")
    assert third.id != fourth.id
    assert len(comfyui.executed) == 3
    wait_until(lambda: comfyui.open_connections == ollama.open_connections == 0)


# families


@pytest.mark.each_place
async def test_a_family_with_a_failed_member(ollama: OllamaStandIn, comfyui: ComfyUIStandIn, tmp_path: Path) -> None:
    config = routed(tmp_path, media_routing=one_image_route)
    async with Sparklio(config=config) as studio:
        await whole_run(studio)
        comfyui.inject(comfy.Fault.EXECUTION_ERROR)
        with pytest.raises(JobError) as caught:
            await studio.rerun("page", start_at="vision")
        assert caught.value.run_id == "page.2"
        ollama.forget()

        beside = await studio.rerun("page", start_at="copywriter")
        assert beside.id == "page.3"
        assert dict(ollama.by_task) == {"ProductDetail": 1, "StyleReview": 1}

        jobs = len(comfyui.prompts)
        resumed = await studio.resume("page.2")
        assert (len(comfyui.prompts) - jobs, ollama.by_task["BrandSummary"]) == (1, 0)
        assert dict(ollama.by_task) == {"ProductDetail": 1, "StyleReview": 1}, "the words of the image are recorded"
        assert resumed.result["image"]["seed"] != beside.result["image"]["seed"]

        grandchild = await studio.rerun("page.2", start_at="reviewer")
        assert grandchild.result["image"] | {"url": ""} == resumed.result["image"] | {"url": ""}
        assert {point.run_id for point in await studio.history("page.3")} == {"page", "page.2", "page.3", "page.4"}


@pytest.mark.each_place
async def test_a_failed_run_has_reruns_of_what_it_has(ollama: OllamaStandIn) -> None:
    ollama.fail_always(Fault.STATUS_400, task="ProductDetail")
    async with Sparklio() as studio:
        await failure(studio, RejectedError)
        ollama.fail_always(None)
        ollama.forget()
        again = await studio.rerun("page", start_at="strategist", changes={"brief.target": "캠핑족"})
        assert ollama.by_task["BrandSummary"] == ollama.by_task["MarketingBrief"] == 0
        assert again.result["brief"]["target"] == "캠핑족"
        await going_on(studio, ollama, {"brand", "brief", "strategist"} | _image_of(studio, await _done(studio)))


async def _done(studio: Sparklio) -> list[str]:
    return await finished_agents(studio.runs.store.load("page"), studio.runs.graph)


def _image_of(studio: Sparklio, done: list[str]) -> set[str]:
    """Vision may have come to its end beside the failure, or may not."""
    return {"vision"} & set(done)


@pytest.mark.parametrize("n", range(0, 40, 2))
async def test_closing_in_the_middle_of_a_write_leaves_no_lock(tmp_path: Path, n: int) -> None:
    path = tmp_path / "checkpoints.sqlite"
    async with open_database(path) as database:
        config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "1"}}
        writing = asyncio.ensure_future(database.saver.aput_writes(config, [("brand", "x")], "task"))
        await asyncio.sleep(n * 0.00005)
    await asyncio.wait({writing})
    if not writing.cancelled():
        writing.exception()  # a write that came too late is refused
    other = sqlite3.connect(path, timeout=0.1, isolation_level=None)
    try:
        other.execute("begin immediate")
    finally:
        other.close()
