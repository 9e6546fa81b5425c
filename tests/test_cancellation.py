"""Stopping a run, wherever it stands: at once, with nothing left behind, and to be resumed."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from providers.errors import RunBusyError
from providers.media.comfyui import ComfyUIProvider
from providers.media.comfyui.watch import Patience
from routing import attempts
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES, SCHEMAS, at_work, finished_agents, going_on, is_free, nothing_left, whole_run
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import Fault, OllamaStandIn
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("live")

AT_ONCE_S = 2.0
"""Bound of the project on ending a cancelled run."""

WORKFLOW = Path(__file__).parent.parent / "workflows" / "product_shot_v1.json"
RUNS_OF_THE_STORM = 30

Reached = Callable[[], object]
Stage = Callable[[OllamaStandIn, ComfyUIStandIn], Reached]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, comfyui: ComfyUIStandIn) -> None:
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)
    monkeypatch.setattr(ComfyUIProvider, "patience", Patience(poll_s=0.03, idle_queue_s=5))
    comfyui.previews = False


def call_of(agent: str, fault: Fault) -> Stage:
    """The run stands still in this agent's chat call."""

    def prepare(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> Reached:
        ollama.fail_always(fault, task=SCHEMAS[agent])
        return lambda: ollama.by_task[SCHEMAS[agent]]

    return prepare


def pause_before_a_retry(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> Reached:
    ollama.retry_after = "25"
    ollama.fail_always(Fault.STATUS_503, task=SCHEMAS["brief"])
    return lambda: ollama.by_task[SCHEMAS["brief"]] and not ollama.active


def image(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> Reached:
    comfyui.hold()
    return lambda: comfyui.running and ollama.by_task[SCHEMAS["reviewer"]] and not ollama.active


def queue(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> Reached:
    comfyui.hold()
    comfyui.submit(json.loads(WORKFLOW.read_text(encoding="utf-8")))
    return lambda: comfyui.pending and ollama.by_task[SCHEMAS["reviewer"]] and not ollama.active


def image_and_review(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> Reached:
    comfyui.hold()
    ollama.fail_always(Fault.STALL, task=SCHEMAS["reviewer"])
    return lambda: comfyui.running and ollama.by_task[SCHEMAS["reviewer"]]


STAGES: dict[str, Stage] = {
    **{f"{agent}, waiting": call_of(agent, Fault.HANG) for agent in SCHEMAS},
    **{f"{agent}, answering": call_of(agent, Fault.STALL) for agent in SCHEMAS},
    "pause before a retry": pause_before_a_retry,
    "image": image,
    "queue": queue,
    "image and review": image_and_review,
}


def heal(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    ollama.fail_always(None)
    comfyui.release()


async def cancelled(run: asyncio.Task[object]) -> None:
    """Cancel ``run`` and see it end in time."""
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(run, AT_ONCE_S)


@pytest.mark.parametrize("stage", STAGES)
async def test_cancelling_leaves_nothing_but_a_run_to_resume(
    ollama: OllamaStandIn, comfyui: ComfyUIStandIn, stage: str
) -> None:
    async with nothing_left(ollama, comfyui):
        async with Sparklio() as studio:
            quiet = at_work()
            reached = STAGES[stage](ollama, comfyui)
            run = asyncio.create_task(whole_run(studio))
            await until(reached)
            await cancelled(run)
            await until(lambda: at_work() == quiet and not ollama.active, timeout_s=AT_ONCE_S)
            assert not comfyui._sockets
            assert studio.runs.store.read("page").status == "interrupted"
            assert is_free(studio, "page")
            assert (comfyui.interrupts, comfyui.deleted) == ([], []), "the image goes on"
            heal(ollama, comfyui)
            done = set(await finished_agents(studio.runs.store.load("page"), studio.runs.graph))
            await going_on(studio, ollama, done)
        assert len(comfyui.prompts) == 1


@pytest.mark.parametrize("stage", ["strategist, answering", "image"])
@pytest.mark.each_place
async def test_a_resumed_run_is_cancelled_as_well(ollama: OllamaStandIn, comfyui: ComfyUIStandIn, stage: str) -> None:
    async with nothing_left(ollama, comfyui):
        async with Sparklio() as studio:
            reached = STAGES[stage](ollama, comfyui)
            run = asyncio.create_task(whole_run(studio))
            await until(reached)
            await cancelled(run)
            sockets = len([path for _, path in comfyui.requests if path == "/ws"])
            before = ollama.by_task[SCHEMAS["strategist"]]
            run = asyncio.create_task(studio.resume("page"))
            await until(
                lambda: (
                    len([path for _, path in comfyui.requests if path == "/ws"]) > sockets
                    or ollama.by_task[SCHEMAS["strategist"]] > before
                ),
            )
            await cancelled(run)
            assert studio.runs.store.read("page").status == "interrupted"
            heal(ollama, comfyui)
            await studio.resume("page")
        assert len(comfyui.prompts) == 1


@pytest.mark.parametrize(
    ("kind", "node"),
    [("run_started", None), ("node_started", "brief"), ("token", "copywriter"), ("image_progress", "vision")],
)
@pytest.mark.each_place
async def test_leaving_the_stream_stops_the_run(
    ollama: OllamaStandIn, comfyui: ComfyUIStandIn, kind: str, node: str | None
) -> None:
    async with nothing_left(ollama, comfyui):
        async with Sparklio() as studio:
            quiet = at_work()
            events = studio.stream(brand=BRAND, product=PRODUCT, run_id="page")
            async for event in events:
                if (event["type"], event["node"]) == (kind, node):
                    break
            await asyncio.wait_for(events.aclose(), AT_ONCE_S)
            await until(lambda: at_work() == quiet, timeout_s=AT_ONCE_S)
            assert studio.runs.store.load("page").status == "interrupted"
            assert is_free(studio, "page")
            done = set(await finished_agents(studio.runs.store.load("page"), studio.runs.graph))
            await going_on(studio, ollama, done)
        assert len(comfyui.prompts) == 1


@pytest.mark.each_place
async def test_leaving_the_studio_with_a_run_under_way(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    reached = image_and_review(ollama, comfyui)

    async def all_of_it() -> None:
        async with Sparklio() as studio:
            await whole_run(studio)

    async with nothing_left(ollama, comfyui):
        task = asyncio.create_task(all_of_it())
        await until(reached)
        await cancelled(task)
        heal(ollama, comfyui)
        async with Sparklio() as studio:
            assert studio.runs.store.read("page").status == "interrupted"
            await studio.resume("page")


async def test_a_cancelled_run_leaves_those_beside_it_alone(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    ollama.token_delay_s = 0.02
    async with nothing_left(ollama, comfyui), Sparklio() as studio:
        runs = [asyncio.create_task(whole_run(studio, run_id=f"page-{n}")) for n in range(4)]
        await until(lambda: ollama.by_task[SCHEMAS["brief"]] == 4)
        await cancelled(runs[1])
        others = await asyncio.gather(*runs[:1], *runs[2:])
        assert [run.id for run in others] == ["page-0", "page-2", "page-3"]
        assert {record.run_id: record.status for record in studio.runs.store.all()} == {
            "page-0": "finished",
            "page-1": "interrupted",
            "page-2": "finished",
            "page-3": "finished",
        }


@pytest.mark.no_cover
async def test_a_storm_of_cancellations_leaves_nothing_behind(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    dice = random.Random(20)
    moments = [dice.uniform(0.0, 0.8) for _ in range(RUNS_OF_THE_STORM)]
    few = asyncio.Semaphore(6)
    ollama.token_delay_s = 0.002
    comfyui.seconds_per_image = 0.05
    async with nothing_left(ollama, comfyui), Sparklio() as studio:
        await whole_run(studio, run_id="calm")
        quiet = at_work()

        async def one(number: int) -> None:
            async with few:
                run = asyncio.create_task(studio.run(brand=BRAND, product=PRODUCT, run_id=f"run-{number}"))
                await asyncio.wait({run}, timeout=moments[number])
                asked = time.monotonic()
                run.cancel()
                await asyncio.wait({run}, timeout=AT_ONCE_S)
                assert run.done(), f"still running {time.monotonic() - asked:.1f} s after it was cancelled"
                assert run.cancelled() or run.exception() is None

        await asyncio.gather(*(one(number) for number in range(RUNS_OF_THE_STORM)))
        await until(lambda: at_work() == quiet, timeout_s=AT_ONCE_S)
        store = studio.runs.store
        records = {record.run_id: record.status for record in store.all()}
        assert set(records.values()) <= {"finished", "interrupted"}
        stopped = sorted(run_id for run_id, status in records.items() if status == "interrupted")
        assert len(stopped) > RUNS_OF_THE_STORM // 3
        assert all(is_free(studio, run_id) for run_id in records)
        for run_id in dice.sample(stopped, 4):
            done = set(await finished_agents(store.load(run_id), studio.runs.graph))
            await going_on(studio, ollama, done, run_id=run_id)
    jobs = [body["prompt_id"] for body in comfyui.prompts]
    assert len(jobs) == len(set(jobs)), "no image is asked for twice"


@pytest.mark.each_place
async def test_a_run_that_is_being_stopped_is_busy_and_then_free(
    ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    reached = image(ollama, comfyui)
    async with Sparklio() as one, Sparklio() as two:
        run = asyncio.create_task(whole_run(one))
        await until(reached)
        with pytest.raises(RunBusyError) as caught:
            await two.resume("page")
        assert caught.value.hint
        await cancelled(run)
        heal(ollama, comfyui)
        await going_on(two, ollama, NODES - {"vision"})
    assert len(comfyui.prompts) == 1


@pytest.mark.parametrize("turns", range(10))
async def test_cancelling_twice_is_no_worse(turns: int, ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    """An impatient Ctrl-C, or a cancellation and a timeout."""
    async with nothing_left(ollama, comfyui), Sparklio() as studio:
        reached = image_and_review(ollama, comfyui)
        run = asyncio.create_task(whole_run(studio))
        await until(reached)
        for _ in range(3):
            run.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(run, 2.0)
        assert studio.runs.store.load("page").status == "interrupted"


async def test_leaving_at_the_very_start(comfyui: ComfyUIStandIn) -> None:
    async with Sparklio() as studio:
        events = studio.stream(brand=BRAND, product=PRODUCT, run_id="page")
        assert (await anext(events))["type"] == "run_started"
        await events.aclose()
        assert studio.runs.store.read("page").status == "interrupted"
