"""What travels with a run but not in its state: the gateways and the run-wide choices."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from routing.contracts import ChatGateway, ImageGateway, Language, LLMOptions, LLMRequest, OnProgress, Stage

__all__ = ["Context"]


@dataclass(frozen=True)
class Context:
    """LangGraph's ``context`` of this graph.

    Attributes:
        llm: the LLM gateway.
        media: the media gateway.
        stage: ``draft`` or ``final``: which routing rules apply.
        seed: the run's own seed; every call's seed comes from it, so a resumed run asks again what it asked before.
        run_id: names this run's image jobs, so that a resumed run finds a job that went on without it.
        start_at: ``reviewer`` lets the copy desk begin with the review of a copy that is already there.
        max_revisions: how often a failed review may send the copy back.
        on_progress: hears tokens and image steps while a node waits.
    """

    llm: ChatGateway
    media: ImageGateway
    stage: Stage = "draft"
    seed: int | None = None
    run_id: str | None = None
    start_at: str | None = None
    max_revisions: int = 1
    on_progress: OnProgress | None = None

    async def ask(self, role: str, task: str, payload: dict[str, Any], *, language: Language) -> Any:
        """The parsed and validated JSON of one chat call."""
        options = LLMOptions(stage=self.stage, language=language, seed=self.seed_for(task))
        request = LLMRequest(role=role, task=task, mode="json", payload=payload, options=options)
        answer = await self.llm.generate(request, self.on_progress)
        return answer.output.parsed

    def seed_for(self, purpose: str) -> int | None:
        """A seed in 0..2**31-1 for one kind of call, or None where the run has none."""
        return None if self.seed is None else int(self._digest(f"{self.seed}:{purpose}")[:8], 16) >> 1

    def job_key(self, *parts: object) -> str | None:
        """The idempotency key of one image of this run: the same request has the same key, after a crash too."""
        return f"{self.run_id}:{self._digest(repr(parts))[:32]}" if self.run_id else None

    @staticmethod
    def _digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()
