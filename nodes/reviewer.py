"""reviewer / style_check: whether the copy keeps to the brand, the facts and the rules."""

from __future__ import annotations

from typing import Any, NotRequired

from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from nodes.context import Context
from routing.contracts import Language

ROLE, TASK = "reviewer", "style_check"


class ReviewerInput(TypedDict):
    brand: dict[str, Any]
    product_input: dict[str, Any]
    copy: dict[str, Any]
    language: NotRequired[Language]


class ReviewerUpdate(TypedDict):
    review: dict[str, Any]


async def reviewer(state: ReviewerInput, runtime: Runtime[Context]) -> ReviewerUpdate:
    payload = {"brand": state["brand"], "product_input": state["product_input"], "copy": state["copy"]}
    return {"review": await runtime.context.ask(ROLE, TASK, payload, language=state.get("language", "ko"))}
