"""The flow as a drawing, with what each agent does and writes."""

from __future__ import annotations

from typing import Literal

from graph.draw import draw
from graph.flow import AGENTS, build_graph
from graph.rerun import WRITES

__all__ = ["draw_flow"]


def draw_flow(format: Literal["mermaid", "ascii", "svg"]) -> str:
    """The graph as it is compiled, drawn offline."""
    return draw(
        build_graph().compile(),
        format,
        captions={name: f"{agent.ROLE} / {agent.TASK}" for name, agent in AGENTS.items()},
        writes={name: ", ".join(sorted(keys)) for name, keys in WRITES.items()},
    )
