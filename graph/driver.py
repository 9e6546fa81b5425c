"""Drives one run through the graph: from where it stands to its end, event by event."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from graph.events import Event, Events, EventType, Once, finished_node
from graph.following import Bells
from graph.history import calls_of, thread_config, values_of
from graph.ledger import Effect, Ledger
from graph.long_texts import Thrifty
from graph.rerun import RerunPlan
from graph.sqlite import storage_errors, to_its_end, until_done
from graph.state import OUTPUT_KEYS, NodeCall
from graph.store import RunRecord, RunStore
from nodes.context import Context
from providers.errors import ConfigError, SparklioError, StorageError
from routing.budget import Budget
from routing.logs import mask_secrets, masked_description
from routing.prices import total_cost
from routing.tracing import run_span

__all__ = ["Driver", "GoesOn", "Publish", "Published"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """Where a finished run's result is."""

    result: dict[str, Any]
    result_path: Path
    page_path: Path


Publish = Callable[[RunRecord, Mapping[str, Any], Callable[[], int]], Awaitable[Published]]
GoesOn = Callable[[SparklioError], bool]


class Driver:
    """Takes what :class:`graph.runs.Runs` takes; ``ready`` sees to imports and connections, once.

    ``bells`` wake those who follow a run.
    """

    def __init__(
        self,
        graph: CompiledStateGraph[Any, Any, Any, Any],
        store: RunStore,
        ledger: Ledger,
        saver: Thrifty,
        context: Context,
        *,
        bells: Bells,
        ready: Callable[[], Awaitable[None]],
        publish: Publish,
        budget_usd: float | None,
        secrets: tuple[str, ...],
    ) -> None:
        self._graph = graph
        self._store = store
        self._ledger = ledger
        self._saver = saver
        self._context = context
        self._bells = bells
        self._ready = ready
        self._publish = publish
        self._budget_usd = budget_usd
        self._secrets = secrets

    async def session(self, record: RunRecord, goes_on: GoesOn = lambda error: False) -> AsyncGenerator[Event, None]:
        """The run's events, from where it stands to its end; see :meth:`graph.runs.Runs.drive`."""
        run_id = record.run_id
        with self._store.event_log(run_id, lambda: self._bells.ring(run_id)) as event_log:
            events = Events(run_id, event_log)
            try:
                await self._ready()
                events.start_clock()  # behind imports and connections
                once, started = await self._begin(record, events)
                yield started
                with storage_errors("the data folder"):
                    async with aclosing(self._steps(record)) as steps:
                        async for step in steps:
                            for told in once.of(step):
                                yield self._tell(events, told["type"], told["data"], told["node"])
                    published = await self._publish(record, await values_of(run_id, self._graph), events.elapsed_ms)
            except (asyncio.CancelledError, GeneratorExit):
                self._close(record, "interrupted")
                raise
            except BaseException as exc:
                if isinstance(exc, SparklioError):
                    exc.run_id = run_id
                    if goes_on(exc):
                        self._close(record, "interrupted")
                        raise
                failure = masked_description(exc, self._secrets)
                failed = self._tell(events, "run_failed", failure)
                self._close(record, "failed", failure)
                log.exception("run failed", extra={"run_id": run_id})
                yield failed
                raise
            finished = self._tell(events, "run_finished", _outcome(published))
            self._close(record, "finished")
            yield finished

    async def _begin(self, record: RunRecord, events: Events) -> tuple[Once, Event]:
        """Make the run a running one; the event that says so, and who sees to it that nothing is told twice."""
        calls = await self._stored_calls(record)
        resumed = events.told_before or bool(calls)
        record.status, record.error, record.finished_at = "running", None, None
        self._store.save(record)
        told = self._store.events(record.run_id) if events.told_before else ()
        once = Once(told, calls)
        for call in once.untold:  # for who reads the log alone; who hears run_started is told there
            self._tell(events, "node_finished", call, call["node"])
        done = [name for name in record.nodes if name in once.done]
        begin = {"mode": record.mode, "nodes": record.nodes, "resumed": resumed, "done": done}
        return once, self._tell(events, "run_started", begin)

    def _tell(self, events: Events, event_type: EventType, data: dict[str, Any], node: str | None = None) -> Event:
        """Make an event, while the run is ours. The last one is logged before the record says how the run ended, so
        that who sees this in the record finds that in the log.

        Raises:
            RunBusyError: another machine has taken it over, and with it the log.
        """
        self._store.check_held(events.run_id)
        if event_type == "node_failed":  # the error may have passed no gateway
            data = {
                key: mask_secrets(text, self._secrets) if isinstance(text, str) else text for key, text in data.items()
            }
        return events.make(event_type, data, node)

    async def _stored_calls(self, record: RunRecord) -> list[NodeCall]:
        """What the run's own agents have come to so far; of one that was just booked, nothing."""
        if record.status == "running":
            return []
        return [call for call in await calls_of(record.run_id, self._graph) if call["node"] in record.nodes]

    async def _steps(self, record: RunRecord) -> AsyncGenerator[dict[str, Any], None]:
        """The agents' own events, from where the run stands."""
        config = thread_config(record.run_id)
        plan = RerunPlan(tuple(record.nodes))
        graph_input = await self._graph_input(record, plan, config)
        if graph_input is _NOTHING_TO_RUN:
            return
        effects = await self._ledger.effects_of(record)
        budget = self._budget(record, effects)
        context = replace(
            self._context,
            stage=record.stage,
            seed=record.seed,
            run_id=record.run_id,
            start_at=plan.desk_entry,
            effects=effects,
            budget=budget,
        )
        heard: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        async def work() -> None:
            stream = self._graph.astream(
                graph_input,
                config,
                context=context,
                stream_mode=["custom", "tasks"],
                subgraphs=True,
                durability="async",
            )
            try:
                with run_span(record.run_id, record.mode):
                    async for _, mode, data in cast("AsyncIterator[tuple[Any, str, dict[str, Any]]]", stream):
                        if event := data if mode == "custom" else finished_node(data):
                            heard.put_nowait(event)
            finally:
                heard.put_nowait(None)

        working = asyncio.create_task(work())
        try:
            while (event := await heard.get()) is not None:
                yield event
            await working
        finally:
            try:
                await _ended(working, self._saver.settled(record.run_id))
            finally:
                answered = _answered_usd(record, effects)
                record.spent_usd = spent = budget.spent_usd
                record.failed_usd = None if spent is None or answered is None else spent - answered

    async def _graph_input(self, record: RunRecord, plan: RerunPlan, config: RunnableConfig) -> Any:
        """What LangGraph is to be given: the inputs, a jump, None to go on, or nothing at all."""
        snapshot = await self._graph.aget_state(config)
        if snapshot.tasks:  # not `next`: that leaves out a task that is done while its step is not
            return None
        if all(key in snapshot.values for key in OUTPUT_KEYS):
            return _NOTHING_TO_RUN
        if record.parent is None:
            return record.inputs
        if not snapshot.values:
            # vision has no way out, so a state written in its name leaves nothing to run
            await self._graph.aupdate_state(config, record.inputs, as_node="vision")
        return Command(goto=plan.goto) if plan.nodes else _NOTHING_TO_RUN

    def _budget(self, record: RunRecord, effects: Iterable[Effect]) -> Budget:
        """What the run may spend, and has spent: its record knows failed calls too, the ledger those of a killed run.

        Raises:
            ConfigError: nobody knows what it has spent, and there is a limit.
        """
        spent = total_cost([record.failed_usd, _answered_usd(record, effects)])
        if spent is None and self._budget_usd is not None:
            raise ConfigError(
                f"run {record.run_id!r} has asked models without a price, so nobody knows what it has spent",
                hint="unset RUN_BUDGET_USD to go on with this run, or start a new one",
            )
        return Budget(self._budget_usd, spent)

    def _close(
        self, record: RunRecord, status: Literal["finished", "failed", "interrupted"], error: Any = None
    ) -> None:
        """Write down how the run ended. A disk that refuses this must not hide why it ended."""
        record.status, record.error = status, error
        record.finished_at = datetime.now(UTC)
        try:
            self._store.save(record)
        except StorageError:
            log.exception("the run's record could not be written", extra={"run_id": record.run_id})


_NOTHING_TO_RUN = object()


def _outcome(published: Published) -> dict[str, Any]:
    """What run_finished tells."""
    meta = published.result["meta"]
    return {
        "result": str(published.result_path),
        "page": str(published.page_path),
        "wall_ms": meta["wall_ms"],
        "usage": meta["usage"],
        "cost_usd": meta["cost_usd"],
    }


def _answered_usd(record: RunRecord, effects: Iterable[Effect]) -> float | None:
    """What the run's own answers cost; what it keeps of its parent's is not among them."""
    return total_cost(
        effect.answer.meta.cost_usd for effect in effects if effect.answer and effect.run_id == record.run_id
    )


async def _ended(working: asyncio.Task[None], settled: Coroutine[Any, Any, None]) -> None:
    """Cancel the task and wait until nothing of it is under way any more, however often the waiting is cancelled."""
    working.cancel()
    try:
        await until_done(working)
    finally:
        await to_its_end(settled)
    if not working.cancelled():
        working.exception()  # told already, or of no interest to who leaves
