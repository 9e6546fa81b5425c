"""Makes an agent observable: its events, and the record of what it cost, without a word of it in the agent's file."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from langgraph.runtime import Runtime

from graph.default_gateways import default_gateways
from graph.state import NodeCall
from nodes.context import Context
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
from routing.prices import total_cost

__all__ = ["observed"]


class _AgentModule(Protocol):
    ROLE: str
    TASK: str


class Node(Protocol):
    async def __call__(self, state: Any, runtime: Runtime[Context]) -> dict[str, Any]: ...


@dataclass
class _Book:
    """The gateways as one agent sees them; keeps the answers that it got."""

    llm: ChatGateway
    media: ImageGateway
    chats: list[LLMAnswer] = field(default_factory=list)
    costs: list[float | None] = field(default_factory=list)
    attempts: int = 0

    async def generate(
        self, request: LLMRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> LLMAnswer:
        answer = await self.llm.generate(request, on_progress, budget=budget)
        self.chats.append(answer)
        self.costs.append(answer.meta.cost_usd)
        self.attempts += len(answer.meta.attempts)
        return answer

    async def generate_image(
        self, request: ImageRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> ImageAnswer:
        answer = await self.media.generate_image(request, on_progress, budget=budget)
        self.costs.append(answer.meta.cost_usd)
        self.attempts += len(answer.meta.attempts)
        return answer

    async def check(self, request: ImageRequest) -> None:
        await self.media.check(request)


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
            book = _Book(context.llm, context.media)
        else:
            gateways = await default_gateways()
            book = _Book(context.llm or gateways.llm, context.media or gateways.media)
        emit("node_started", {"role": agent.ROLE, "task": agent.TASK})
        started = time.perf_counter()
        try:
            watched = replace(context, llm=book, media=book, on_progress=on_progress)
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
        cost_usd=total_cost(book.costs),
        attempts=book.attempts,
        cached=False,
        checkpoint_id=checkpoint_id,
        degraded=any(answer.meta.provider.get("degraded", False) for answer in book.chats),
    )


def _checkpoint_id(runtime: Runtime[Context]) -> str | None:
    """The checkpoint that the node ran from; its result hangs on that checkpoint until the step ends."""
    return runtime.execution_info.checkpoint_id if runtime.execution_info else None
