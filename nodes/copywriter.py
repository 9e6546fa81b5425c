"""copywriter / product_detail: the words of the page, one copy section for each planned one.

In a revision it also sees its own draft and what the reviewer found in it; outside the loop ``revision`` is absent.
"""

from __future__ import annotations

from typing import Any, NotRequired

from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from nodes.context import Context
from routing.contracts import Language

ROLE, TASK = "copywriter", "product_detail"


class CopywriterInput(TypedDict):
    brief: dict[str, Any]
    sections: list[dict[str, Any]]
    product_input: dict[str, Any]
    revision: NotRequired[dict[str, Any] | None]
    language: NotRequired[Language]


class CopywriterUpdate(TypedDict):
    copy: dict[str, Any]


async def copywriter(state: CopywriterInput, runtime: Runtime[Context]) -> CopywriterUpdate:
    payload: dict[str, Any] = {
        "brief": state["brief"],
        "sections": state["sections"],
        "product_input": state["product_input"],
    }
    if revision := state.get("revision"):
        payload["revision"] = revision
    return {"copy": await runtime.context.ask(ROLE, TASK, payload, language=state.get("language", "ko"))}
