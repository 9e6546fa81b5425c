"""Ctrl-C and its like while a run goes on.

The first signal cancels the run, which can be resumed. An image that somebody is making for it goes on, and is picked
up then; a second signal stops that too. A third one ends the process where it stands, and so does the time, if
something hangs: files are written whole or not at all, so nothing is left half done.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

import typer

from providers.errors import SparklioError
from routing.logs import masked_description
from sparklio.plain_text import printable

if TYPE_CHECKING:
    from graph.runs import Runs

__all__ = ["INTERRUPTED", "STOPPED_WITHIN_S", "Stop", "hear_all_stop_signals", "interruption"]

INTERRUPTED = 130
STOPPED_WITHIN_S = 2.0
"""From the first signal to the end of the process."""

_SECOND_CHANCE_S = 1.4  # the times, too, are from the first signal on
_LAST_CALL_S = 1.7
_LAST_S = 1.85
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STDERR = 2
_SHOW_CURSOR = "\x1b[?25h"


def hear_all_stop_signals() -> None:
    """Let SIGTERM and SIGHUP interrupt whatever the command does, as Ctrl-C would. Ignored ones stay so (nohup)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _as_ctrl_c)
    atexit.unregister(_hear_no_more)
    atexit.register(_hear_no_more)


def _hear_no_more() -> None:
    """All is done and said when Python takes its modules down, and by then it no longer runs handlers: a signal, or
    our own alarm, would kill the process and change its exit code.
    """
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (*_SIGNALS, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def _as_ctrl_c(_number: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGINT)  # a running event loop has one of its own
    if not callable(handler):  # ignored, as in the background of a shell without job control
        raise KeyboardInterrupt
    handler(signal.SIGINT, frame)


def interruption(run_id: str | None, *, as_json: bool, command: str | None = None) -> str:
    """What is said on stderr in the end: a sentence, or the error object. ``command`` goes on, if not with a run."""
    command = command or (f"sparklio resume {run_id}" if run_id else None)
    resume = f"go on with: {command}" if command else ""
    if not as_json:
        return "interrupted" + (f"; {resume}" if resume else "")
    body: dict[str, Any] = {"code": "interrupted", "message": "interrupted", "hint": resume, "request_id": None}
    return json.dumps({"error": {**body, "run_id": run_id} if run_id else body})


class Stop:
    """The signals that come while the ``with`` block lasts. Those that are ignored stay so (nohup).

    Handlers are Python's and not the event loop's: they outlive the loop, and act while it is busy.

    Attributes:
        run_id: the run, once it is booked.
        told: whether the user knows already that the run was interrupted.
    """

    def __init__(self, *, as_json: bool, secrets: Iterable[str] = ()) -> None:
        self.run_id: str | None = None
        self.told = False
        self._as_json = as_json
        self._secrets = tuple(secrets)
        self._count = 0
        self._first_at = 0.0
        self._again = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._before: dict[signal.Signals, Any] = {}

    @property
    def heard(self) -> bool:
        return self._count > 0

    def __enter__(self) -> Self:
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.heard and error is not None:
            return  # the process is about to end; what hangs on the way there is still to be cut short
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def cancel_this_task(self) -> None:
        """From now on the first signal cancels the running task; before, it is a KeyboardInterrupt."""
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()

    async def see_to_jobs(self, runs: Runs) -> None:
        """After the first signal: leave the run's images to be made, unless a second one comes in time."""
        if self.run_id is None:
            return
        try:
            async with asyncio.timeout(self._left(_LAST_CALL_S)):
                if await runs.open_jobs(self.run_id) and await self._comes_again():
                    await runs.cancel_jobs(self.run_id)
                    self._note("told to stop the image, too")
        except TimeoutError:
            self._note("warning: there was no time left to stop the image, and it goes on")
        except SparklioError as exc:
            said = masked_description(exc, self._secrets)["message"]
            self._note(f"warning: the image could not be stopped: {printable(said)}")

    async def _comes_again(self) -> bool:
        if not self._again.is_set():
            self._note("the image goes on being made; press Ctrl-C again to stop that too")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._again.wait(), self._left(_SECOND_CHANCE_S))
        return self._again.is_set()

    def _left(self, seconds: float) -> float:
        return max(0.0, self._first_at + seconds - time.monotonic())

    def _note(self, text: str) -> None:
        """For people; whoever reads the error object finds nothing else there."""
        if not self._as_json or sys.stderr.isatty():
            with suppress(OSError):  # who hung up has no terminal left to be told on
                typer.echo(text, err=True)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count > 2:
            self._end()
        if self._count == 1:
            self._first_at = time.monotonic()
            signal.signal(signal.SIGALRM, lambda *_: self._end())
            signal.setitimer(signal.ITIMER_REAL, _LAST_S)
        if self._loop is None or self._task is None:
            raise KeyboardInterrupt
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel if self._count == 1 else self._again.set)

    def _end(self) -> NoReturn:
        """End the process at once. Nothing here may wait: not for a lock, nor for a terminal that takes nothing."""
        words = "" if self.told else interruption(self.run_id, as_json=self._as_json) + "\n"
        with suppress(OSError, ValueError):
            if select.select([], [_STDERR], [], 0)[1]:
                os.write(_STDERR, ((_SHOW_CURSOR if os.isatty(_STDERR) else "") + words).encode())
        os._exit(INTERRUPTED)
