"""What the commands share: printing, errors, and driving a run under a live view."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from routing.logs import LOGGERS, MaskingFormatter, mask_secrets, masked_description
from sparklio.plain_text import printable
from sparklio.stopping import INTERRUPTED, Stop, hear_all_stop_signals, interruption

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from graph.store import RunRecord
    from sparklio.studio import Run, Sparklio

__all__ = [
    "INTERRUPTED",
    "configure",
    "drive",
    "flush",
    "note",
    "print_error",
    "print_interrupted",
    "print_json",
    "say",
    "show",
    "warn",
]

log = logging.getLogger(__name__)

_UNWRAPPED = 10_000  # a file or a pipe has no width, and a command that is broken in two is no command


@dataclass
class _Flags:
    debug: bool = False
    verbose: bool = False
    secrets: tuple[str, ...] = ()
    interruption_told: bool = False
    untold: list[str] = field(default_factory=list)


_flags = _Flags()


def configure(*, debug: bool, verbose: bool) -> None:
    """Keep the flags, and hear the logs only where ``-v`` asks for them."""
    _flags.debug, _flags.verbose, _flags.interruption_told, _flags.untold = debug, verbose, False, []
    keep_secret(())
    hear_all_stop_signals()


def keep_secret(secrets: Iterable[str]) -> None:
    """Mask these in what goes to stderr: the trace of ``--debug``, and with ``-v`` our logs.

    Without ``-v`` the logs go nowhere but into the runs' own files.
    """
    _flags.secrets = tuple(secrets)
    handler: logging.Handler = logging.StreamHandler(sys.stderr) if _flags.verbose else logging.NullHandler()
    handler.setFormatter(MaskingFormatter(_flags.secrets))
    for name in LOGGERS:
        logging.getLogger(name).handlers = [handler]


def say(text: str) -> None:
    """A line on stdout. Models and servers write parts of it, so control characters are taken out."""
    typer.echo(printable(text))


def note(text: str, *, as_json: bool = False) -> None:
    """A line on stderr, for people. Whoever reads the error object finds nothing else there: the run's log has it."""
    if as_json and not sys.stderr.isatty():
        _flags.untold.append(text)
    else:
        typer.echo(printable(text), err=True)


def warn(warnings: Iterable[str], *, as_json: bool = False) -> None:
    for warning in warnings:
        note(f"warning: {warning}", as_json=as_json)


def show(renderable: RenderableType) -> None:
    _console(stderr=False).print(renderable)


def print_json(body: Any) -> None:
    typer.echo(json.dumps(body, ensure_ascii=False, indent=2))


def print_error(error: BaseException, *, as_json: bool) -> None:
    """One sentence and a hint on stderr, or the error object; with ``--debug`` the trace before it."""
    if _flags.debug:
        trace = "".join(traceback.format_exception(error))
        for line in mask_secrets(trace, _flags.secrets).splitlines():
            typer.echo(printable(line), err=True)
    body = masked_description(error, _flags.secrets)
    if as_json:
        typer.echo(json.dumps({"error": body}, ensure_ascii=False), err=True)
        return
    typer.echo(f"error: {printable(body['message'])}", err=True)
    if body["hint"]:
        typer.echo(f"hint: {printable(body['hint'])}", err=True)
    if body.get("run_id"):
        typer.echo(f"go on with: sparklio resume {body['run_id']}", err=True)


def print_interrupted(run_id: str | None = None, *, as_json: bool, command: str | None = None) -> None:
    """That a signal ended it, and how to go on; on stderr, as :func:`print_error` tells a failure. Told only once."""
    if _flags.interruption_told:
        return
    _flags.interruption_told = True
    with suppress(OSError):  # who hung up has no terminal left to be told on
        typer.echo(interruption(run_id, as_json=as_json, command=command), err=True)


def flush() -> None:
    """Write what is still to be written. That nobody reads it any more is no exit code of its own."""
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def drive(
    studio: Sparklio,
    book: Callable[[Sparklio], Awaitable[RunRecord]],
    *,
    as_json: bool,
    plain: bool,
) -> None:
    """Run what ``book`` books, showing it as it goes, then print the result or where it is."""
    keep_secret(studio.settings.secrets)
    warn(studio.settings.warnings, as_json=as_json)
    stop = Stop(as_json=as_json, secrets=studio.settings.secrets)
    try:
        with stop:
            done = asyncio.run(_drive(studio, book, stop, as_json=as_json, plain=plain))
    except (KeyboardInterrupt, asyncio.CancelledError, OSError) as exc:
        if isinstance(exc, OSError) and not stop.heard:  # else of the terminal, which is gone after a SIGHUP
            raise
        stop.told = True
        print_interrupted(stop.run_id, as_json=as_json)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(done.result)
        return
    review = done.result["review"]
    say(f"page:   {done.page_path}")
    say(f"result: {done.page_path.with_name('result.json')}")
    say(f"review: {review['score']}/100, {'approved' if review['approved'] else 'not approved'}: {review['summary']}")
    for issue in review["issues"]:
        say(f"        {issue['severity']}: {issue['message']}")
    if done.result["meta"]["mode"] == "mock":
        say("mock:   no model was asked; what a live run needs: sparklio doctor --mode live")


async def _drive(
    studio: Sparklio,
    book: Callable[[Sparklio], Awaitable[RunRecord]],
    stop: Stop,
    *,
    as_json: bool,
    plain: bool,
) -> Run:
    stop.cancel_this_task()
    async with studio:
        record = await book(studio)
        stop.run_id = record.run_id
        ours = False  # who waits for somebody else's run to end has no say in its images
        try:
            with _view(as_json=as_json, plain=plain) as view:
                async with aclosing(studio.runs.drive(record)) as events:
                    async for event in events:
                        if not ours:
                            _log_untold(record.run_id)
                        ours = True
                        view.update(event)
            return await studio.load(record.run_id)
        finally:
            if stop.heard and ours:
                await stop.see_to_jobs(studio.runs)


def _log_untold(run_id: str) -> None:
    """Once the run has begun, and with it its log."""
    for text in _flags.untold:
        log.warning("%s", text, extra={"run_id": run_id})
    _flags.untold.clear()


def _view(*, as_json: bool, plain: bool) -> Any:
    """Live in a terminal, lines elsewhere; with --json only a terminal's stderr gets anything."""
    from sparklio.view import make_view

    console = _console(stderr=as_json)
    quiet = as_json and not console.is_terminal
    return make_view(
        _console(stderr=True, quiet=True) if quiet else console,
        plain=plain or _flags.verbose or not console.is_terminal,
    )


def _console(*, stderr: bool, quiet: bool = False) -> Console:
    from rich.console import Console

    console = Console(stderr=stderr, quiet=quiet, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNWRAPPED
    return console
