"""What the commands share: printing, errors, and driving a run under a live view."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from routing.logs import LOGGERS, MaskingFormatter, mask_secrets, masked_description
from sparklio.plain_text import printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from graph.store import RunRecord
    from sparklio.studio import Run, Sparklio

__all__ = [
    "configure",
    "drive",
    "print_error",
    "print_json",
    "say",
    "show",
    "warn",
]

INTERRUPTED = 130


@dataclass
class _Flags:
    debug: bool = False
    verbose: bool = False
    secrets: tuple[str, ...] = ()


_flags = _Flags()


def configure(*, debug: bool, verbose: bool) -> None:
    """Keep the flags, and hear the logs only where ``-v`` asks for them."""
    _flags.debug, _flags.verbose = debug, verbose
    keep_secret(())


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


def warn(warnings: Iterable[str]) -> None:
    for warning in warnings:
        typer.echo(f"warning: {printable(warning)}", err=True)


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


def drive(
    studio: Sparklio,
    book: Callable[[Sparklio], Awaitable[RunRecord]],
    *,
    as_json: bool,
    plain: bool,
) -> None:
    """Run what ``book`` books, showing it as it goes, then print the result or where it is."""
    keep_secret(studio.settings.secrets)
    warn(studio.settings.warnings)
    booked: list[str] = []
    try:
        done = asyncio.run(_drive(studio, book, booked, as_json=as_json, plain=plain))
    except (KeyboardInterrupt, asyncio.CancelledError):
        resume = f"; go on with: sparklio resume {booked[0]}" if booked else ""
        typer.echo(f"interrupted{resume}", err=True)
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
        say("mock:   no model was asked; with Ollama and ComfyUI running: sparklio run --mode live")


async def _drive(
    studio: Sparklio,
    book: Callable[[Sparklio], Awaitable[RunRecord]],
    booked: list[str],
    *,
    as_json: bool,
    plain: bool,
) -> Run:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with studio:
        record = await book(studio)
        booked.append(record.run_id)
        with _view(as_json=as_json, plain=plain) as view:
            async with aclosing(studio.runs.drive(record)) as events:
                async for event in events:
                    view.update(event)
        return await studio.load(record.run_id)


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

    return Console(stderr=stderr, quiet=quiet, highlight=False)
