"""What people should see of a compiled graph: its nodes and arrows, structure folded away."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

__all__ = ["LOOP", "PILLS", "Arrow", "Flow", "Graph", "group_of", "read_flow", "short_name", "unique"]

Graph = StateGraph[Any, Any, Any, Any] | CompiledStateGraph[Any, Any, Any, Any]
PILLS = {START: "START", END: "END"}
LOOP = "revise"


@dataclass(frozen=True)
class Arrow:
    """One way from node to node. ``choice``: taken only sometimes; ``back``: it closes a loop."""

    source: str
    target: str
    choice: bool = False
    back: bool = False
    label: str = ""


@dataclass(frozen=True)
class Flow:
    """Nodes and arrows as people see them; nodes of a subgraph keep its name in front, ``copy_desk:copywriter``."""

    arrows: tuple[Arrow, ...]

    @property
    def forward(self) -> list[Arrow]:
        return [arrow for arrow in self.arrows if not arrow.back]

    @property
    def nodes(self) -> list[str]:
        ends = [end for arrow in self.arrows for end in (arrow.source, arrow.target)]
        return [START, *unique(end for end in ends if end not in PILLS), END]

    @property
    def groups(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for node in self.nodes:
            if group_of(node):
                found.setdefault(group_of(node), []).append(node)
        return found

    def leaving(self, node: str) -> list[Arrow]:
        return [arrow for arrow in self.forward if arrow.source == node]


def read_flow(graph: Graph, agents: Iterable[str] = ()) -> Flow:
    """The flow that people should see.

    Left out are the START and END of subgraphs and the nodes in them that only decide where to go on; the ways through
    them are joined. ``agents`` names nodes that are drawn whatever they look like.
    """
    compiled = graph.compile() if isinstance(graph, StateGraph) else graph
    edges = compiled.get_graph(xray=True).edges
    arrows = [Arrow(e.source, e.target, choice=e.conditional, label=str(e.data or "")) for e in edges]
    shown = set(agents)
    for node in unique(arrow.target for arrow in arrows):
        if short_name(node) not in shown and _only_decides(node, arrows):
            arrows = _without(node, arrows)
    for node in unique(end for arrow in arrows for end in (arrow.source, arrow.target)):
        if group_of(node) and short_name(node) in PILLS:
            arrows = _without(node, arrows)
    return Flow(tuple(_settle_choices(_without_shortcuts(_mark_loops(arrows)))))


def short_name(node: str) -> str:
    name = node.rpartition(":")[2]
    return PILLS.get(node, name)


def group_of(node: str) -> str:
    return node.rpartition(":")[0].partition(":")[0]


def unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _only_decides(node: str, arrows: list[Arrow]) -> bool:
    """A node of a subgraph with one certain way in and only choices out, none of which repeats where it came from."""
    before = [arrow for arrow in arrows if arrow.target == node]
    after = [arrow for arrow in arrows if arrow.source == node]
    if not group_of(node) or len(before) != 1 or before[0].choice or not after:
        return False
    return all(arrow.choice for arrow in after) and before[0].source not in {arrow.target for arrow in after}


def _without(node: str, arrows: list[Arrow]) -> list[Arrow]:
    """Join every way into ``node`` with every way out of it."""
    joined: list[Arrow] = []
    after = [arrow for arrow in arrows if arrow.source == node]
    for arrow in arrows:
        if arrow.target == node:
            joined += [
                Arrow(arrow.source, way.target, arrow.choice or way.choice, label=way.label or arrow.label)
                for way in after
            ]
        elif arrow.source != node:
            joined.append(arrow)
    return list(dict.fromkeys(joined))


def _mark_loops(arrows: list[Arrow]) -> list[Arrow]:
    """Certain ways fix the order first; a choice that leads back to where they started is the loop."""
    forward: list[Arrow] = []
    for arrow in sorted(arrows, key=lambda arrow: arrow.choice):
        if arrow.source not in _reachable(arrow.target, forward):
            forward.append(arrow)
    return [
        arrow if arrow in forward else Arrow(arrow.source, arrow.target, True, True, arrow.label or LOOP)
        for arrow in arrows
    ]


def _reachable(node: str, arrows: list[Arrow]) -> set[str]:
    seen, todo = {node}, [node]
    while todo:
        here = todo.pop()
        found = {arrow.target for arrow in arrows if arrow.source == here} - seen
        seen |= found
        todo += found
    return seen


def _without_shortcuts(arrows: list[Arrow]) -> list[Arrow]:
    """Drop the ways into the middle of a group: reruns start there, and they would read as a bypass."""
    forward = [arrow for arrow in arrows if not arrow.back]

    def is_shortcut(arrow: Arrow) -> bool:
        if not arrow.choice or arrow.back or group_of(arrow.target) in {"", group_of(arrow.source)}:
            return False
        others = [
            other.target
            for other in forward
            if other.source == arrow.source
            and other.target != arrow.target
            and group_of(other.target) == group_of(arrow.target)
        ]
        return any(arrow.target in _reachable(other, forward) for other in others)

    return [arrow for arrow in arrows if not is_shortcut(arrow)]


def _settle_choices(arrows: list[Arrow]) -> list[Arrow]:
    """A choice that has no alternative left but a loop is none, whatever made LangGraph call it conditional."""
    chosen = [arrow.source for arrow in arrows if arrow.choice and not arrow.back]
    return [
        Arrow(arrow.source, arrow.target) if not arrow.back and chosen.count(arrow.source) == 1 else arrow
        for arrow in arrows
    ]
