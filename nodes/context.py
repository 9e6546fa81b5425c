"""What travels with a run but not in its state: the gateways and the run-wide choices."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from pydantic import ConfigDict
from pydantic.json_schema import SkipJsonSchema

from routing.budget import Budget
from routing.contracts import (
    ChatGateway,
    ImageAnswer,
    ImageGateway,
    ImageRequest,
    Language,
    LLMAnswer,
    LLMOptions,
    LLMRequest,
    OnProgress,
    Stage,
)
from routing.fingerprints import Fingerprint

__all__ = ["Context", "Recorder"]

A = TypeVar("A", LLMAnswer, ImageAnswer)
G = TypeVar("G")


@runtime_checkable
class Recorder(Protocol):
    """Sees to it that no call of a run is made twice."""

    async def once(
        self,
        node: str,
        step: int,
        ordinal: int,
        fingerprint: Fingerprint,
        request: LLMRequest | ImageRequest,
        make: Callable[[], Awaitable[A]],
    ) -> A:
        """The recorded answer to this call of ``node`` in a step of the graph, or what ``make`` answers, recorded."""
        ...


@dataclass(frozen=True)
class Context:
    """LangGraph's ``context`` of this graph; every field may be left out.

    Attributes:
        llm: the LLM gateway; None: one from the settings.
        media: the media gateway; None: one from the settings.
        stage: ``draft`` or ``final``: which routing rules apply.
        seed: the run's own seed; every call's seed comes from it, so a resumed run asks again what it asked before.
        run_id: names this run's image jobs, so that a resumed run finds a job that went on without it.
        start_at: ``reviewer`` lets the copy desk begin with the review of a copy that is already there.
        effects: the run's calls that are recorded already; None: nothing is recorded.
        budget: what the run may spend and has spent; None: nobody counts.
        max_revisions: how often a failed review may send the copy back.
        on_progress: hears tokens and image steps while a node waits.
    """

    __pydantic_config__: ClassVar = ConfigDict(arbitrary_types_allowed=True)  # LangGraph's server asks for its schema

    llm: SkipJsonSchema[ChatGateway | None] = None
    media: SkipJsonSchema[ImageGateway | None] = None
    stage: Stage = "draft"
    seed: int | None = None
    run_id: str | None = None
    start_at: str | None = None
    effects: SkipJsonSchema[Recorder | None] = None
    budget: SkipJsonSchema[Budget | None] = None
    max_revisions: int = 1
    on_progress: SkipJsonSchema[OnProgress | None] = None

    async def ask(self, role: str, task: str, payload: dict[str, Any], *, language: Language) -> Any:
        """The parsed and validated JSON of one chat call."""
        options = LLMOptions(stage=self.stage, language=language, seed=self.seed_for(task))
        request = LLMRequest(role=role, task=task, mode="json", payload=payload, options=options)
        answer = await _present(self.llm).generate(request, self.on_progress, budget=self.budget)
        return answer.output.parsed

    async def make_image(self, request: ImageRequest) -> ImageAnswer:
        """One call of the media gateway."""
        return await _present(self.media).generate_image(request, self.on_progress, budget=self.budget)

    def seed_for(self, purpose: str) -> int | None:
        """A seed in 0..2**31-1 for one kind of call, or None where the run has none."""
        return None if self.seed is None else int(self._digest(f"{self.seed}:{purpose}")[:8], 16) >> 1

    def job_key(self, *parts: object) -> str | None:
        """The idempotency key of one image of this run: the same request has the same key, after a crash too."""
        text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
        return f"{self.run_id}:{self._digest(text)[:32]}" if self.run_id else None

    @staticmethod
    def _digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()


def _present(gateway: G | None) -> G:
    if gateway is None:
        raise RuntimeError("the context has no gateways; agents run inside the graph, which provides them")
    return gateway
