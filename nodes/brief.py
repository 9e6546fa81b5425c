"""brief / marketing_brief: whom the page speaks to, what it claims, and which messages carry it."""

from __future__ import annotations

from typing import Any, NotRequired

from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from nodes.context import Context
from routing.contracts import Language

ROLE, TASK = "brief", "marketing_brief"


class BriefInput(TypedDict):
    brand: dict[str, Any]
    product_input: dict[str, Any]
    language: NotRequired[Language]


class BriefUpdate(TypedDict):
    brief: dict[str, Any]


async def brief(state: BriefInput, runtime: Runtime[Context]) -> BriefUpdate:
    payload = {"brand": state["brand"], "product_input": state["product_input"]}
    return {"brief": await runtime.context.ask(ROLE, TASK, payload, language=state.get("language", "ko"))}
