"""The shared state: plain JSON, no image bytes. What each agent may touch stands in its own file."""

from __future__ import annotations

import operator
from typing import Annotated, Any, NotRequired

from typing_extensions import TypedDict

from routing.contracts import Language

__all__ = ["OUTPUT_KEYS", "CopyDeskInput", "CopyDeskOutput", "CopyDeskState", "NodeCall", "PageInput", "PageState"]


class NodeCall(TypedDict):
    """What one execution of an agent cost.

    ``checkpoint_id`` names the checkpoint that the agent ran from. ``effects`` are the keys of its calls in the ledger
    (none before version 0.2, and where a bare graph keeps no ledger). ``ms`` is wall time. ``cost_usd`` is None where a
    price is unknown. ``cached`` marks what a rerun kept from its parent, ``degraded`` a model that runs partly on the
    CPU, where the provider tells.
    """

    node: str
    role: str
    task: str
    provider: str
    model: str
    ms: int
    usage: dict[str, int]
    cost_usd: float | None
    attempts: int
    cached: bool
    degraded: bool
    effects: NotRequired[list[str]]
    checkpoint_id: str | None


Calls = Annotated[list[NodeCall], operator.add]


class PageInput(TypedDict):
    """What a run starts from."""

    brand_input: dict[str, Any]
    product_input: dict[str, Any]
    image_input: NotRequired[dict[str, Any]]
    language: NotRequired[Language]


class PageState(PageInput, total=False):
    brand: dict[str, Any]
    brief: dict[str, Any]
    sections: list[dict[str, Any]]
    copy: dict[str, Any]
    image: dict[str, Any]
    review: dict[str, Any]
    calls: Calls


OUTPUT_KEYS = ("brand", "brief", "sections", "copy", "image", "review")


class CopyDeskInput(TypedDict):
    brand: dict[str, Any]
    brief: dict[str, Any]
    sections: list[dict[str, Any]]
    product_input: dict[str, Any]
    language: NotRequired[Language]
    copy: NotRequired[dict[str, Any]]


class CopyDeskOutput(TypedDict):
    copy: dict[str, Any]
    review: dict[str, Any]
    calls: Calls


class CopyDeskState(CopyDeskInput, CopyDeskOutput, total=False):  # type: ignore[misc]  # `copy` is optional on the way in
    """Private to the desk: ``revision`` is the order to write again, ``best`` the better version so far."""

    revision: dict[str, Any] | None
    best: dict[str, Any]
    revisions: int
