"""The topology, and nothing else.

::

    START -> brand -> brief -> strategist -+-> copy_desk( copywriter -> reviewer -(revise)-> copywriter ) -+-> END
                                           +-> vision -----------------------------------------------------+

The reviewer needs the copy, not the image. LangGraph's steps are barriers, so copywriter and reviewer sit in a
subgraph: in a flat graph the review would wait for a 60 s image.
"""

from __future__ import annotations

from langgraph.graph import END, START, StateGraph

from graph.observe import observed
from graph.revision import desk_entry, revise_or_end, settle
from graph.state import CopyDeskInput, CopyDeskOutput, CopyDeskState, PageInput, PageState
from nodes import brand, brief, copywriter, reviewer, strategist, vision
from nodes.context import Context

__all__ = ["AGENTS", "build_graph"]

AGENTS = {
    "brand": brand,
    "brief": brief,
    "strategist": strategist,
    "copywriter": copywriter,
    "reviewer": reviewer,
    "vision": vision,
}


def build_graph() -> StateGraph[PageState, Context, PageInput, PageState]:
    """The graph's builder; compile it with a checkpointer of your own.

    Invoked without a context it builds one from the settings.
    """
    graph = StateGraph(PageState, context_schema=Context, input_schema=PageInput)
    graph.add_node("brand", observed("brand", brand), input_schema=brand.BrandInput)
    graph.add_node("brief", observed("brief", brief), input_schema=brief.BriefInput)
    graph.add_node("strategist", observed("strategist", strategist), input_schema=strategist.StrategistInput)
    graph.add_node("copy_desk", build_copy_desk().compile())
    graph.add_node("vision", observed("vision", vision), input_schema=vision.VisionInput)
    graph.add_edge(START, "brand")
    graph.add_edge("brand", "brief")
    graph.add_edge("brief", "strategist")
    graph.add_edge("strategist", "copy_desk")
    graph.add_edge("strategist", "vision")
    graph.add_edge("copy_desk", END)
    graph.add_edge("vision", END)
    return graph


def build_copy_desk() -> StateGraph[CopyDeskState, Context, CopyDeskInput, CopyDeskOutput]:
    """Copy, review and bounded revision: a graph of its own, so that it need not wait for the image."""
    desk = StateGraph(CopyDeskState, context_schema=Context, input_schema=CopyDeskInput, output_schema=CopyDeskOutput)
    desk.add_node("copywriter", observed("copywriter", copywriter), input_schema=copywriter.CopywriterInput)
    desk.add_node("reviewer", observed("reviewer", reviewer), input_schema=reviewer.ReviewerInput)
    desk.add_node("settle", settle)
    desk.add_conditional_edges(START, desk_entry, ["copywriter", "reviewer"])
    desk.add_edge("copywriter", "reviewer")
    desk.add_edge("reviewer", "settle")
    desk.add_conditional_edges("settle", revise_or_end, ["copywriter", END])
    return desk
