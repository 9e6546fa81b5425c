"""What a run's checkpoints tell: the state at each, and the agents that run next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import START
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import StateSnapshot

from graph.rerun import NODES, RerunPlan
from graph.state import NodeCall, PageState
from graph.store import RunRecord

__all__ = ["Point", "calls_of", "points_of", "thread_config", "values_of"]

_SHOWN_KEYS = frozenset(PageState.__annotations__) - {"calls"}


@dataclass(frozen=True)
class Point:
    """One checkpoint of a run: the state at it, and the agents that run next (none: the end)."""

    run_id: str
    checkpoint_id: str
    next: tuple[str, ...]
    values: dict[str, Any]
    created_at: str | None


def thread_config(run_id: str, *, namespace: str | None = None) -> RunnableConfig:
    """A run's thread has the run's own id; ``namespace`` names a subgraph's checkpoints in it."""
    thread = {"thread_id": run_id}
    return {"configurable": thread if namespace is None else {**thread, "checkpoint_ns": namespace}}


async def points_of(
    record: RunRecord, graph: CompiledStateGraph[Any, Any, Any, Any], checkpointer: BaseCheckpointSaver[str]
) -> list[Point]:
    """Checkpoints of one run and of its copy desk, in the order in which they were made (UUIDv6 sorts by time)."""
    stored = checkpointer.alist(thread_config(record.run_id))
    namespaces = {item.config["configurable"]["checkpoint_ns"] async for item in stored}
    points = [
        (namespace, _point(record, snapshot))
        for namespace in namespaces
        async for snapshot in graph.aget_state_history(thread_config(record.run_id, namespace=namespace))
        if snapshot.next != (START,)
    ]
    shown = [point for namespace, point in points if point.next or not namespace]  # the desk's end is no end
    return sorted(shown, key=lambda point: point.checkpoint_id)


def _point(record: RunRecord, snapshot: StateSnapshot) -> Point:
    """The desk is structure: users see the agent that it begins with. A rerun begins with a jump, not with an edge."""
    plan = RerunPlan(tuple(record.nodes))
    following = snapshot.next
    if snapshot.metadata and snapshot.metadata.get("source") == "update":
        following = tuple(plan.goto)
    entry = plan.desk_entry or "copywriter"
    agents = tuple(entry if name == "copy_desk" else name for name in following)
    return Point(
        run_id=record.run_id,
        checkpoint_id=str(snapshot.config["configurable"]["checkpoint_id"]),
        next=tuple(name for name in agents if name in NODES),
        values={key: value for key, value in snapshot.values.items() if key in _SHOWN_KEYS},
        created_at=snapshot.created_at,
    )


async def values_of(run_id: str, graph: CompiledStateGraph[Any, Any, Any, Any]) -> dict[str, Any]:
    """The run's present state."""
    return dict((await graph.aget_state(thread_config(run_id))).values)


async def calls_of(run_id: str, graph: CompiledStateGraph[Any, Any, Any, Any]) -> list[NodeCall]:
    """Calls of the run's finished agents, those whose step is not finished yet included."""
    return list(_calls(await graph.aget_state(thread_config(run_id), subgraphs=True)))


def _calls(snapshot: StateSnapshot) -> Iterator[NodeCall]:
    yield from snapshot.values.get("calls", [])
    for task in snapshot.tasks:
        if isinstance(task.state, StateSnapshot):
            yield from _calls(task.state)
        if isinstance(task.result, dict):
            yield from task.result.get("calls", [])
