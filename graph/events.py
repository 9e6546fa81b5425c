"""What a run tells while it runs, numbered and dated."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from graph.rerun import NODES

if TYPE_CHECKING:
    from graph.store import EventLog

__all__ = ["Event", "EventType", "Events", "Once", "finished_node"]

log = logging.getLogger(__name__)

EventType = Literal[
    "run_started",
    "node_started",
    "token",
    "image_progress",
    "node_finished",
    "node_failed",
    "run_finished",
    "run_failed",
]
_LOGGED = {"node_started", "node_finished", "node_failed"}
_LAST = {"run_finished", "run_failed"}


class Event(TypedDict):
    """One thing that happened.

    ``seq`` rises over all sessions of a run, ``elapsed_ms`` counts from this session's run_started; ``at`` is UTC, ISO
    8601.
    """

    seq: int
    run_id: str
    type: EventType
    node: str | None
    at: str
    elapsed_ms: int
    data: dict[str, Any]


class Events:
    """Numbers and dates the events of one session of a run, and writes each to the log before anybody has it.

    Attributes:
        told_before: whether there are events of earlier sessions.
    """

    def __init__(self, run_id: str, event_log: EventLog) -> None:
        self.run_id = run_id
        self._log = event_log
        self.told_before = event_log.last > 0
        self.start_clock()

    def start_clock(self) -> None:
        """Count the time from now."""
        self._started = time.perf_counter()

    def elapsed_ms(self) -> int:
        return round((time.perf_counter() - self._started) * 1000)

    def make(self, event_type: EventType, data: dict[str, Any], node: str | None = None) -> Event:
        if event_type in _LOGGED:
            log.info("%s %s %s", node, event_type, data, extra={"run_id": self.run_id})
        event = Event(
            seq=self._log.last + 1,
            run_id=self.run_id,
            type=event_type,
            node=node,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            elapsed_ms=self.elapsed_ms(),
            data=data,
        )
        self._log.append(event)
        if event_type in _LAST:
            self._log.sync()
        return event


class Once:
    """Sees to it that each execution of an agent is told as finished once, over all sessions of a run.

    A process that is killed leaves two gaps: LangGraph had not yet stored what was told already, and runs the agent
    again, from the ledger and without a call; or it had stored what was not told yet.

    Args:
        told: the events of earlier sessions.
        calls: the records of the agents whose results LangGraph has stored, see :class:`graph.state.NodeCall`.

    Attributes:
        untold: those of ``calls`` that no event has told.
        done: the agents that were told as finished, or are.
    """

    def __init__(self, told: Iterable[Event], calls: Iterable[Mapping[str, Any]]) -> None:
        stored = {_execution(call): call for call in calls}
        self._told = {_execution(event["data"]) for event in told if event["type"] == "node_finished"}
        self.untold = [dict(call) for execution, call in stored.items() if execution not in self._told]
        self.done = {node for node, _ in self._told | stored.keys()}
        self._again = Counter(node for node, _ in self._told - stored.keys())
        self._held: dict[str, dict[str, Any]] = {}

    def of(self, step: dict[str, Any]) -> list[dict[str, Any]]:
        """What is to be told of an agent's event; nothing while the agent may be doing over what was told."""
        node = step["node"]
        if step["type"] == "node_started" and self._again[node]:
            self._again[node] -= 1
            self._held[node] = step
            return []
        held = self._held.pop(node, None)
        if held is None:
            return [step]
        if step["type"] == "node_finished" and _execution(step["data"]) in self._told:
            return []
        return [held, step]  # it was asked otherwise this time


def _execution(call: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """An agent, and the calls that it made in this execution; runs of before the ledger tell only where it began."""
    return call["node"], tuple(call.get("effects") or (str(call.get("checkpoint_id")),))


def finished_node(task: dict[str, Any]) -> dict[str, Any] | None:
    """The event of an agent whose result LangGraph has taken; None for all else that it tells of tasks."""
    calls = (task.get("result") or {}).get("calls")
    if task["name"] not in NODES or not calls:
        return None
    return {"type": "node_finished", "node": task["name"], "data": calls[-1]}
