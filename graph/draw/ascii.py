"""The flow as plain text of at most 78 columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain, pairwise

from graph.draw.flow import PILLS, Arrow, group_of, short_name
from graph.draw.layout import Layout

__all__ = ["AsciiDrawing"]


class AsciiDrawing:
    """Characters on a grid. A node takes one line, or two with its caption; between rows stand the arrows."""

    COLUMNS = 78

    def __init__(self, layout: Layout, captions: Mapping[str, str], writes: Mapping[str, str]) -> None:
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
        name = short_name(node)
        return name if node in PILLS else f"[ {_clip(name, self.lane - 8)} ]"

    def _caption(self, item: str) -> str:
        return _clip(self.captions.get(short_name(item), ""), self.lane - 9)

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
            if a in self.flow.nodes and self.writes.get(short_name(a)):
                self._put(start + 2, first, _clip(self.writes[short_name(a)], self.lane // 2 - 4))
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
        nodes = self.flow.groups.get(group_of(arrow.source), [arrow.source, arrow.target])
        room = max(len(self.writes.get(short_name(node), "")) for node in nodes) + len(arrow.label) + 5
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
