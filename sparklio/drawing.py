"""The flow as a drawing, with what each agent does and writes."""

from __future__ import annotations

from typing import get_args

from graph.draw import Format, draw
from graph.flow import AGENTS, build_graph
from graph.rerun import WRITES
from providers.errors import UnknownNameError

__all__ = ["draw_flow"]


_LLM = "LLM gateway: chat models, routed by rules"
_MEDIA = "media gateway: images, routed by rules"


def draw_flow(format: Format) -> str:
    """The graph as it is compiled, drawn offline.

    Raises:
        UnknownNameError: there is no such format.
    """
    if format not in get_args(Format):
        raise UnknownNameError("format", format, get_args(Format))
    return draw(
        build_graph().compile(),
        format,
        captions={name: f"{agent.ROLE} / {agent.TASK}" for name, agent in AGENTS.items()},
        writes={name: ", ".join(sorted(keys)) for name, keys in WRITES.items()},
        asks={name: [_LLM, _MEDIA] if "image" in WRITES[name] else [_LLM] for name in AGENTS},
    )
