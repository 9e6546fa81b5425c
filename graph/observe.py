"""Makes an agent observable: its events, and the record of what it cost, without a word of it in the agent's file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

from langgraph.config import get_config
from langgraph.runtime import Runtime

from graph.default_gateways import default_gateways
from graph.state import NodeCall
from nodes.context import Context, Recorder
from providers.base import Usage
from providers.errors import describe
from routing.budget import Budget
from routing.contracts import (
    ChatGateway,
    ImageAnswer,
    ImageGateway,
    ImageRequest,
    LLMAnswer,
    LLMRequest,
    OnProgress,
    Progress,
)
from routing.fingerprints import Fingerprint, key_of
from routing.prices import total_cost
from routing.tracing import node_span

__all__ = ["observed"]

A = TypeVar("A", LLMAnswer, ImageAnswer)
R = TypeVar("R", LLMRequest, ImageRequest)


class _AgentModule(Protocol):
    ROLE: str
    TASK: str


class Node(Protocol):
    async def __call__(self, state: Any, runtime: Runtime[Context]) -> dict[str, Any]: ...


@dataclass
class _Book:
    """The gateways as one execution of an agent sees them; keeps the answers that it got."""

    run_id: str | None
    node: str
    step: int
    llm: ChatGateway
    media: ImageGateway
    effects: Recorder | None
    answers: list[LLMAnswer | ImageAnswer] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    async def generate(
        self, request: LLMRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> LLMAnswer:
        async def make(asked: LLMRequest) -> LLMAnswer:
            return await self.llm.generate(asked, on_progress, budget=budget)

        return await self._once(request, make)

    async def generate_image(
        self, request: ImageRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> ImageAnswer:
        async def make(asked: ImageRequest) -> ImageAnswer:
            return await self.media.generate_image(asked, on_progress, budget=budget)

        return await self._once(request, make)

    async def fingerprint(self, request: LLMRequest | ImageRequest) -> Fingerprint:
        if isinstance(request, ImageRequest):
            return await self.media.fingerprint(request)
        return await self.llm.fingerprint(request)

    async def check(self, request: ImageRequest) -> None:
        await self.media.check(request)

    async def cancel(self, request: ImageRequest) -> None:
        await self.media.cancel(request)

    def goes_on(self, request: ImageRequest) -> bool:
        return self.media.goes_on(request)

    @property
    def chats(self) -> list[LLMAnswer]:
        return [answer for answer in self.answers if isinstance(answer, LLMAnswer)]

    async def _once(self, request: R, make: Callable[[R], Awaitable[A]]) -> A:
        """The recorded answer to this very call, or a new one that is recorded before the agent has it."""
        if self.effects is None:
            answer = await make(request)
        else:
            fingerprint = await self.fingerprint(request)
            self.keys.append(key := key_of(self.step, fingerprint))
            order = _ordered_as(request, f"{self.run_id}:{key}")
            place = self.node, self.step, len(self.answers)
            answer = await self.effects.once(*place, fingerprint, order, lambda: make(order))
        self.answers.append(answer)
        return answer


def _ordered_as(request: R, key: str) -> R:
    """An image's order is known to its service by the key of the call, so another call never finds it."""
    if not isinstance(request, ImageRequest):
        return request
    return request.model_copy(update={"options": request.options.model_copy(update={"idempotency_key": key})})


def observed(name: str, agent: _AgentModule) -> Node:
    """The agent's function, writing its events to LangGraph's custom stream and its :class:`NodeCall` to the state.

    Events here are ``{type, node, data}``; :mod:`graph.runs` numbers and dates them. That an agent is finished is not
    said here: it is so only when LangGraph has taken its result.
    """
    node: Node = getattr(agent, name)

    async def run(state: Any, runtime: Runtime[Context]) -> dict[str, Any]:
        def emit(event_type: str, data: dict[str, Any]) -> None:
            runtime.stream_writer({"type": event_type, "node": name, "data": data})

        def on_progress(progress: Progress) -> None:
            if progress.kind == "token":
                emit("token", {"text": progress.text, "attempt": progress.attempt})
            else:
                emit("image_progress", {"step": progress.step, "steps": progress.steps})

        context = runtime.context if runtime.context is not None else Context()
        if context.llm is not None and context.media is not None:
            llm, media = context.llm, context.media
        else:
            gateways = await default_gateways()
            llm, media = context.llm or gateways.llm, context.media or gateways.media
        step = get_config()["metadata"].get("langgraph_step", 0)
        book = _Book(context.run_id, name, step, llm, media, context.effects)
        emit("node_started", {"role": agent.ROLE, "task": agent.TASK})
        started = time.perf_counter()
        try:
            watched = replace(context, llm=book, media=book, on_progress=on_progress)
            with node_span(name, agent.ROLE, agent.TASK, context.run_id):
                update = await node(state, runtime.override(context=watched))
        except asyncio.CancelledError:
            raise
        except BaseException as exc:
            emit("node_failed", describe(exc))
            raise
        ms = round((time.perf_counter() - started) * 1000)
        return {**update, "calls": [_record(name, agent, book, ms, _checkpoint_id(runtime))]}

    run.__name__ = name
    run.__doc__ = node.__doc__
    return run


def _record(name: str, agent: _AgentModule, book: _Book, ms: int, checkpoint_id: str | None) -> NodeCall:
    """Provider and model are those of the agent's chat call; usage, cost and attempts cover all its calls."""
    main = book.chats[-1]
    return NodeCall(
        node=name,
        role=agent.ROLE,
        task=agent.TASK,
        provider=main.provider,
        model=main.model,
        ms=ms,
        usage=sum((answer.usage for answer in book.chats), Usage()).model_dump(),
        cost_usd=total_cost(answer.meta.cost_usd for answer in book.answers),
        attempts=sum(len(answer.meta.attempts) for answer in book.answers),
        effects=book.keys,
        cached=False,
        checkpoint_id=checkpoint_id,
        degraded=any(answer.meta.provider.get("degraded", False) for answer in book.chats),
    )


def _checkpoint_id(runtime: Runtime[Context]) -> str | None:
    """The checkpoint that the node ran from; its result hangs on that checkpoint until the step ends."""
    return runtime.execution_info.checkpoint_id if runtime.execution_info else None
