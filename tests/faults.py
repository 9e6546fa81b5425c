"""What the tests of whole runs under faults have in common: a run that fails as it should, and one that goes on."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from langgraph.graph.state import CompiledStateGraph

from graph.history import calls_of
from graph.store import RunRecord
from providers.errors import SparklioError
from routing.contracts import LLMAnswer
from routing.packaged_files import DEFAULT_CONFIG
from sparklio import Event, Run, Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.waiting import NEVER_S, until

__all__ = [
    "NODES",
    "SCHEMAS",
    "Failure",
    "at_work",
    "failure",
    "finished_agents",
    "going_on",
    "is_free",
    "nothing_left",
    "one_image_route",
    "routed",
    "whole_run",
]

_LEFT_S = 20.0
"""Long for a busy machine, and shorter than the pauses and timeouts by which what was left would end of itself."""

SCHEMAS = {
    "brand": "BrandSummary",
    "brief": "MarketingBrief",
    "strategist": "ContentPlan",
    "copywriter": "ProductDetail",
    "reviewer": "StyleReview",
    "vision": "ImagePrompt",
}
"""Agent -> title of the schema that its chat call asks for."""

NODES = set(SCHEMAS)


async def finished_agents(record: RunRecord, graph: CompiledStateGraph[Any, Any, Any, Any]) -> list[str]:
    """The agents of this run that need not run again."""
    done = {call["node"] for call in await calls_of(record.run_id, graph)}
    return [name for name in record.nodes if name in done]


@dataclass(frozen=True)
class Failure:
    """A run that failed: its error, the agents whose work is kept, and all that anybody was shown of it."""

    error: SparklioError
    finished: set[str]
    shown: str


async def whole_run(studio: Sparklio, *, run_id: str = "page", **wishes: Any) -> Run:
    """Run to the end; every artefact of all six agents is there."""
    async with asyncio.timeout(NEVER_S):
        run = await studio.run(**_inputs(wishes), run_id=run_id)
    _check(run)
    return run


async def failure(studio: Sparklio, kind: type[SparklioError], *, run_id: str = "page", **wishes: Any) -> Failure:
    """Run into one typed error of exactly ``kind``, with a hint, that ends the events and frees the run."""
    events: list[Event] = []
    tasks = at_work()
    with pytest.raises(SparklioError) as caught:
        async with asyncio.timeout(NEVER_S):
            async for event in studio.stream(**_inputs(wishes), run_id=run_id):
                events.append(event)
    error = caught.value
    assert type(error) is kind, error
    assert error.message
    assert error.hint
    assert error.run_id == run_id
    types = [event["type"] for event in events]
    assert (types[-1], types.count("run_failed"), types.count("node_failed")) == ("run_failed", 1, 1)
    assert events[-1]["data"]["code"] == kind.code
    store = studio.runs.store
    assert store.read(run_id).status == "failed"
    assert is_free(studio, run_id)
    log = (store.folder(run_id) / "run.log").read_text(encoding="utf-8")
    shown = json.dumps([error.to_dict(), events], ensure_ascii=False) + log
    await until(lambda: at_work() <= tasks)  # the last writes of checkpoints
    return Failure(error, set(await finished_agents(store.load(run_id), studio.runs.graph)), shown)


async def going_on(studio: Sparklio, ollama: OllamaStandIn, finished: set[str], *, run_id: str = "page") -> Run:
    """Resume to the end: nobody is asked again who had finished or whose answer was recorded, and nobody twice."""
    answered = {effect.node for effect in await studio.runs.ledger.load(run_id) if isinstance(effect.answer, LLMAnswer)}
    assert finished <= answered
    before = Counter(ollama.by_task)
    async with asyncio.timeout(NEVER_S):
        run = await studio.resume(run_id)
    _check(run)
    assert dict(ollama.by_task - before) == {SCHEMAS[name]: 1 for name in NODES - answered}
    return run


def is_free(studio: Sparklio, run_id: str) -> bool:
    """Whether nobody holds the run's lock."""
    with studio.runs.store.lock(run_id):
        return True


def routed(folder: Path, **changes: Any) -> Path:
    """A routing file with the packaged one's content and ``changes``, which may be functions of it."""
    content = yaml.safe_load(DEFAULT_CONFIG.read_text(encoding="utf-8"))
    for key, value in changes.items():
        content[key] = value(content[key])
    path = folder / "provider_config.yaml"
    path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return path


def one_image_route(routing: dict[str, Any]) -> dict[str, Any]:
    """For :func:`routed`: the rule of product shots alone, so that a failure has nowhere else to go."""
    return {"image": [rule for rule in routing["image"] if rule.get("kind") == ["product_shot"]]}


@asynccontextmanager
async def nothing_left(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> AsyncGenerator[None, None]:
    """After the block there are no more tasks, threads and connections than before it."""
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    yield
    await until(lambda: asyncio.all_tasks() <= tasks, timeout_s=_LEFT_S)
    await until(lambda: comfyui.open_connections == ollama.open_connections == ollama.active == 0, timeout_s=_LEFT_S)
    await asyncio.get_running_loop().shutdown_default_executor()  # its idle threads are the loop's own
    await until(lambda: set(threading.enumerate()) <= threads, timeout_s=_LEFT_S)


def at_work() -> set[asyncio.Task[Any]]:
    """All tasks but those in which a pool of connections waits for its next turn, another one each time."""
    return {task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") != "Event.wait"}


def _inputs(wishes: dict[str, Any]) -> dict[str, Any]:
    return {"brand": BRAND, "product": PRODUCT, **wishes}


def _check(run: Run) -> None:
    assert set(run.result["meta"]["nodes"]) == NODES
    assert all(run.result[key] for key in ("brand_summary", "brief", "sections", "copy", "image", "review"))
    assert Path(run.page_path).is_file()
