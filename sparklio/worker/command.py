"""The commands ``worker``, ``dead-letters`` and ``retry``."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from providers.errors import BrokerError, SparklioError, UsageError
from sparklio import terminal
from sparklio.options import AsJson
from sparklio.worker.app import check_extra

if TYPE_CHECKING:
    from types import FrameType

    from routing.settings import Settings
    from sparklio.worker.queue import Queue
    from sparklio.worker.supervisor import Plan, Supervisor

__all__ = ["commands"]

commands = typer.Typer()

_KINDS = ("text", "image")
_REACHED_WITHIN_S = 10.0
_SOFT_SHARE = 0.9
_LOOKS_EVERY_S = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@commands.command()
def worker(
    context: typer.Context,
    queues: Annotated[str, typer.Option(help="What it works on: text, image, or both.")] = "text,image",
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, help="Texts at a time; of images it makes one.")] = 2,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Takes images for this device, too: device of a media rule.")
    ] = None,
    time_limit_s: Annotated[
        float,
        typer.Option(
            "--time-limit", metavar="S", min=1, help="Seconds that a run may take; after 9 of 10 of them it is ended."
        ),
    ] = 600,
    mode: Annotated[Literal["mock", "live"] | None, typer.Option("--mode", help="Beats GENERATOR_MODE.")] = None,
) -> None:
    """Work on the runs of other machines until a signal stops it; what is under way then goes on elsewhere."""
    check_extra()
    from routing.settings import load_settings
    from sparklio.worker.supervisor import Plan

    settings = load_settings({"GENERATOR_MODE": mode})
    terminal.keep_secret(settings.secrets)
    terminal.warn(settings.warnings)
    kinds = _kinds(queues)
    _wait_for_both(settings)
    verbose = bool(context.find_root().params["verbose"])
    _log(settings, verbose=verbose)
    _work(settings, [Plan.of(kind, concurrency, device) for kind in kinds], time_limit_s, verbose=verbose)


def _kinds(queues: str) -> list[str]:
    kinds = [word.strip() for word in queues.split(",") if word.strip()]
    if not kinds or (unknown := [kind for kind in kinds if kind not in _KINDS]):
        raise UsageError(
            f"--queues {queues!r} is not a list of queues" + (f": {', '.join(unknown)}" if kinds else ""),
            hint=f"choose of: {', '.join(_KINDS)}; a GPU's own queue: --queues image --device NAME",
        )
    return list(dict.fromkeys(kinds))


def _wait_for_both(settings: Settings) -> None:
    """Look for the database and the broker for a while.

    Raises:
        ConfigError: one is not set.
        StorageError, BrokerError: one does not answer.
    """
    from graph.postgres import connected, postgres_errors
    from sparklio.worker.broker import broker_errors, connect, needed_broker

    url = needed_broker(settings)

    def look() -> None:
        with postgres_errors("the database"), connected(settings.database_url or "") as connection:
            connection.execute("SELECT 1")
        with connect(url) as client, broker_errors(settings):
            client.ping()

    until = time.monotonic() + _REACHED_WITHIN_S
    while True:
        try:
            return look()
        except UsageError:
            raise
        except SparklioError:
            if time.monotonic() > until:
                raise
        time.sleep(0.5)


def _work(settings: Settings, plans: list[Plan], time_limit_s: float, *, verbose: bool) -> None:
    from sparklio import __version__
    from sparklio.worker.feeder import feeding
    from sparklio.worker.supervisor import Limits, Supervisor

    supervisor = Supervisor(
        plans,
        mode=settings.mode,
        version=__version__,
        environ={**os.environ, "GENERATOR_MODE": settings.mode},
        limits=Limits(time_limit_s * _SOFT_SHARE, time_limit_s),
        verbose=verbose,
    )
    with _Signals() as signals, feeding(settings, before_look=supervisor.announce):
        try:
            supervisor.see_to()
            _tell(settings, plans)
            while not signals.count:
                time.sleep(_LOOKS_EVERY_S)
                supervisor.see_to()
            _stop(supervisor, signals, settings)
        finally:
            supervisor.kill()
            supervisor.close()
    terminal.say("stopped")


def _stop(supervisor: Supervisor, signals: _Signals, settings: Settings) -> None:
    """Warm at first: runs under way are given back. Cold at the second signal, or when the time is over."""
    from sparklio.worker.supervisor import STOPPED_WITHIN_S

    terminal.note("stopping; what is under way is given back (again: at once)")
    supervisor.stop()
    _sign_off(supervisor, settings)
    until = time.monotonic() + STOPPED_WITHIN_S
    while not supervisor.all_ended() and time.monotonic() < until and signals.count < 2:
        time.sleep(_LOOKS_EVERY_S)


def _sign_off(supervisor: Supervisor, settings: Settings) -> None:
    """So that nobody counts on it; where Redis is away it forgets us by itself."""
    from sparklio.worker.broker import broker_errors, connect, needed_broker

    with suppress(BrokerError), connect(needed_broker(settings)) as client, broker_errors(settings):
        supervisor.withdraw(client)


class _Signals:
    """Counts those that stop a worker, while the block lasts; ignored ones stay so (nohup)."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Signals:
        heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._hear) for number in heard}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1


def _tell(settings: Settings, plans: list[Plan]) -> None:
    from routing.settings import mask

    for plan in plans:
        terminal.say(f"queues:   {', '.join(plan.queues)} ({plan.concurrency} at a time)")
    terminal.say(f"broker:   {mask(settings.broker_url)}")
    terminal.say(f"database: {mask(settings.database_url)}")
    terminal.say(f"images:   {mask(settings.artifacts_url or str(settings.images))}")
    terminal.say(f"mode:     {settings.mode}")
    sys.stdout.flush()


def _log(settings: Settings, *, verbose: bool) -> None:
    from sparklio.worker.consume import log_to_stderr

    log_to_stderr(settings, verbose=verbose)


@contextmanager
def _queue() -> Iterator[Queue]:
    check_extra()
    from routing.settings import load_settings
    from sparklio.stores import open_run_store
    from sparklio.worker.queue import Queue

    settings = load_settings()
    terminal.keep_secret(settings.secrets)
    with open_run_store(settings) as store:
        yield Queue(store)


@commands.command("dead-letters")
def dead_letters(as_json: AsJson = False) -> None:
    """List the runs that workers have given up, and why."""
    from sparklio.worker.letters import letters_table

    with _queue() as queue:
        letters = [queue.letter(record) for record in queue.dead_letters()]
    if as_json:
        terminal.print_json({"dead_letters": letters})
    elif letters:
        terminal.show(letters_table(letters))
        terminal.say("again: sparklio retry RUN, or sparklio retry --all")
    else:
        terminal.say("no dead letters")


@commands.command()
def retry(
    run_id: Annotated[str | None, typer.Argument(metavar="[RUN]", help="`sparklio dead-letters` lists them.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give a dead letter to the workers again; what is finished of it is kept."""
    if (run_id is None) != everything:
        raise UsageError("say which run, or --all", hint="`sparklio dead-letters` lists them")
    with _queue() as queue:
        queued = queue.retry_all() if run_id is None else [queue.retry(run_id).run_id]
    if as_json:
        terminal.print_json({"queued": queued})
    else:
        terminal.say(f"queued: {', '.join(queued) or 'none'}")
