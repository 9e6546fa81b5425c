"""strategist / content_plan: the page's sections in their order, the hero first."""

from __future__ import annotations

from typing import Any, NotRequired

from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from nodes.context import Context
from routing.contracts import Language

ROLE, TASK = "strategist", "content_plan"


class StrategistInput(TypedDict):
    brand: dict[str, Any]
    brief: dict[str, Any]
    product_input: dict[str, Any]
    language: NotRequired[Language]


class StrategistUpdate(TypedDict):
    sections: list[dict[str, Any]]


async def strategist(state: StrategistInput, runtime: Runtime[Context]) -> StrategistUpdate:
    payload = {"brand": state["brand"], "brief": state["brief"], "product_input": state["product_input"]}
    plan = await runtime.context.ask(ROLE, TASK, payload, language=state.get("language", "ko"))
    return {"sections": plan["sections"]}
