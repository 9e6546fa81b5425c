"""The reviewer's loop: when the copy goes back, when it stops, and which version is kept."""

from __future__ import annotations

from typing import Any, Literal

from langgraph.graph import END
from langgraph.runtime import Runtime
from pydantic import Field

from graph.state import CopyDeskState
from nodes.context import Context
from routing.artifacts import StyleReview

__all__ = ["SettledReview", "desk_entry", "revise_or_end", "settle"]

StoppedBecause = Literal["approved", "revision_limit", "revision_not_better", "copy_given"]


class SettledReview(StyleReview):
    """The review as it stands in the state: the reviewer's words, and how the loop ended."""

    revisions: int = Field(default=0, ge=0)
    stopped_because: StoppedBecause


def desk_entry(state: CopyDeskState, runtime: Runtime[Context]) -> Literal["copywriter", "reviewer"]:
    """A rerun may begin with the review of a copy that is already there."""
    return "reviewer" if _starts_at_review(runtime) else "copywriter"


def settle(state: CopyDeskState, runtime: Runtime[Context]) -> dict[str, Any]:
    """After each review: order a revision, or stop with the better version and the reason.

    A copy that this run was given (a user's own edit) is never sent back.
    """
    review, revisions = state["review"], state.get("revisions", 0)
    current = {"copy": state["copy"], "review": review}
    best = state.get("best")
    if best is None or _rank(review) >= _rank(best["review"]):
        best = current

    reason: StoppedBecause
    if review["approved"]:
        reason = "approved"
    elif _starts_at_review(runtime):
        reason = "copy_given"
    elif revisions < _max_revisions(runtime):
        order = {"draft": state["copy"], "issues": review["issues"], "summary": review["summary"]}
        return {"revision": order, "revisions": revisions + 1, "best": best}
    else:
        reason = "revision_limit" if best is current else "revision_not_better"
    kept = best["review"] | {"revisions": revisions, "stopped_because": reason}
    return {"copy": best["copy"], "review": kept, "revision": None}


def revise_or_end(state: CopyDeskState) -> str:
    return "copywriter" if state.get("revision") else END


def _rank(review: dict[str, Any]) -> tuple[bool, int]:
    return review["approved"], review["score"]


def _starts_at_review(runtime: Runtime[Context]) -> bool:
    return runtime.context is not None and runtime.context.start_at == "reviewer"


def _max_revisions(runtime: Runtime[Context]) -> int:
    return Context.max_revisions if runtime.context is None else runtime.context.max_revisions
