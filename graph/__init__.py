"""The state machine: ``from graph import build_graph`` gives the bare LangGraph builder."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graph.flow import build_graph

__all__ = ["build_graph"]


def __getattr__(name: str) -> Any:
    """LangGraph takes half a second to import; the run store beside it does without."""
    if name == "build_graph":
        from graph.flow import build_graph

        return build_graph
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
