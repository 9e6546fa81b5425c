"""The flow as a standalone SVG, for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape

from graph.draw.flow import PILLS, Arrow, group_of, short_name, unique
from graph.draw.layout import Layout

__all__ = ["SvgDrawing"]


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
  .gateway { fill: none; stroke: #c3c9d4 } .gateway-name { fill: #566074; font-size: 12.5px }
  .asks-0 { fill: #2f6fd0 } .asks-1 { fill: #1d8f6a }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #12151b } .box { fill: #1f242e; stroke: #454e5f } .pill { fill: #dfe3ea }
    .name { fill: #f1f3f7 } .caption, .key { fill: #a9b2c3 } .pill-name { fill: #12151b }
    .line { stroke: #8892a6 } .tip { fill: #8892a6 }
    .loop { stroke: #f0a06a } .loop-tip, .loop-key { fill: #f0a06a }
    .gateway { stroke: #454e5f } .gateway-name { fill: #a9b2c3 } .asks-0 { fill: #78a9ff } .asks-1 { fill: #55c79e }
    .group { fill: #171b22; stroke: #566074 } .group-name { fill: #97a1b3 }
  }
"""


class SvgDrawing:
    """Boxes in rows on a sheet 800 units wide, or wider for more than two lanes."""

    LANE = 340
    BOX = 236
    MARGIN = 28
    GAP = 44
    PILL = 28
    GROUP = 26
    LOOP = 62

    GATEWAY = 38

    def __init__(
        self,
        layout: Layout,
        captions: Mapping[str, str],
        writes: Mapping[str, str],
        asks: Mapping[str, Sequence[str]],
    ) -> None:
        self.layout, self.flow, self.captions, self.writes, self.asks = layout, layout.flow, captions, writes, asks
        self.gateways = unique(gateway for asked in asks.values() for gateway in asked)
        self.width = max(800, layout.lanes * self.LANE + 2 * self.MARGIN)
        self.box_height = 56 if captions else 42
        self.tops: list[float] = []

    def render(self) -> str:
        bottom = self._stack()
        parts = [*self._groups(), *self._arrows(), *self._nodes(), *self._gateways(bottom + self.MARGIN)]
        bottom += self.GATEWAY + self.MARGIN if self.gateways else 0
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
            f"{short_name(arrow.source)} to {short_name(arrow.target)}" + (f" ({arrow.label})" if arrow.label else "")
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
        return self.PILL if set(self.layout.rows[rank]) <= set(PILLS) else self.box_height

    def _x(self, item: str) -> float:
        return self.width / 2 + self.layout.offset(item) * self.LANE

    def _top(self, item: str) -> float:
        return self.tops[self.layout.row_of[item]]

    def _bottom(self, item: str) -> float:
        return self._top(item) + (self.PILL if item in PILLS else self.box_height)

    def _nodes(self) -> Iterator[str]:
        for node in self.flow.nodes:
            x, y, name = self._x(node), self._top(node), short_name(node)
            if node in PILLS:
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
            for place, gateway in enumerate(self.asks.get(name, ())):
                yield self._dot(gateway, x + self.BOX / 2 - 16 - 15 * place, y + 16)

    def _gateways(self, y: float) -> Iterator[str]:
        """What the dots in the boxes mean: the gateways that the nodes ask, side by side below the flow."""
        room = (self.width - self.MARGIN) / max(1, len(self.gateways))
        for place, gateway in enumerate(self.gateways):
            x, width = self.MARGIN + place * room, room - self.MARGIN
            yield (
                f'<rect class="gateway" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{self.GATEWAY}" rx="10"/>'
            )
            yield self._dot(gateway, x + 20, y + self.GATEWAY / 2)
            yield _text("gateway-name", x + 36, y + self.GATEWAY / 2 + 4.5, gateway, anchor="start")

    def _dot(self, gateway: str, x: float, y: float) -> str:
        """A round and a square one: colour alone does not tell them apart for everybody."""
        kind, name = self.gateways.index(gateway) % 2, escape(gateway)
        corner = 1.5 if kind else 5
        return (
            f'<rect class="asks-{kind}" x="{_n(x - 5)}" y="{_n(y - 5)}" width="10" height="10" rx="{_n(corner)}">'
            f"<title>{name}</title></rect>"
        )

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
        words = [word for word in (self.writes.get(short_name(arrow.source)), arrow.label) if word]
        if not words:
            return
        x, y = self._x(arrow.source), self._bottom(arrow.source) + 21
        if len(self.flow.leaving(arrow.source)) > 1:
            x, y = self._x(path[1]), (self._top(arrow.target) - 16 if len(path) == 2 else y + 21)
        elif group_of(arrow.source) and self.layout.closes(self.layout.row_of[arrow.source]):
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
