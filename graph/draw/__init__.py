"""Pictures of the flow, made here and offline from the compiled graph's own structure.

Three steps: :mod:`graph.draw.flow` turns LangGraph's nodes and edges into what people should see,
:mod:`graph.draw.layout` gives every node a row and a place in it, and one renderer per format draws that. Nothing here
knows the names of the agents, so a changed topology changes the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from graph.draw.ascii import AsciiDrawing
from graph.draw.flow import Arrow, Flow, Graph, read_flow
from graph.draw.layout import arrange
from graph.draw.mermaid import draw_mermaid
from graph.draw.svg import SvgDrawing

__all__ = ["Arrow", "Flow", "Format", "draw", "read_flow"]

Format = Literal["mermaid", "ascii", "svg"]


def draw(
    graph: Graph,
    format: Format = "mermaid",
    *,
    captions: Mapping[str, str] | None = None,
    writes: Mapping[str, str] | None = None,
    asks: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Draw ``graph`` as Mermaid text, plain text of at most 78 columns, or a standalone SVG.

    Args:
        graph: a graph builder or a compiled graph.
        captions: a second line per node name, e.g. ``{"brand": "brand / brand_summary"}``.
        writes: the state key that a node writes, put along the arrows that leave it, e.g. ``{"brief": "brief"}``.
        asks: what a node calls, e.g. ``{"brand": ["LLM gateway"]}``; the SVG marks it with dots, explained below.

    Raises:
        ValueError: ``format`` is none of the three.
    """
    captions, writes = captions or {}, writes or {}
    flow = read_flow(graph, agents={*captions, *writes})
    if format == "mermaid":
        return draw_mermaid(flow, captions, writes)
    if format == "ascii":
        return AsciiDrawing(arrange(flow), captions, writes).render()
    if format == "svg":
        return SvgDrawing(arrange(flow), captions, writes, asks or {}).render()
    raise ValueError(f"unknown format {format!r}; known: {', '.join(get_args(Format))}")
