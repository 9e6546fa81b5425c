"""The bare builder, for people who bring their own checkpointer, and for ``langgraph dev``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from graph import build_graph
from graph.state import OUTPUT_KEYS
from tests.conftest import BRAND, PRODUCT
from tests.standins.ollama import OllamaStandIn

INPUT: Any = {"brand_input": BRAND, "product_input": PRODUCT}


async def test_without_a_context_it_builds_one_from_the_settings() -> None:
    state = await build_graph().compile().ainvoke(INPUT)
    assert set(OUTPUT_KEYS) <= set(state)
    json.dumps(state)


async def test_a_context_of_plain_values_is_completed() -> None:
    """What LangGraph's own server sends: a mapping, empty by default."""
    graph: Any = build_graph().compile()
    assert (await graph.ainvoke(INPUT, context={}))["review"]["approved"]
    first = await graph.ainvoke(INPUT, context={"seed": 5})
    second = await graph.ainvoke(INPUT, context={"seed": 5})
    assert first["image"]["seed"] == second["image"]["seed"]


async def test_with_a_checkpointer_of_one_s_own() -> None:
    graph = build_graph().compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    updates = [update async for update in graph.astream(INPUT, config, stream_mode="updates")]
    assert [next(iter(update)) for update in updates][:3] == ["brand", "brief", "strategist"]
    assert (await graph.aget_state(config)).next == ()


@pytest.mark.usefixtures("live")
async def test_its_own_gateways_are_those_of_the_mode(ollama: OllamaStandIn) -> None:
    await build_graph().compile().ainvoke(INPUT)
    assert len(ollama.chats) == 6


def test_its_schemas_can_be_asked_for() -> None:
    graph = build_graph().compile()
    asked = graph.get_input_jsonschema()["properties"]
    assert {"brand_input", "product_input"} <= set(asked)
    assert "review" in graph.get_output_jsonschema()["properties"]
    context: Any = graph.get_context_jsonschema()
    assert {"stage", "seed", "max_revisions"} <= set(context["properties"])
    assert "llm" not in context["properties"]


def test_langgraph_json_names_the_builder() -> None:
    config = json.loads((Path(__file__).parent.parent / "langgraph.json").read_text())
    assert config["graphs"] == {"sparklio": "graph.flow:build_graph"}
