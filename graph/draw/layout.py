"""Rows and places: where each node of a flow stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from graph.draw.flow import Arrow, Flow

__all__ = ["Layout", "arrange"]


@dataclass(frozen=True)
class Layout:
    """``rows`` of nodes and waypoints from top to bottom; ``paths`` leads each forward arrow through its waypoints."""

    flow: Flow
    rows: list[list[str]]
    paths: list[tuple[Arrow, list[str]]]
    row_of: dict[str, int] = field(default_factory=dict)

    @property
    def lanes(self) -> int:
        return max(map(len, self.rows))

    def offset(self, item: str) -> float:
        """How many lanes to the right of the middle the item stands."""
        row = self.rows[self.row_of[item]]
        return row.index(item) - (len(row) - 1) / 2

    def opens(self, row: int) -> bool:
        return any(min(self.row_of[node] for node in nodes) == row for nodes in self.flow.groups.values())

    def closes(self, row: int) -> bool:
        return any(max(self.row_of[node] for node in nodes) == row for nodes in self.flow.groups.values())


def arrange(flow: Flow) -> Layout:
    """A node stands one row below the lowest node that leads to it; an arrow over several rows holds a lane free."""
    ranks = dict.fromkeys(flow.nodes, 0)
    for _ in flow.nodes:
        for arrow in flow.forward:
            ranks[arrow.target] = max(ranks[arrow.target], ranks[arrow.source] + 1)
    rows: list[list[str]] = [[] for _ in range(max(ranks.values()) + 1)]
    for node in flow.nodes:
        rows[ranks[node]].append(node)
    paths = []
    for arrow in flow.forward:
        between = range(ranks[arrow.source] + 1, ranks[arrow.target])
        waypoints = [f"{arrow.source}>{arrow.target}>{rank}" for rank in between]
        for rank, waypoint in zip(between, waypoints, strict=True):
            rows[rank].append(waypoint)
        paths.append((arrow, [arrow.source, *waypoints, arrow.target]))
    for rank in range(1, len(rows)):
        rows[rank] = _sorted_below(rows[rank - 1], rows[rank], paths)
    return Layout(flow, rows, paths, {item: rank for rank, row in enumerate(rows) for item in row})


def _sorted_below(above: list[str], row: list[str], paths: list[tuple[Arrow, list[str]]]) -> list[str]:
    """Order a row by where its items come from, so that few arrows cross."""

    def place(item: str) -> float:
        origins = [above.index(a) for _, path in paths for a, b in pairwise(path) if b == item]
        return sum(origins) / len(origins) if origins else 0

    return sorted(row, key=place)
