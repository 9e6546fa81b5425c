"""reviewer / style_check: whether the copy keeps to the brand, the facts and the rules.

Foreign script in Korean copy is counted, not asked about: the model that slipped it in does not see it either.
"""

from __future__ import annotations

from typing import Any, NotRequired

from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from nodes.context import Context
from routing.contracts import Language
from routing.language_gate import foreign_script

ROLE, TASK = "reviewer", "style_check"
HIGHEST_REJECTED_SCORE = 40


class ReviewerInput(TypedDict):
    brand: dict[str, Any]
    product_input: dict[str, Any]
    copy: dict[str, Any]
    language: NotRequired[Language]


class ReviewerUpdate(TypedDict):
    review: dict[str, Any]


async def reviewer(state: ReviewerInput, runtime: Runtime[Context]) -> ReviewerUpdate:
    payload = {"brand": state["brand"], "product_input": state["product_input"], "copy": state["copy"]}
    language = state.get("language", "ko")
    review = await runtime.context.ask(ROLE, TASK, payload, language=language)
    found = foreign_script(state["copy"], (state["brand"], state["product_input"]), language)
    if any(issue["severity"] == "high" for issue in found):
        review |= {"approved": False, "score": min(review["score"], HIGHEST_REJECTED_SCORE)}
    return {"review": review | {"issues": [*found, *review["issues"]]}}
