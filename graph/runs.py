"""Runs: start, stream, resume, rerun, history. Every face of Sparklio is a thin shell around this."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, aclosing, asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import randbits
from typing import Any, get_args

from graph.database import Database
from graph.driver import Driver, GoesOn, Publish
from graph.events import Event
from graph.flow import AGENTS, build_graph
from graph.following import Bells, follow
from graph.history import Point, points_of, values_of
from graph.inputs import RunInput
from graph.ledger import Ledger
from graph.planning import Planner, Preview, as_read
from graph.rerun import NODES
from graph.runlog import run_log
from graph.sqlite import to_its_end
from graph.store import Parent, RunRecord, RunStore, Status
from nodes import vision
from nodes.context import Context
from providers.errors import (
    InputError,
    RunBusyError,
    RunExistsError,
    SparklioError,
    UnknownNameError,
    UsageError,
)
from routing.contracts import ChatGateway, ImageGateway, ImageRequest, LLMOptions, LLMRequest, Mode, Stage

__all__ = ["Event", "Point", "Runs"]

log = logging.getLogger(__name__)

_LEAVING_S = 1.0


class Runs:
    """Drives the compiled graph and keeps the book of runs.

    Args:
        store: the runs' folders.
        database: one per process and event loop.
        context: gateways that every run uses.
        mode: written into each record; a run is resumed in the mode that it was started in.
        read_input: reads an input file, and stores its photo or only tells the id that it would have.
        publish: makes result and page of a finished state; gets the record, the state and a clock (ms of this run).
        prepare: imports and connections that the routes need, made once, before the first run starts its clock.
        budget_usd: what one run may spend, in US dollars; None: no limit.
        secrets: values that no log may hold.

    Attributes:
        bells: ring for who follows a run here.
        database: where checkpoints and calls are kept.
        ledger: what every call came to.
    """

    def __init__(
        self,
        store: RunStore,
        database: Database,
        context: Context,
        *,
        mode: Mode,
        read_input: Callable[[Path, bool], RunInput],
        publish: Publish,
        prepare: Callable[[], Awaitable[None]],
        budget_usd: float | None = None,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.store = store
        self.database = database
        self.ledger = Ledger(database)
        self.graph = build_graph().compile(checkpointer=database.saver)
        self._context = context
        self.mode: Mode = mode
        self._planner = Planner(self.ledger, context, read_input)
        self.bells = Bells()
        self._driver = Driver(
            self.graph,
            store,
            self.ledger,
            database.saver,
            context,
            bells=self.bells,
            ready=self._ready,
            publish=publish,
            budget_usd=budget_usd,
            secrets=secrets,
        )
        self._secrets = secrets
        self._prepare = prepare
        self._prepared = False

    async def start(
        self,
        inputs: RunInput,
        *,
        run_id: str | None = None,
        stage: Stage = "draft",
        out: Path | None = None,
        input_file: Path | None = None,
        status: Status = "running",
        keeper: str | None = None,
        batch: str | None = None,
        request: str | None = None,
    ) -> RunRecord:
        """Book a new run with a fresh seed; :meth:`drive` runs it. A rerun may read ``input_file`` again.

        Args:
            inputs: what the run starts from.
            run_id: None: one is made.
            stage: which routing rules apply.
            out: folder of the result; None: the run's own.
            input_file: where the inputs were read.
            status: "running" for who drives it at once, "queued" for who does so later.
            keeper: see :class:`RunRecord`.
            batch: see :class:`RunRecord`.
            request: see :class:`RunRecord`.

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
            input_file=as_read(input_file, inputs) if input_file else None,
            out=out,
            status=status,
            keeper=keeper,
            batch=batch,
            request=request,
        )

    async def start_rerun(
        self,
        run_id: str,
        *,
        start_at: str | None,
        changes: Mapping[str, Any],
        out: Path | None = None,
        status: Status = "running",
        keeper: str | None = None,
        request: str | None = None,
    ) -> RunRecord:
        """Book a rerun of ``run_id``: a run of its own with its parent's state, changed.

        Without a node and a change it runs what is stale (see :meth:`preview_rerun`), which may be nothing. ``status``,
        ``keeper`` and ``request`` are as in :meth:`start`.

        Raises:
            UnknownNameError: no such run or node.
            UsageError: the parent is not finished and lacks what is kept, or a change would be overwritten.
            InputError: a change does not fit the state.
        """
        parent = self.store.load(run_id)
        planned = await self._planner.plan(parent, await self.values(run_id), start_at, changes, keep_photo=True)
        return await self._book_under(
            lambda: self.store.next_member(run_id),
            None,
            stage=parent.stage,
            parent=Parent(run_id=run_id, start_at=planned.plan.start_at),
            nodes=list(planned.plan.nodes),
            changes=dict(changes),
            inputs=planned.inputs,
            input_file=planned.input_file,
            out=out,
            status=status,
            keeper=keeper,
            request=request,
        )

    async def preview_rerun(
        self, run_id: str, *, start_at: str | None = None, changes: Mapping[str, Any] | None = None
    ) -> Preview:
        """What :meth:`start_rerun` would run, why, and what that cost the last time. Raises as that does."""
        parent = self.store.load(run_id)
        return await self._planner.preview(parent, await self.values(run_id), start_at, changes or {})

    async def _book_under(
        self, free_id: Callable[[], str], wished_id: str | None, *, out: Path | None, **what: Any
    ) -> RunRecord:
        """A record under an id that is free: runs of one moment may draw the same one, and the later draws again."""
        while True:
            name = free_id()
            record = RunRecord(
                run_id=name, mode=self.mode, seed=randbits(31), out=out or self.store.folder(name), **what
            )
            try:
                await self._book(record)
            except RunExistsError:
                if wished_id is not None:
                    raise
                continue
            return record

    async def _ready(self) -> None:
        """Imports and connections, once.

        Raises:
            ConfigError: a key, a package or an option is wrong without which no call works.
        """
        if not self._prepared:
            await self._prepare()
            self._prepared = True

    async def _book(self, record: RunRecord) -> None:
        """Refuse what cannot end well before anything is paid for, then write the record.

        A folder that somebody removed by hand leaves its checkpoints behind; the new run starts without them. Of runs
        that machines share nothing can be left, and one of them may have begun this run by then.
        """
        await self._ready()
        options = LLMOptions(stage=record.stage)
        for agent in (AGENTS[name] for name in record.nodes):  # whether each has a route
            await self._llm.fingerprint(LLMRequest(role=agent.ROLE, task=agent.TASK, options=options))
        if "vision" in record.nodes:
            await self._media.check(vision.planned_request(record.inputs.get("image_input", {})))
        if self.store.has_folder(record):
            self.store.check_folder(record.out)
        if self.store.shared:
            await to_its_end(asyncio.to_thread(self.store.create, record))
        else:
            self.store.create(record)
        try:
            if not self.store.shared:
                await self.database.forget(record.run_id)
            await self.ledger.effects_of(record)
        except BaseException:  # who asked for it is told that there is none
            self.store.discard(record.run_id)
            raise

    async def open_jobs(self, run_id: str) -> int:
        """How many images this run has ordered and not received, so that they may be under way without it."""
        return len(await self._open_orders(run_id))

    async def cancel_jobs(self, run_id: str) -> int:
        """Stop the images that this run has ordered and not received; how many they were.

        Raises:
            ProviderError: a service cannot be asked.
        """
        orders = await self._open_orders(run_id)
        for order in orders:
            await self._media.cancel(order)
        return len(orders)

    async def _open_orders(self, run_id: str) -> list[ImageRequest]:
        """Of services that go on when nobody waits any more."""
        effects = await self.ledger.load(run_id)
        mine = [effect.request for effect in effects if effect.answer is None and effect.run_id == run_id]
        return [request for request in mine if isinstance(request, ImageRequest) and self._media.goes_on(request)]

    @property
    def _llm(self) -> ChatGateway:
        if self._context.llm is None:
            raise RuntimeError("runs need both gateways")
        return self._context.llm

    @property
    def _media(self) -> ImageGateway:
        if self._context.media is None:
            raise RuntimeError("runs need both gateways")
        return self._context.media

    def resumable(self, run_id: str) -> RunRecord:
        """The record of a run that is to be resumed (or is finished already).

        Raises:
            UnknownNameError: there is no such run.
            UsageError: it was started in another mode.
        """
        record = self.store.load(run_id)
        if record.status != "finished" and record.mode != self.mode:
            raise UsageError(
                f"run {run_id!r} was started in {record.mode}, and this is {self.mode}",
                hint=f"resume it with GENERATOR_MODE={record.mode}",
            )
        return record

    async def drive(
        self,
        record: RunRecord,
        *,
        goes_on: GoesOn = lambda error: False,
        begin: Callable[[], Awaitable[object]] | None = None,
    ) -> AsyncGenerator[Event, None]:
        """Run a booked or interrupted run to its end, yielding its events.

        One that is finished yields nothing, nor does one that has failed or was cancelled since ``record`` was read.
        Closing the generator stops the run; it can be resumed.

        Args:
            record: the run.
            goes_on: whether somebody goes on with the run after this error, so that nobody is to be told of it.
            begin: awaited once the run is held, before anything is done for it; what it raises leaves the run as it is.

        Raises:
            RunBusyError: somebody runs it already.
            SparklioError: the run failed, after the event run_failed, or is interrupted, as ``goes_on`` says;
                ``error.run_id`` names it.
        """
        run_id = record.run_id
        try:
            async with self._owned(run_id):
                status = self.store.read(run_id).status
                if status == "finished" or (status in ("failed", "cancelled") and status != record.status):
                    return
                if begin is not None:
                    await begin()
                with self._logging(record), self.bells.driving(run_id):
                    async with aclosing(self._driver.session(record, goes_on)) as session:
                        async for event in session:
                            yield event
        except SparklioError as exc:
            exc.run_id = run_id
            raise

    def _logging(self, record: RunRecord) -> AbstractContextManager[None]:
        if not self.store.has_folder(record):
            return nullcontext()
        return run_log(self.store.folder(record.run_id) / "run.log", record.run_id, self._secrets)

    def follow(self, run_id: str, after: int = 0) -> AsyncGenerator[Event, None]:
        """The events of a run after number ``after``, whoever runs it: those of before, then those that come.

        Ends when the run does, or is interrupted; of one that is over, behind its last event. Who waits in a queue is
        waited for. Leaving changes nothing for the run.

        Raises:
            UnknownNameError: there is no such run; said at once.
            InputError: ``after`` is negative, or ``run_id`` not an id.
            StorageError: the log or the record cannot be read.
        """
        if after < 0:
            raise InputError(
                f"{after} is no number of an event", hint="0 for all events, or the last seq that you have"
            )
        self.store.read(run_id)
        return follow(self.store, run_id, after, self.bells)

    def cancelled(self, run_id: str) -> RunRecord:
        """Mark a run that nobody runs as stopped on purpose; a finished one stays finished. Returns its record.

        Raises:
            UnknownNameError: there is no such run.
            RunBusyError: it is being run.
            StorageError: the record cannot be written.
        """
        self.store.read(run_id)
        with self.store.lock(run_id):
            record = self.store.read(run_id)
            if record.status not in ("finished", "cancelled"):
                record.status, record.finished_at = "cancelled", datetime.now(UTC)
                self.store.save(record)
        with suppress(RuntimeError):  # in a thread: who follows the run looks again by themselves
            asyncio.get_running_loop()
            self.bells.ring(run_id)
        return record

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
            stack.callback(self.database.texts.release, run_id)
            self.database.texts.release(run_id)  # while nobody held the run, others may have deleted it
            yield

    async def values(self, run_id: str) -> dict[str, Any]:
        """The run's present state."""
        return await values_of(run_id, self.graph)

    async def history(self, run_id: str) -> list[Point]:
        """Checkpoints of the run's whole family, each member's in the order in which they were made.

        Raises:
            UnknownNameError: there is no such run.
        """
        family = self.store.family(run_id)
        return [point for member in family for point in await points_of(member, self.graph, self.database.saver)]
