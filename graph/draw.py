"""Pictures of the flow, made here and offline from the compiled graph's own structure.

Three steps: :func:`read_flow` turns LangGraph's nodes and edges into what people should see, :func:`_arrange` gives
every node a row and a place in it, and one renderer per format draws that. Nothing here knows the names of the agents,
so a changed topology changes the picture.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from itertools import chain, pairwise
from typing import Any, Literal, get_args

from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

__all__ = ["Arrow", "Flow", "Format", "draw", "read_flow"]

Format = Literal["mermaid", "ascii", "svg"]
Graph = StateGraph[Any, Any, Any, Any] | CompiledStateGraph[Any, Any, Any, Any]

_PILLS = {START: "START", END: "END"}
_LOOP = "revise"


def draw(
    graph: Graph,
    format: Format = "mermaid",
    *,
    captions: Mapping[str, str] | None = None,
    writes: Mapping[str, str] | None = None,
) -> str:
    """Draw ``graph`` as Mermaid text, plain text of at most 78 columns, or a standalone SVG.

    Args:
        graph: a graph builder or a compiled graph.
        captions: a second line per node name, e.g. ``{"brand": "brand / brand_summary"}``.
        writes: the state key that a node writes, put along the arrows that leave it, e.g. ``{"brief": "brief"}``.

    Raises:
        ValueError: ``format`` is none of the three.
    """
    captions, writes = captions or {}, writes or {}
    flow = read_flow(graph, agents={*captions, *writes})
    if format == "mermaid":
        return _mermaid(flow, captions, writes)
    if format == "ascii":
        return _Ascii(_arrange(flow), captions, writes).render()
    if format == "svg":
        return _Svg(_arrange(flow), captions, writes).render()
    raise ValueError(f"unknown format {format!r}; known: {', '.join(get_args(Format))}")


# What people should see --------------------------------------------------------------------------------------


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
        return [START, *_unique(end for end in ends if end not in _PILLS), END]

    @property
    def groups(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for node in self.nodes:
            if _group(node):
                found.setdefault(_group(node), []).append(node)
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
    for node in _unique(arrow.target for arrow in arrows):
        if _name(node) not in shown and _only_decides(node, arrows):
            arrows = _without(node, arrows)
    for node in _unique(end for arrow in arrows for end in (arrow.source, arrow.target)):
        if _group(node) and _name(node) in _PILLS:
            arrows = _without(node, arrows)
    return Flow(tuple(_settle_choices(_without_shortcuts(_mark_loops(arrows)))))


def _name(node: str) -> str:
    name = node.rpartition(":")[2]
    return _PILLS.get(node, name)


def _group(node: str) -> str:
    return node.rpartition(":")[0].partition(":")[0]


def _unique(items: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(items))


def _only_decides(node: str, arrows: list[Arrow]) -> bool:
    """A node of a subgraph with one certain way in and only choices out, none of which repeats where it came from."""
    before = [arrow for arrow in arrows if arrow.target == node]
    after = [arrow for arrow in arrows if arrow.source == node]
    if not _group(node) or len(before) != 1 or before[0].choice or not after:
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
        arrow if arrow in forward else Arrow(arrow.source, arrow.target, True, True, arrow.label or _LOOP)
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
        if not arrow.choice or arrow.back or _group(arrow.target) in {"", _group(arrow.source)}:
            return False
        others = [
            other.target
            for other in forward
            if other.source == arrow.source
            and other.target != arrow.target
            and _group(other.target) == _group(arrow.target)
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


# Rows and places ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
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


def _arrange(flow: Flow) -> _Layout:
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
    return _Layout(flow, rows, paths, {item: rank for rank, row in enumerate(rows) for item in row})


def _sorted_below(above: list[str], row: list[str], paths: list[tuple[Arrow, list[str]]]) -> list[str]:
    """Order a row by where its items come from, so that few arrows cross."""

    def place(item: str) -> float:
        origins = [above.index(a) for _, path in paths for a, b in pairwise(path) if b == item]
        return sum(origins) / len(origins) if origins else 0

    return sorted(row, key=place)


# Mermaid -----------------------------------------------------------------------------------------------------


def _mermaid(flow: Flow, captions: Mapping[str, str], writes: Mapping[str, str]) -> str:
    ids = _mermaid_ids(flow)
    boxes = {node: f'{ids[node]}["{_mermaid_label(_name(node), captions)}"]' for node in flow.nodes}
    boxes |= {pill: f"{ids[pill]}([{name}])" for pill, name in _PILLS.items()}
    lines = ["flowchart TD", *(f"    {boxes[node]}" for node in flow.nodes if not _group(node) and node != END)]
    for group, nodes in flow.groups.items():
        lines += [f'    subgraph {ids[group]}["{_mermaid_text(group)}"]']
        lines += [f"        {boxes[node]}" for node in nodes]
        lines += ["    end"]
    lines += [f"    {boxes[END]}"]
    for arrow in flow.arrows:
        lines += [f"    {ids[arrow.source]} {_mermaid_line(arrow, writes)} {ids[arrow.target]}"]
    lines += [f"    style {ids[group]} fill:none,stroke-dasharray:5 5" for group in flow.groups]
    return "\n".join(lines) + "\n"


def _mermaid_ids(flow: Flow) -> dict[str, str]:
    """Names as they are where they are unique; an underscore keeps ``end`` and its like apart from syntax."""
    nodes = [*flow.nodes, *flow.groups]
    names = [_name(node) for node in nodes]
    plain = {node: node if node in _PILLS or names.count(_name(node)) > 1 else _name(node) for node in nodes}
    words = {node: re.sub(r"\W", "_", name, flags=re.ASCII) for node, name in plain.items()}
    reserved = {"end", "graph", "subgraph", "default", "style", "class", "click", "o", "x"}
    return {node: f"{word}_" if word.lower() in reserved else word for node, word in words.items()}


def _mermaid_text(text: str) -> str:
    text = " ".join(text.split()).replace("#", "#35;")
    return text.replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;").replace("|", "#124;")


def _mermaid_label(name: str, captions: Mapping[str, str]) -> str:
    caption = captions.get(name)
    return _mermaid_text(name) + (f"<br/><small>{_mermaid_text(caption)}</small>" if caption else "")


def _mermaid_line(arrow: Arrow, writes: Mapping[str, str]) -> str:
    label = arrow.label or ("" if arrow.back else writes.get(_name(arrow.source), ""))
    line = "-.->" if arrow.choice else "-->"
    return f'{line}|"{_mermaid_text(label)}"|' if label else line


# Plain text --------------------------------------------------------------------------------------------------


class _Ascii:
    """Characters on a grid. A node takes one line, or two with its caption; between rows stand the arrows."""

    COLUMNS = 78

    def __init__(self, layout: _Layout, captions: Mapping[str, str], writes: Mapping[str, str]) -> None:
        self.layout, self.flow, self.captions, self.writes = layout, layout.flow, captions, writes
        self.lane = min(39, self.COLUMNS // layout.lanes)
        self.canvas: dict[tuple[int, int], str] = {}
        self.line_of: list[int] = []

    def render(self) -> str:
        line = 0
        for rank, row in enumerate(self.layout.rows):
            self.line_of.append(line)
            captioned = any(self._caption(item) for item in row)
            for item in row:
                self._item(item, line, 2 if captioned else 1)
            line += 2 if captioned else 1
            if rank + 1 < len(self.layout.rows):
                line = self._gap(rank, line)
        for arrow in self.flow.arrows:
            if arrow.back:
                self._loop(arrow)
        for group, nodes in self.flow.groups.items():
            self._frame(group, nodes)
        return self._text(line)

    def _text(self, lines: int) -> str:
        rows = ["".join(self.canvas.get((x, y), " ") for x in range(self.COLUMNS)).rstrip() for y in range(lines)]
        indent = min(len(row) - len(row.lstrip()) for row in rows if row)
        return "\n".join(row[max(0, indent - 2) :] for row in rows) + "\n"

    def _put(self, x: int, y: int, text: str) -> None:
        for index, char in enumerate(text):
            self.canvas[x + index, y] = char

    def _x(self, item: str) -> int:
        return round((self.COLUMNS - 1) / 2 + self.layout.offset(item) * self.lane)

    def _box(self, node: str) -> str:
        name = _name(node)
        return name if node in _PILLS else f"[ {_clip(name, self.lane - 8)} ]"

    def _caption(self, item: str) -> str:
        return _clip(self.captions.get(_name(item), ""), self.lane - 9)

    def _item(self, item: str, line: int, height: int) -> None:
        x = self._x(item)
        if item not in self.flow.nodes:
            for y in range(line, line + height):
                self._put(x, y, "|")
            return
        for y, text in enumerate((self._box(item), self._caption(item))):
            self._put(x - len(text) // 2, line + y, text)

    def _gap(self, rank: int, line: int) -> int:
        """Draw the arrows from row ``rank`` to the next one; the return value is that row's line."""
        steps = [
            (arrow, a, b)
            for arrow, path in self.layout.paths
            for a, b in pairwise(path)
            if self.layout.row_of[a] == rank
        ]
        first = line + (1 if self.layout.closes(rank) else 0)
        buses = self._buses([(self._x(a), self._x(b)) for _, a, b in steps])
        tip = first + 1 + len(buses) + (1 if self.layout.opens(rank + 1) else 0)
        for arrow, a, b in steps:
            start, end = self._x(a), self._x(b)
            self._down(start, end, (line, self._turn(start, end, buses, first, tip), tip), ":" if arrow.choice else "|")
            if b in self.flow.nodes:
                self._put(end, tip, f"v {arrow.label}".strip())
            if a in self.flow.nodes and self.writes.get(_name(a)):
                self._put(start + 2, first, _clip(self.writes[_name(a)], self.lane // 2 - 4))
        for _, a, b in steps:
            start, end = self._x(a), self._x(b)
            if start != end:
                self._across(start, end, self._turn(start, end, buses, first, tip))
        return tip + 1

    @staticmethod
    def _turn(start: int, end: int, buses: list[list[tuple[int, int]]], first: int, tip: int) -> int:
        return next((first + 1 + n for n, bus in enumerate(buses) if (start, end) in bus), tip)

    def _down(self, start: int, end: int, lines: tuple[int, int, int], stroke: str) -> None:
        """The upright parts: at ``start`` down to the turn, at ``end`` from it; lines are first, turn and last."""
        first, turn, last = lines
        for y in range(first, last + 1):
            self._put(start if y < turn else end, y, stroke)

    def _across(self, start: int, end: int, turn: int) -> None:
        """The level part. It leaves strangers that cross it as they are."""
        for x in range(min(start, end) + 1, max(start, end)):
            self.canvas.setdefault((x, turn), "-")
        for x in (start, end):
            self._put(x, turn, "+")

    @staticmethod
    def _buses(steps: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        """Steps that go sideways, put together where they share an end: each bus gets a line of its own."""
        buses: list[list[tuple[int, int]]] = []
        for step in steps:
            if step[0] != step[1]:
                shared = [bus for bus in buses if any(step[0] == s or step[1] == e for s, e in bus)]
                buses = [bus for bus in buses if bus not in shared] + [[*chain.from_iterable(shared), step]]
        for step in steps:
            for bus in buses:
                if step[0] == step[1] and any(step[0] == s or step[1] == e for s, e in bus):
                    bus.append(step)
        return buses

    def _reach(self, nodes: Iterable[str]) -> int:
        """The rightmost column that the nodes' texts take, and one for air."""
        texts = [(self._x(node), text) for node in nodes for text in (self._box(node), self._caption(node))]
        return max(x - len(text) // 2 + len(text) for x, text in texts) + 1

    def _loop_x(self, arrow: Arrow) -> int:
        """Right of the texts, and far enough from the arrows for the label to stand inside."""
        nodes = self.flow.groups.get(_group(arrow.source), [arrow.source, arrow.target])
        room = max(len(self.writes.get(_name(node), "")) for node in nodes) + len(arrow.label) + 5
        return max(self._reach(nodes), max(map(self._x, nodes)) + room)

    def _loop(self, arrow: Arrow) -> None:
        top, bottom = (self.line_of[self.layout.row_of[node]] for node in (arrow.target, arrow.source))
        x = self._loop_x(arrow)
        for y, node, tip in ((top, arrow.target, "<"), (bottom, arrow.source, "-")):
            start = self._x(node) - len(self._box(node)) // 2 + len(self._box(node)) + 1
            self._put(start, y, tip + "-" * (x - start - 1) + "+")
        for y in range(top + 1, bottom):
            self._put(x, y, "|")
        self._put(x - 1 - len(arrow.label), bottom - 2, arrow.label)

    def _frame(self, group: str, nodes: list[str]) -> None:
        lines = [self.line_of[self.layout.row_of[node]] for node in nodes]
        last = max(self.layout.row_of[node] for node in nodes)
        captioned = any(self._caption(item) for item in self.layout.rows[last])
        top, bottom = min(lines) - 2, max(lines) + (2 if captioned else 1)
        loops = [self._loop_x(arrow) for arrow in self.flow.arrows if arrow.back and arrow.source in nodes]
        right = max([self._reach(nodes), *loops]) + 2
        middle = min(map(self._x, nodes))
        left = max(0, min(2 * middle - self._reach(nodes) - 1, middle - len(group) - 5))
        for x in range(left, right + 1):
            stroke = "+" if x in (left, right) else " -"[(x - left) % 2]
            for y in (top, bottom):
                if stroke != " ":
                    self.canvas.setdefault((x, y), stroke)
        self._put(left + 2, top, f" {_clip(group, middle - left - 5)} ")
        for y in range(top + 1, bottom):
            self.canvas.setdefault((left, y), ":")
            self.canvas.setdefault((right, y), ":")


def _clip(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else text[: max(0, width - 2)] + ".."


# SVG ---------------------------------------------------------------------------------------------------------

_SVG_STYLE = """
  .paper { fill: #ffffff } .box { fill: #f5f6f8; stroke: #c3c9d4 } .pill { fill: #2b3140 }
  .name { fill: #1b2130; font-weight: 600; font-size: 16px } .caption { fill: #566074; font-size: 12.5px }
  .pill-name { fill: #ffffff; font-weight: 600; font-size: 12px; letter-spacing: 1px }
  .key { fill: #566074; font-size: 12.5px; font-family: ui-monospace, Menlo, Consolas, monospace }
  .line { fill: none; stroke: #7b8498; stroke-width: 1.5 } .tip { fill: #7b8498 }
  .loop { fill: none; stroke: #b4501a; stroke-width: 1.5 } .loop-tip, .loop-key { fill: #b4501a }
  .loop-key { font-size: 12.5px; font-weight: 600 }
  .group { fill: #fbfbfc; stroke: #aab2c0; stroke-dasharray: 5 5 } .group-name { fill: #6a7385; font-size: 12px }
  .choice { stroke-dasharray: 5 4 }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #12151b } .box { fill: #1f242e; stroke: #454e5f } .pill { fill: #dfe3ea }
    .name { fill: #f1f3f7 } .caption, .key { fill: #a9b2c3 } .pill-name { fill: #12151b }
    .line { stroke: #8892a6 } .tip { fill: #8892a6 }
    .loop { stroke: #f0a06a } .loop-tip, .loop-key { fill: #f0a06a }
    .group { fill: #171b22; stroke: #566074 } .group-name { fill: #97a1b3 }
  }
"""


class _Svg:
    """Boxes in rows on a sheet 800 units wide, or wider for more than two lanes."""

    LANE = 340
    BOX = 236
    MARGIN = 28
    GAP = 44
    PILL = 28
    GROUP = 26
    LOOP = 62

    def __init__(self, layout: _Layout, captions: Mapping[str, str], writes: Mapping[str, str]) -> None:
        self.layout, self.flow, self.captions, self.writes = layout, layout.flow, captions, writes
        self.width = max(800, layout.lanes * self.LANE + 2 * self.MARGIN)
        self.box_height = 56 if captions else 42
        self.tops: list[float] = []

    def render(self) -> str:
        bottom = self._stack()
        parts = [*self._groups(), *self._arrows(), *self._nodes()]
        height = _n(bottom + self.MARGIN)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {height}" role="img"',
                'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"',
                'aria-labelledby="flow-title flow-desc">',
                '<title id="flow-title">The flow of the graph</title>',
                f'<desc id="flow-desc">{escape(self._description())}</desc>',
                f"<style>{_SVG_STYLE}</style>",
                _marker("tip"),
                _marker("loop-tip"),
                f'<rect class="paper" width="{self.width}" height="{height}" rx="12"/>',
                *parts,
                "</svg>\n",
            ]
        )

    def _description(self) -> str:
        ways = [
            f"{_name(arrow.source)} to {_name(arrow.target)}" + (f" ({arrow.label})" if arrow.label else "")
            for arrow in self.flow.arrows
        ]
        return "; ".join(ways) + "."

    def _stack(self) -> float:
        """Fill ``tops``; the return value is the lowest edge."""
        y: float = self.MARGIN
        for rank in range(len(self.layout.rows)):
            y += self.GROUP if self.layout.opens(rank) else 0
            self.tops.append(y)
            y += self._row_height(rank)
            y += self.GAP + (self.GROUP if self.layout.closes(rank) else 0)
        return self.tops[-1] + self._row_height(len(self.tops) - 1)

    def _row_height(self, rank: int) -> float:
        return self.PILL if set(self.layout.rows[rank]) <= set(_PILLS) else self.box_height

    def _x(self, item: str) -> float:
        return self.width / 2 + self.layout.offset(item) * self.LANE

    def _top(self, item: str) -> float:
        return self.tops[self.layout.row_of[item]]

    def _bottom(self, item: str) -> float:
        return self._top(item) + (self.PILL if item in _PILLS else self.box_height)

    def _nodes(self) -> Iterator[str]:
        for node in self.flow.nodes:
            x, y, name = self._x(node), self._top(node), _name(node)
            if node in _PILLS:
                yield f'<rect class="pill" x="{_n(x - 38)}" y="{_n(y)}" width="76" height="{self.PILL}" rx="14"/>'
                yield _text("pill-name", x, y + 18.5, name)
                continue
            yield (
                f'<rect class="box" x="{_n(x - self.BOX / 2)}" y="{_n(y)}" width="{self.BOX}"'
                f' height="{self.box_height}" rx="10"/>'
            )
            caption = self.captions.get(name)
            yield _text("name", x, y + (24 if caption else self.box_height / 2 + 5.5), self._fit(name, 9))
            if caption:
                yield _text("caption", x, y + 43, self._fit(caption, 6.6))

    def _fit(self, text: str, unit: float) -> str:
        room = int((self.BOX - 16) / unit)
        return text if len(text) <= room else text[: room - 1] + "…"

    def _arrows(self) -> Iterator[str]:
        for arrow, path in self.layout.paths:
            yield self._line(arrow, path)
            yield from self._keys(arrow, path)
        for arrow in self.flow.arrows:
            if arrow.back:
                yield from self._loop(arrow)

    def _line(self, arrow: Arrow, path: list[str]) -> str:
        """Straight lines with round corners: forks turn right below their node, joins right above."""
        x, y = self._x(path[0]), self._bottom(path[0])
        fork = len(self.flow.leaving(arrow.source)) > 1
        steps = [f"M{_n(x)} {_n(y)}"]
        for item in path[1:]:
            below, top = self._x(item), self._top(item)
            if below != x:
                turn = y + 20 if fork and item is path[1] else top - 24
                bend = 12 if below > x else -12
                steps.append(f"V{_n(turn - 12)}Q{_n(x)} {_n(turn)} {_n(x + bend)} {_n(turn)}")
                steps.append(f"H{_n(below - bend)}Q{_n(below)} {_n(turn)} {_n(below)} {_n(turn + 12)}")
            x, y = below, top
        kind = "line choice" if arrow.choice else "line"
        return f'<path class="{kind}" d="{"".join(steps)}V{_n(y)}" marker-end="url(#tip)"/>'

    def _keys(self, arrow: Arrow, path: list[str]) -> Iterator[str]:
        """Where a node has several ways on, its key stands behind the turn: before it, it would belong to none."""
        words = [word for word in (self.writes.get(_name(arrow.source)), arrow.label) if word]
        if not words:
            return
        x, y = self._x(arrow.source), self._bottom(arrow.source) + 21
        if len(self.flow.leaving(arrow.source)) > 1:
            x, y = self._x(path[1]), (self._top(arrow.target) - 16 if len(path) == 2 else y + 21)
        elif _group(arrow.source) and self.layout.closes(self.layout.row_of[arrow.source]):
            y += 14
        yield _text("key", x + 10, y, " · ".join(words), anchor="start")

    def _side(self, nodes: Iterable[str]) -> int:
        """Loops run on the outer side: -1 left, 1 right."""
        return 1 if any(self._x(node) > self.width / 2 for node in nodes) else -1

    def _loop(self, arrow: Arrow) -> Iterator[str]:
        side = self._side((arrow.source, arrow.target))
        start, end = (self._x(node) + side * self.BOX / 2 for node in (arrow.source, arrow.target))
        low, high = (self._top(node) + self.box_height / 2 for node in (arrow.source, arrow.target))
        out = (max(start, end) if side > 0 else min(start, end)) + side * (self.LOOP - 18)
        turn = side * -12
        yield (
            f'<path class="loop choice" d="M{_n(start)} {_n(low)}H{_n(out + turn)}'
            f"Q{_n(out)} {_n(low)} {_n(out)} {_n(low - 12)}V{_n(high + 12)}"
            f'Q{_n(out)} {_n(high)} {_n(out + turn)} {_n(high)}H{_n(end)}" marker-end="url(#loop-tip)"/>'
        )
        anchor = "end" if side > 0 else "start"
        yield _text("loop-key", out - side * 10, (low + high) / 2 + 4, arrow.label, anchor=anchor)

    def _groups(self) -> Iterator[str]:
        for group, nodes in self.flow.groups.items():
            looped = any(arrow.back and arrow.source in nodes for arrow in self.flow.arrows)
            side = self._side(nodes)
            left = min(map(self._x, nodes)) - self.BOX / 2 - (self.LOOP if looped and side < 0 else 18)
            right = max(map(self._x, nodes)) + self.BOX / 2 + (self.LOOP if looped and side > 0 else 18)
            top = min(map(self._top, nodes)) - self.GROUP - 10
            bottom = max(map(self._bottom, nodes)) + 16
            yield (
                f'<rect class="group" x="{_n(left)}" y="{_n(top)}" width="{_n(right - left)}"'
                f' height="{_n(bottom - top)}" rx="14"/>'
            )
            yield _text("group-name", left + 14, top + 20, group, anchor="start")


def _n(number: float) -> str:
    return f"{number:g}"


def _text(kind: str, x: float, y: float, text: str, *, anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(text)}</text>'


def _marker(kind: str) -> str:
    return (
        f'<marker id="{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path class="{kind}" d="M0 1L10 5L0 9z"/></marker>'
    )
