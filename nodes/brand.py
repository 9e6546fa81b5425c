"""brand / brand_summary: from the brand's own words and materials to its voice, values and colours."""

from __future__ import annotations

from typing import Any, NotRequired

from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from nodes.context import Context
from routing.contracts import Language

ROLE, TASK = "brand", "brand_summary"


class BrandInput(TypedDict):
    brand_input: dict[str, Any]
    language: NotRequired[Language]


class BrandUpdate(TypedDict):
    brand: dict[str, Any]


async def brand(state: BrandInput, runtime: Runtime[Context]) -> BrandUpdate:
    payload = {"brand_input": state["brand_input"]}
    return {"brand": await runtime.context.ask(ROLE, TASK, payload, language=state.get("language", "ko"))}
