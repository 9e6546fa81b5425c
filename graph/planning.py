"""What a rerun would run, why, what it starts from, and what that cost the last time."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graph.inputs import RunInput
from graph.ledger import Effect, Ledger
from graph.rerun import NODES, READS, WRITES, RerunPlan, edited_keys, plan_rerun, readers_of, seeded_state
from graph.staleness import stale_nodes
from graph.state import NodeCall
from graph.store import InputFile, RunRecord
from nodes.context import Context
from routing.contracts import ImageRequest
from routing.fingerprints import digest
from routing.prices import total_cost

__all__ = ["Planned", "Planner", "Preview", "PreviewedNode", "as_read"]


@dataclass(frozen=True)
class Planned:
    """A rerun before it is booked: its agents, why each runs, and the state that it starts from."""

    plan: RerunPlan
    reasons: Mapping[str, str]
    inputs: dict[str, Any]
    input_file: InputFile | None


@dataclass(frozen=True)
class PreviewedNode:
    """An agent that a rerun would run, why, and what that cost the last time.

    ``calls`` counts chat calls, ``seconds`` is the agent's own time, ``cost_usd`` None where a price is unknown.
    """

    node: str
    why: str
    calls: int
    images: int
    seconds: float
    cost_usd: float | None


@dataclass(frozen=True)
class Preview:
    """What a rerun of ``run_id`` would do; no nodes: nothing has changed."""

    run_id: str
    nodes: tuple[PreviewedNode, ...]

    def to_dict(self) -> dict[str, Any]:
        nodes = [vars(node) for node in self.nodes]
        return {
            "run_id": self.run_id,
            "nodes": nodes,
            "calls": sum(node.calls for node in self.nodes),
            "images": sum(node.images for node in self.nodes),
            "seconds": round(sum(node.seconds for node in self.nodes), 3),
            "cost_usd": total_cost(node.cost_usd for node in self.nodes),
        }


class Planner:
    """Plans reruns by the ledger and by the gateways as they are configured now.

    Args:
        ledger: what the runs' calls came to.
        context: both gateways.
        read_input: reads an input file, and stores its photo or only tells the id that it would have.
    """

    def __init__(self, ledger: Ledger, context: Context, read_input: Callable[[Path, bool], RunInput]) -> None:
        self._ledger = ledger
        self._context = context
        self._read_input = read_input

    async def plan(
        self,
        parent: RunRecord,
        state: Mapping[str, Any],
        start_at: str | None,
        changes: Mapping[str, Any],
        *,
        keep_photo: bool,
    ) -> Planned:
        """With neither ``start_at`` nor ``changes``: what is stale, and what reads what the input file changed.

        Raises:
            UnknownNameError, UsageError, InputError: as :func:`plan_rerun`, :func:`seeded_state`, :func:`load_input`.
        """
        input_file, fresh, reasons = parent.input_file, dict[str, Any](), dict[str, str]()
        if start_at is None and not changes:
            input_file, fresh = await asyncio.to_thread(self._reread, parent, keep_photo)
            reasons = await self._stale(parent, state)
        set_keys = edited_keys(changes)
        reasons |= {name: f"it reads {key}, which is set" for name, key in readers_of(set_keys).items()}
        reasons |= {name: f"it reads {key}, which the input file changed" for name, key in readers_of(fresh).items()}
        reasons |= {start_at: "it was asked for"} if start_at else {}
        plan = plan_rerun(start_at, changes, reasons)
        return Planned(plan, reasons, seeded_state(plan, {**state, **fresh}, changes), input_file)

    async def preview(
        self, parent: RunRecord, state: Mapping[str, Any], start_at: str | None, changes: Mapping[str, Any]
    ) -> Preview:
        """Raises as :meth:`plan`."""
        planned = await self.plan(parent, state, start_at, changes, keep_photo=False)
        effects = await self._ledger.load(parent.run_id)
        return _explained(parent.run_id, planned, state.get("calls", []), effects)

    async def _stale(self, parent: RunRecord, state: Mapping[str, Any]) -> dict[str, str]:
        llm, media = self._context.llm, self._context.media
        if llm is None or media is None:
            raise RuntimeError("reruns need both gateways")
        return await stale_nodes(state.get("calls", []), await self._ledger.load(parent.run_id), llm, media)

    def _reread(self, parent: RunRecord, keep_photo: bool) -> tuple[InputFile | None, dict[str, Any]]:
        """The input file as it is now, and the keys of the state that changed since it was read; a gone one: none."""
        before = parent.input_file
        if before is None or not before.path.exists():
            return before, {}
        inputs = self._read_input(before.path, keep_photo)
        now = as_read(before.path, inputs)
        changed = {
            key: value for key, value in inputs.to_state().items() if now.digests[key] != before.digests.get(key)
        }
        return now, changed


def as_read(path: Path, inputs: RunInput) -> InputFile:
    """The file with the digests of what was read from it."""
    return InputFile(path=path.absolute(), digests={key: digest(value) for key, value in inputs.to_state().items()})


def _explained(run_id: str, planned: Planned, calls: Iterable[NodeCall], effects: Iterable[Effect]) -> Preview:
    """The plan with reasons and costs; who has no reason of its own reads what one before it writes."""
    by_node = defaultdict(list)
    for call in calls:
        by_node[call["node"]].append(call)
    images = {effect.key for effect in effects if isinstance(effect.request, ImageRequest)}
    names = planned.plan.nodes
    nodes = [
        _previewed(name, planned.reasons.get(name) or _upstream(name, names), by_node[name], images) for name in names
    ]
    return Preview(run_id, tuple(nodes))


def _upstream(name: str, nodes: Iterable[str]) -> str:
    """Agents before it in the flow come first; the reviewer's word reaches the copywriter by its loop."""
    before = [other for other in NODES if other in nodes and other != name and WRITES[other] & READS[name]]
    return f"it reads what {before[0]} writes" if before else "it was asked for"


def _previewed(name: str, why: str, calls: Iterable[NodeCall], images: set[str]) -> PreviewedNode:
    calls = list(calls)
    keys = [key for call in calls for key in call.get("effects", [])]
    drawn = sum(key in images for key in keys)
    return PreviewedNode(
        node=name,
        why=why,
        calls=len(keys) - drawn if keys else len(calls),
        images=drawn if keys else len(calls) * ("image" in WRITES[name]),
        seconds=sum(call["ms"] for call in calls) / 1000,
        cost_usd=total_cost(call["cost_usd"] for call in calls),
    )
