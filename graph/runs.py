"""Runs: start, stream, resume, rerun, history. Every face of Sparklio is a thin shell around this."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import randbits
from typing import Any, Literal, TypedDict, cast, get_args

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.types import Command

from graph.checkpoints import storage_errors
from graph.flow import build_graph
from graph.history import Point, calls_of, points_of, thread_config
from graph.inputs import RunInput
from graph.rerun import NODES, RerunPlan, plan_rerun, seeded_state
from graph.runlog import run_log
from graph.state import OUTPUT_KEYS
from graph.store import Parent, RunRecord, RunStore
from nodes import vision
from nodes.context import Context
from providers.errors import (
    ConfigError,
    RunBusyError,
    RunExistsError,
    SparklioError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from routing.budget import Budget
from routing.contracts import Mode, Stage
from routing.logs import masked_description
from routing.prices import total_cost

__all__ = ["Event", "EventType", "Point", "Published", "Runs"]

log = logging.getLogger(__name__)

EventType = Literal[
    "run_started",
    "node_started",
    "token",
    "image_progress",
    "node_finished",
    "node_failed",
    "run_finished",
    "run_failed",
]
_LEAVING_S = 1.0
_LOGGED = {"node_started", "node_finished", "node_failed"}


class Event(TypedDict):
    """One thing that happened. ``elapsed_ms`` counts from this session's run_started; ``at`` is UTC, ISO 8601."""

    seq: int
    run_id: str
    type: EventType
    node: str | None
    at: str
    elapsed_ms: int
    data: dict[str, Any]


@dataclass(frozen=True)
class Published:
    """Where a finished run's result is."""

    result: dict[str, Any]
    result_path: Path
    page_path: Path


Publish = Callable[[RunRecord, Mapping[str, Any], Callable[[], int]], Awaitable[Published]]


class _Events:
    """Numbers and dates the events of one session of a run."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._seq = 0
        self._started = time.perf_counter()

    def elapsed_ms(self) -> int:
        return round((time.perf_counter() - self._started) * 1000)

    def make(self, event_type: EventType, data: dict[str, Any], node: str | None = None) -> Event:
        self._seq += 1
        if event_type in _LOGGED:
            log.info("%s %s %s", node, event_type, data, extra={"run_id": self._run_id})
        return Event(
            seq=self._seq,
            run_id=self._run_id,
            type=event_type,
            node=node,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            elapsed_ms=self.elapsed_ms(),
            data=data,
        )


class Runs:
    """Drives the compiled graph and keeps the book of runs.

    Args:
        store: the runs' folders.
        checkpointer: one per process and event loop.
        context: gateways that every run uses.
        mode: written into each record; a run is resumed in the mode that it was started in.
        publish: makes result and page of a finished state; gets the record, the state and a clock (ms of this run).
        prepare: imports and connections that the routes need, made once, before the first run starts its clock.
        budget_usd: what one run may spend, in US dollars; None: no limit.
        secrets: values that no log may hold.
    """

    def __init__(
        self,
        store: RunStore,
        checkpointer: BaseCheckpointSaver[str],
        context: Context,
        *,
        mode: Mode,
        publish: Publish,
        prepare: Callable[[], Awaitable[None]],
        budget_usd: float | None = None,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.store = store
        self._checkpointer = checkpointer
        self.graph = build_graph().compile(checkpointer=checkpointer)
        self._context = context
        self._mode: Mode = mode
        self._publish = publish
        self._prepare = prepare
        self._budget_usd = budget_usd
        self._secrets = secrets
        self._prepared = False

    async def start(
        self, inputs: RunInput, *, run_id: str | None = None, stage: Stage = "draft", out: Path | None = None
    ) -> RunRecord:
        """Book a new run with a fresh seed; :meth:`drive` runs it.

        Raises:
            RunExistsError: the id is taken.
            UsageError: it is not an id, or there is no such stage or workflow.
            StorageError: the data folder, or ``out``, cannot be written.
        """
        if stage not in get_args(Stage):
            raise UnknownNameError("stage", stage, get_args(Stage))
        return await self._book_under(
            lambda: self.store.new_id(run_id),
            run_id,
            stage=stage,
            nodes=list(NODES),
            inputs=dict(inputs.to_state()),
            out=out,
        )

    async def start_rerun(
        self, run_id: str, *, start_at: str | None, changes: Mapping[str, Any], out: Path | None = None
    ) -> RunRecord:
        """Book a rerun of ``run_id``: a run of its own with its parent's state, changed.

        Raises:
            UnknownNameError: no such run or node.
            UsageError: nothing to rerun from, or a change that the rerun would overwrite.
            InputError: a change does not fit the state.
        """
        parent = self.store.load(run_id)
        plan = plan_rerun(start_at, changes)
        inputs = seeded_state(plan, await self.values(run_id), changes)
        return await self._book_under(
            lambda: self.store.next_member(run_id),
            None,
            stage=parent.stage,
            parent=Parent(run_id=run_id, start_at=plan.start_at),
            nodes=list(plan.nodes),
            changes=dict(changes),
            inputs=inputs,
            out=out,
        )

    async def _book_under(
        self, free_id: Callable[[], str], wished_id: str | None, *, out: Path | None, **what: Any
    ) -> RunRecord:
        """A record under an id that is free: runs of one moment may draw the same one, and the later draws again."""
        while True:
            name = free_id()
            record = RunRecord(
                run_id=name, mode=self._mode, seed=randbits(31), out=out or self.store.folder(name), **what
            )
            try:
                await self._book(record)
            except RunExistsError:
                if wished_id is not None:
                    raise
                continue
            return record

    async def _book(self, record: RunRecord) -> None:
        """Refuse what cannot end well before anything is paid for, then write the record.

        A folder that somebody removed by hand leaves its checkpoints behind; the new run starts without them.
        """
        if "vision" in record.nodes and self._context.media is not None:
            await self._context.media.check(vision.planned_request(record.inputs.get("image_input", {})))
        self.store.check_folder(record.out)
        self.store.create(record)
        with storage_errors("the checkpoint database"):
            await self._checkpointer.adelete_thread(record.run_id)

    def resumable(self, run_id: str) -> RunRecord:
        """The record of a run that is to be resumed (or is finished already).

        Raises:
            UnknownNameError: there is no such run.
            UsageError: it was started in another mode.
        """
        record = self.store.load(run_id)
        if record.status != "finished" and record.mode != self._mode:
            raise UsageError(
                f"run {run_id!r} was started in {record.mode}, and this is {self._mode}",
                hint=f"resume it with GENERATOR_MODE={record.mode}",
            )
        return record

    async def drive(self, record: RunRecord) -> AsyncGenerator[Event, None]:
        """Run a booked or interrupted run to its end, yielding its events; a finished one yields nothing.

        Closing the generator stops the run; it can be resumed.

        Raises:
            RunBusyError: somebody runs it already.
            SparklioError: the run failed, after the event run_failed; ``error.run_id`` names it.
        """
        run_id = record.run_id
        try:
            async with self._owned(run_id):
                if self.store.read(run_id).status == "finished":
                    return
                with run_log(self.store.folder(run_id) / "run.log", run_id, self._secrets):
                    async with aclosing(self._session(record)) as session:
                        async for event in session:
                            yield event
        except SparklioError as exc:
            exc.run_id = run_id
            raise

    @asynccontextmanager
    async def _owned(self, run_id: str) -> AsyncGenerator[None, None]:
        """Hold the run's lock; a stream that was just left needs a moment of the event loop to let its run go."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _LEAVING_S
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self.store.lock(run_id))
                    break
                except RunBusyError:
                    if loop.time() > until:
                        raise
                await asyncio.sleep(0.02)
            yield

    async def _session(self, record: RunRecord) -> AsyncGenerator[Event, None]:
        run_id = record.run_id
        resumed = record.status != "running"
        events = _Events(run_id)
        try:
            if not self._prepared:
                await self._prepare()
                self._prepared = True
                events = _Events(run_id)  # the clock starts behind imports and connections
            record.status, record.error = "running", None
            self.store.save(record)
            done = await self._done(record) if resumed else []
            yield events.make(
                "run_started", {"mode": record.mode, "nodes": record.nodes, "resumed": resumed, "done": done}
            )
            with storage_errors("the data folder"):
                async with aclosing(self._steps(record)) as steps:
                    async for step in steps:
                        yield events.make(step["type"], step["data"], step["node"])
                published = await self._publish(record, await self.values(run_id), events.elapsed_ms)
        except (asyncio.CancelledError, GeneratorExit):
            self._close(record, "interrupted")
            raise
        except BaseException as exc:
            if isinstance(exc, SparklioError):
                exc.run_id = run_id
            failure = masked_description(exc, self._secrets)
            self._close(record, "failed", failure)
            log.exception("run failed", extra={"run_id": run_id})
            yield events.make("run_failed", failure)
            raise
        self._close(record, "finished")
        meta = published.result["meta"]
        yield events.make(
            "run_finished",
            {
                "result": str(published.result_path),
                "page": str(published.page_path),
                "wall_ms": meta["wall_ms"],
                "usage": meta["usage"],
                "cost_usd": meta["cost_usd"],
            },
        )

    async def _steps(self, record: RunRecord) -> AsyncGenerator[dict[str, Any], None]:
        """The agents' own events, from where the run stands."""
        config = thread_config(record.run_id)
        plan = RerunPlan(tuple(record.nodes))
        graph_input = await self._graph_input(record, plan, config)
        if graph_input is _NOTHING_TO_RUN:
            return
        budget = await self._budget(record)
        context = replace(
            self._context,
            stage=record.stage,
            seed=record.seed,
            run_id=record.run_id,
            start_at=plan.desk_entry,
            budget=budget,
        )
        heard: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        async def work() -> None:
            stream = self.graph.astream(
                graph_input,
                config,
                context=context,
                stream_mode=["custom", "tasks"],
                subgraphs=True,
                durability="async",
            )
            try:
                async for _, mode, data in cast("AsyncIterator[tuple[Any, str, dict[str, Any]]]", stream):
                    if event := data if mode == "custom" else _finished(data):
                        heard.put_nowait(event)
            finally:
                heard.put_nowait(None)

        working = asyncio.create_task(work())
        try:
            while (event := await heard.get()) is not None:
                yield event
            await working
        finally:
            record.spent_usd = budget.spent_usd
            await _ended(working)

    async def _graph_input(self, record: RunRecord, plan: RerunPlan, config: RunnableConfig) -> Any:
        """What LangGraph is to be given: the inputs, a jump, None to go on, or nothing at all."""
        snapshot = await self.graph.aget_state(config)
        if snapshot.tasks:  # not `next`: that leaves out a task that is done while its step is not
            return None
        if all(key in snapshot.values for key in OUTPUT_KEYS):
            return _NOTHING_TO_RUN
        if record.parent is None:
            return record.inputs
        if not snapshot.values:
            # vision has no way out, so a state written in its name leaves nothing to run
            await self.graph.aupdate_state(config, record.inputs, as_node="vision")
        return Command(goto=plan.goto) if plan.nodes else _NOTHING_TO_RUN

    async def _budget(self, record: RunRecord) -> Budget:
        """What the run may spend, and has spent: its record knows failed calls too, but not the last of a killed run.

        Raises:
            ConfigError: nobody knows what it has spent, and there is a limit.
        """
        calls = await calls_of(record.run_id, self.graph)
        finished = total_cost(call["cost_usd"] for call in calls if not call["cached"])
        spent = None if finished is None or record.spent_usd is None else max(finished, record.spent_usd)
        if spent is None and self._budget_usd is not None:
            raise ConfigError(
                f"run {record.run_id!r} has asked models without a price, so nobody knows what it has spent",
                hint="unset RUN_BUDGET_USD to go on with this run, or start a new one",
            )
        return Budget(self._budget_usd, spent)

    async def _done(self, record: RunRecord) -> list[str]:
        """The agents of this run that need not run again."""
        done = {call["node"] for call in await calls_of(record.run_id, self.graph)}
        return [name for name in record.nodes if name in done]

    async def values(self, run_id: str) -> dict[str, Any]:
        """The run's present state."""
        return dict((await self.graph.aget_state(thread_config(run_id))).values)

    async def history(self, run_id: str) -> list[Point]:
        """Checkpoints of the run's whole family, each member's in the order in which they were made.

        Raises:
            UnknownNameError: there is no such run.
        """
        family = self.store.family(run_id)
        return [point for member in family for point in await points_of(member, self.graph, self._checkpointer)]

    def _close(
        self, record: RunRecord, status: Literal["finished", "failed", "interrupted"], error: Any = None
    ) -> None:
        """Write down how the run ended. A disk that refuses this must not hide why it ended."""
        record.status, record.error = status, error
        record.finished_at = datetime.now(UTC)
        try:
            self.store.save(record)
        except StorageError:
            log.exception("the run's record could not be written", extra={"run_id": record.run_id})


_NOTHING_TO_RUN = object()


def _finished(task: dict[str, Any]) -> dict[str, Any] | None:
    """The event of an agent whose result LangGraph has taken; None for all else that it tells of tasks."""
    calls = (task.get("result") or {}).get("calls")
    if task["name"] not in NODES or not calls:
        return None
    return {"type": "node_finished", "node": task["name"], "data": calls[-1]}


async def _ended(working: asyncio.Task[None]) -> None:
    """Cancel the task and wait until it has cleaned up behind itself, however often the waiting is cancelled."""
    working.cancel()
    again: asyncio.CancelledError | None = None
    while not working.done():
        try:
            await asyncio.wait({working})
        except asyncio.CancelledError as exc:
            again = exc
    if not working.cancelled():
        working.exception()  # told already, or of no interest to who leaves
    if again is not None:
        raise again
