"""One agent alone: its narrow input in, the keys that it writes out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict, cast, get_origin, get_type_hints

from langgraph.graph import END, START, StateGraph

from graph.flow import AGENTS
from graph.observe import observed
from graph.rerun import READS, WRITES
from graph.state import PageState
from nodes.context import Context
from providers.errors import InputError, SparklioError, StorageError, UnknownNameError, error_from
from routing.fingerprints import digest
from routing.logs import masked_description
from sparklio.studio import Sparklio
from sparklio.worker.orders import GivenBackError, Orders, StoppedError, TakenOverError, under_beat

__all__ = ["answer_of_agent"]

_POLL_S = 0.5


class _Whole(PageState, total=False):
    revision: dict[str, Any] | None


class _Asked(TypedDict):
    agent: str
    input: dict[str, Any]


async def answer_of_agent(
    studio: Sparklio, orders: Orders, node_id: str, agent: str, input_data: Mapping[str, Any], stopping: asyncio.Event
) -> dict[str, Any]:
    """What the agent writes, or ``{"error": {...}}``.

    Args:
        studio: entered already.
        orders: where it is noted that the agent is at work, and what it has come to.
        node_id: names this execution: who asks for it again gets the same answer, and no call is made twice.
        agent: one of the six.
        input_data: the keys of the state that the agent reads.
        stopping: set once this process is to end.
    """
    try:
        _check(agent, input_data)
        key = f"node:{digest(node_id)}"
        await asyncio.to_thread(orders.place, key, json.dumps(_Asked(agent=agent, input=dict(input_data))))
        return await _answer(studio, orders, key, stopping)
    except SparklioError as exc:
        return {"error": masked_description(exc, studio.settings.secrets)}


def _check(agent: str, input_data: Mapping[str, Any]) -> None:
    if agent not in AGENTS:
        raise UnknownNameError("agent", agent, AGENTS)
    reads = f"it reads {', '.join(sorted(READS[agent]))}"
    hints = get_type_hints(getattr(AGENTS[agent], f"{agent.capitalize()}Input"), include_extras=True)
    needed = {key for key, hint in hints.items() if get_origin(hint) is not NotRequired}
    if missing := sorted(needed - input_data.keys()):
        raise InputError(f"agent {agent!r} needs {', '.join(missing)}", hint=reads)
    if unknown := sorted(input_data.keys() - READS[agent]):
        raise InputError(f"agent {agent!r} does not read {', '.join(unknown)}", hint=reads)


async def _answer(studio: Sparklio, orders: Orders, key: str, stopping: asyncio.Event) -> dict[str, Any]:
    """What stands there already, what another process is about to answer, or what we do."""
    while True:
        standing = await asyncio.to_thread(orders.look, key)
        if standing.answer is not None:
            answer: dict[str, Any] = json.loads(standing.answer)
            return answer
        if standing.error is not None:  # another process' since we have asked
            raise error_from(standing.error)
        request = await asyncio.to_thread(orders.take, key)
        if request is not None:
            return await _do(studio, orders, key, json.loads(request), stopping)
        await asyncio.sleep(_POLL_S)


async def _do(studio: Sparklio, orders: Orders, key: str, asked: _Asked, stopping: asyncio.Event) -> dict[str, Any]:
    try:
        answer = await under_beat(orders, key, _written(studio, key, asked), stopping)
    except (GivenBackError, StoppedError, TakenOverError) as exc:
        raise StorageError("the worker was stopped before the agent was done", hint="ask again") from exc
    except SparklioError as exc:
        await asyncio.to_thread(orders.failed, key, masked_description(exc, studio.settings.secrets))
        raise
    await asyncio.to_thread(orders.answered, key, json.dumps(answer, ensure_ascii=False))
    return answer


async def _written(studio: Sparklio, thread_id: str, asked: _Asked) -> dict[str, Any]:
    """The agent's own keys, by a graph that is this agent; its calls are recorded as a run's are."""
    name = asked["agent"]
    graph = StateGraph(_Whole, context_schema=Context)
    graph.add_node(name, observed(name, AGENTS[name]), input_schema=getattr(AGENTS[name], f"{name.capitalize()}Input"))
    graph.add_edge(START, name)
    graph.add_edge(name, END)
    context = Context(
        llm=studio.gateways.llm,
        media=studio.gateways.media,
        run_id=thread_id,
        seed=int(digest(thread_id)[:7], 16),
        effects=await studio.runs.ledger.open(thread_id),
    )
    state = await graph.compile().ainvoke(cast("_Whole", asked["input"]), context=context)
    return {written: state[written] for written in sorted(WRITES[name])}
