"""The task catalogue: which role does what, with which prompt, output model and default options.

A pair that is not here is served all the same, with the generic prompt and no output model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from routing import artifacts

__all__ = ["GENERIC_PROMPT", "ROLES", "TASKS", "Task", "default_options", "find_task"]

GENERIC_PROMPT = "generic"


@dataclass(frozen=True)
class Task:
    """One kind of work.

    Attributes:
        name: the task's name; its prompt is ``prompts/<language>/<name>.md``.
        roles: the roles that do it; empty means any role.
        output: what an answer in json mode must fit; None for free text only.
        max_tokens: default bound on the answer.
    """

    name: str
    roles: tuple[str, ...]
    output: type[artifacts.Artifact] | None
    max_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


# max_tokens of brand_kit and sns, and the temperatures below: the founding documents.
TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task("brand_summary", ("brand",), artifacts.BrandSummary),
            Task("brand_kit", ("brand",), artifacts.BrandKit, max_tokens=3000),
            Task("marketing_brief", ("brief",), artifacts.MarketingBrief),
            Task("content_plan", ("strategist",), artifacts.ContentPlan),
            Task("product_detail", ("copywriter",), artifacts.ProductDetail),
            Task("sns", ("copywriter",), artifacts.SnsPosts, max_tokens=1000),
            Task("headline", ("copywriter",), artifacts.Headlines),
            Task("blog_post", ("copywriter",), artifacts.BlogPost),
            Task("image_prompt", ("vision",), artifacts.ImagePrompt),
            Task("style_check", ("reviewer",), artifacts.StyleReview),
            Task("rewrite", ("editor",), artifacts.Rewrite),
            Task("short_summary", (), artifacts.Summary),
            Task("tagging", (), artifacts.Tags),
            Task("heavy_reasoning", (), artifacts.Reasoning),
        )
    }
)

_TEMPERATURES = MappingProxyType({"copywriter": 0.8, "strategist": 0.6, "reviewer": 0.3})

ROLES: tuple[str, ...] = tuple(dict.fromkeys(role for task in TASKS.values() for role in task.roles))


def find_task(role: str, name: str) -> Task | None:
    """The catalogue's task for this pair, or None: then the generic prompt serves."""
    task = TASKS.get(name)
    if task is None or (task.roles and role not in task.roles):
        return None
    return task


def default_options(role: str, name: str) -> dict[str, Any]:
    """Temperature by role and max_tokens by task, where the founding documents name them."""
    options: dict[str, Any] = {}
    if role in _TEMPERATURES:
        options["temperature"] = _TEMPERATURES[role]
    task = TASKS.get(name)
    if task is not None:
        options.update(task.options)
        if task.max_tokens is not None:
            options["max_tokens"] = task.max_tokens
    return options
