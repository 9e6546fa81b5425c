"""Waiting for a job: the websocket tells progress, polling tells the truth, and no wait is without an end.

The truth is in two places: a job stands in /queue until it is in /history, so the queue is asked first. In neither,
twice in a row, means that it is lost. The server may be away for some seconds (a restart takes ten) without harm.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, Protocol

from providers.errors import (
    AttemptTimeoutError,
    JobError,
    OverloadedError,
    ProviderError,
    ServerError,
    UnreachableError,
)
from providers.media.comfyui.errors import LostJobError
from providers.media.comfyui.events import Event, EventStream
from providers.media.comfyui.shapes import HistoryEntry, QueueState

__all__ = ["Patience", "Server", "Step", "watch"]

PASSING = (UnreachableError, OverloadedError, ServerError)
"""What a poll may meet while the server restarts or is busy."""

LAST_EVENTS_S = 0.2
"""How long to listen for steps still on their way when a poll finds the end before the websocket tells it."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for what, in seconds.

    Attributes:
        run_s: a job that runs (COMFYUI_TIMEOUT); waiting in the queue does not count.
        poll_s: between two polls; a job absent at two polls this far apart is lost.
        idle_queue_s: a job that is pending although nothing runs. The worker takes the next job at once, so it is dead.
        still_queue_s: a job that is pending while neither the queue changes nor any event comes.
        outage_s: a server that does not answer polls.
    """

    run_s: float = 300.0
    poll_s: float = 1.0
    idle_queue_s: float = 30.0
    still_queue_s: float = 900.0
    outage_s: float = 60.0


class Step(NamedTuple):
    """The sampler finished ``step`` of ``steps``."""

    step: int
    steps: int


class Server(Protocol):
    """What waiting needs of a client."""

    async def get_queue(self) -> QueueState: ...

    async def history(self, prompt_id: str) -> HistoryEntry | None: ...

    async def withdraw(self, prompt_id: str) -> None: ...


async def watch(
    server: Server, prompt_id: str, events: EventStream, patience: Patience, *, provider: str
) -> AsyncGenerator[Step | HistoryEntry, None]:
    """Steps of a submitted job as they happen and, last, its history entry, be it a success or not.

    Being cancelled leaves the job alone: it goes on in ComfyUI and can be picked up again by its id.

    Raises:
        LostJobError: it is neither in the queue nor in the history.
        JobError: it waits in a queue that does not move; it was withdrawn.
        AttemptTimeoutError: it ran longer than ``patience.run_s``; it was withdrawn.
        UnreachableError, OverloadedError, ServerError: the server has been away for ``patience.outage_s``.
    """
    job = _Watch(server, prompt_id, events, patience, provider)
    entry = None
    while entry is None:
        async for step in job.listen(patience.poll_s):
            yield step
        entry = await job.poll()
    async for step in job.listen(job.afterwards_s):
        yield step
    yield entry


class _Watch:
    """What is known of one job so far. Times are of the monotonic clock; None is "not so now"."""

    def __init__(self, server: Server, prompt_id: str, events: EventStream, patience: Patience, provider: str) -> None:
        self._server = server
        self._prompt_id = prompt_id
        self._events = events
        self._patience = patience
        self._provider = provider
        self._told_end = False
        self._started: float | None = None
        self._absent_since: float | None = None
        self._away_since: float | None = None
        self._idle_since: float | None = None
        self._last_change = time.monotonic()
        self._last_queue = QueueState()

    async def poll(self) -> HistoryEntry | None:
        """The job's history entry, or None while it is under way."""
        try:
            queue, entry = await self._ask()
        except PASSING as exc:
            self._note_outage(exc)
        else:
            self._away_since = None
            if entry is not None:
                return entry
            self._note_absence(queue)
            await self._note_queue(queue)
        if self._started is not None and time.monotonic() - self._started > self._patience.run_s:
            await self._give_up_running()
        return None

    async def _ask(self) -> tuple[QueueState, HistoryEntry | None]:
        """The queue, then the history; the history alone where that is enough."""
        if self._told_end and (entry := await self._server.history(self._prompt_id)) is not None:
            return QueueState(), entry
        queue = await self._server.get_queue()
        return queue, None if self._prompt_id in queue else await self._server.history(self._prompt_id)

    @property
    def afterwards_s(self) -> float:
        """How long to listen once the history has the job."""
        return 0.0 if self._told_end or not self._events.connected else LAST_EVENTS_S

    async def listen(self, seconds: float) -> AsyncIterator[Step]:
        """Steps for so many seconds, or until the job is said to have ended."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            event = await self._events.next(left)
            if event is None:
                continue
            self._last_change = time.monotonic()
            if event.data.get("prompt_id") != self._prompt_id:
                continue
            if _ends_job(event):
                self._told_end = True
                return
            if event.type == "execution_start":
                self._note_start()
            step = _step(event)
            if step is not None:
                yield step

    def _note_start(self) -> None:
        if self._started is None:
            self._started = time.monotonic()

    def _note_outage(self, exc: ProviderError) -> None:
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
        elif now - self._away_since > self._patience.outage_s:
            raise exc

    def _note_absence(self, queue: QueueState) -> None:
        now = time.monotonic()
        if self._prompt_id in queue:
            self._absent_since = None
        elif self._absent_since is None:
            self._absent_since = now
        # Not at the second poll whenever it comes: an event may have brought it forward.
        elif now - self._absent_since >= self._patience.poll_s:
            raise LostJobError(
                "ComfyUI no longer knows the image job",
                provider=self._provider,
                hint="it was deleted from the queue, or ComfyUI was restarted: start it again",
                details={"reason": "lost", "prompt_id": self._prompt_id},
            )

    async def _note_queue(self, queue: QueueState) -> None:
        now = time.monotonic()
        if queue != self._last_queue:
            self._last_queue, self._last_change = queue, now
        if self._prompt_id in queue.running:
            self._note_start()
        waits = self._prompt_id in queue.pending
        if not waits or queue.running:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        if self._idle_since is not None and now - self._idle_since > self._patience.idle_queue_s:
            await self._give_up_waiting("ComfyUI does not start the image: its queue waits although nothing runs")
        if waits and now - self._last_change > self._patience.still_queue_s:
            await self._give_up_waiting("ComfyUI does not start the image: its queue has not moved")

    async def _give_up_waiting(self, message: str) -> NoReturn:
        await self._server.withdraw(self._prompt_id)
        raise JobError(
            message,
            provider=self._provider,
            hint="restart ComfyUI: its worker has died or hangs",
            details={"reason": "stalled", "prompt_id": self._prompt_id},
        )

    async def _give_up_running(self) -> NoReturn:
        await self._server.withdraw(self._prompt_id)
        raise AttemptTimeoutError(
            f"the image took ComfyUI longer than {self._patience.run_s:g} s and was stopped",
            provider=self._provider,
            hint="raise COMFYUI_TIMEOUT, or choose a smaller size or fewer steps",
            details={"prompt_id": self._prompt_id},
        )


def _ends_job(event: Event) -> bool:
    if event.type == "executing":
        return event.data.get("node") is None
    return event.type in ("execution_error", "execution_interrupted")


def _step(event: Event) -> Step | None:
    value, maximum = event.data.get("value"), event.data.get("max")
    if event.type != "progress" or not isinstance(value, int | float) or not isinstance(maximum, int | float):
        return None
    return Step(int(value), int(maximum))
