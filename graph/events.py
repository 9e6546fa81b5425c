"""What a run tells while it runs, numbered and dated."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict

from graph.rerun import NODES

__all__ = ["Event", "EventType", "Events", "finished_node"]

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


class Event(TypedDict):
    """One thing that happened. ``elapsed_ms`` counts from this session's run_started; ``at`` is UTC, ISO 8601."""

    seq: int
    run_id: str
    type: EventType
    node: str | None
    at: str
    elapsed_ms: int
    data: dict[str, Any]


class Events:
    """Numbers and dates the events of one session of a run."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._seq = 0
        self._started = time.perf_counter()

    def elapsed_ms(self) -> int:
        return round((time.perf_counter() - self._started) * 1000)

    def make(self, event_type: EventType, data: dict[str, Any], node: str | None = None) -> Event:
        self._seq += 1
        if event_type in _LOGGED:
            log.info("%s %s %s", node, event_type, data, extra={"run_id": self._run_id})
        return Event(
            seq=self._seq,
            run_id=self._run_id,
            type=event_type,
            node=node,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            elapsed_ms=self.elapsed_ms(),
            data=data,
        )


def finished_node(task: dict[str, Any]) -> dict[str, Any] | None:
    """The event of an agent whose result LangGraph has taken; None for all else that it tells of tasks."""
    calls = (task.get("result") or {}).get("calls")
    if task["name"] not in NODES or not calls:
        return None
    return {"type": "node_finished", "node": task["name"], "data": calls[-1]}
