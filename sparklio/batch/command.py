"""The command ``batch``."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sparklio import terminal
from sparklio.options import AsJson
from sparklio.stopping import Stop

if TYPE_CHECKING:
    from sparklio.batch.book import Outcome
    from sparklio.batch.session import Wish
    from sparklio.studio import Sparklio

__all__ = ["commands"]

commands = typer.Typer()


@commands.command()
def batch(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A CSV file, or a folder of input files (*.yaml).")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder of index.html, summary.csv and failures.csv.")
    ] = None,
    defaults: Annotated[
        Path | None, typer.Option("--defaults", metavar="FILE.yaml", help="What all rows share, e.g. the brand.")
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            "--at-once", metavar="N", min=1, help="Rows at a time. Default: SPARKLIO_MAX_RUNS; 500 for workers."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Make N of the missing pages, then stop.")
    ] = None,
    mode: Annotated[Literal["mock", "live"] | None, typer.Option("--mode", help="Beats GENERATOR_MODE.")] = None,
    stage: Annotated[Literal["draft", "final"], typer.Option(help="Which routing rules apply.")] = "draft",
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Set wrong rows apart as failures, and make the others.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed/--no-retry-failed", help="Go on with rows that failed before.")
    ] = True,
    distributed: Annotated[
        bool, typer.Option("--distributed", help="Leave the rows to workers (SPARKLIO_BROKER_URL).")
    ] = False,
    as_json: AsJson = False,
    plain: Annotated[bool, typer.Option("--plain", help="A line a row instead of the bar.")] = False,
) -> None:
    """Make a page for each row of a table; given again, only what is missing. Exit code 1: some rows failed."""
    from sparklio.batch.session import Wish
    from sparklio.studio import Sparklio

    studio = Sparklio(mode=mode)
    wish = Wish(file, out, defaults, at_once, limit, stage, keep_going, retry_failed, distributed)
    settings = studio.settings
    terminal.keep_secret(settings.secrets)
    terminal.warn(settings.warnings, as_json=as_json)
    stop = Stop(as_json=as_json, secrets=settings.secrets)
    plain = plain or bool(context.find_root().params.get("verbose"))
    try:
        with stop:
            totals, examples = _make(studio, wish, stop, as_json=as_json, plain=plain)
    except (KeyboardInterrupt, asyncio.CancelledError, OSError) as exc:
        if isinstance(exc, OSError) and not stop.heard:  # else of the terminal, which is gone after a SIGHUP
            raise
        _tell_interrupted(stop, as_json=as_json, distributed=distributed)
        raise typer.Exit(terminal.INTERRUPTED) from None
    if as_json:
        terminal.print_json(totals)
    else:
        _tell(totals, examples)
    if totals["failed"]:
        raise typer.Exit(1)


def _make(
    studio: Sparklio, wish: Wish, stop: Stop, *, as_json: bool, plain: bool
) -> tuple[dict[str, Any], dict[str, Outcome]]:
    """The totals, and for each code one row that failed for it."""
    from sparklio.batch.session import open_batch
    from sparklio.batch.view import make_view

    with open_batch(studio, wish) as session:
        terminal.warn(session.warnings, as_json=as_json)
        if not as_json:
            at_once = f", {session.at_once} at once" if session.to_make > 1 else ""
            terminal.say(f"{len(session.book):,} rows, {session.to_make:,} to make{at_once}")
            terminal.flush()  # rows may take minutes, and a pipe holds back what is short

        def on_stop() -> None:
            _tell_interrupted(stop, as_json=as_json, distributed=wish.distributed)

        with make_view(session, as_json=as_json, plain=plain) as view:

            async def make() -> None:
                stop.cancel_this_task()
                await session.make(view, on_stop, lambda text: terminal.warn([text], as_json=as_json))

            asyncio.run(make())
        return session.totals(), session.book.examples


def _tell(totals: dict[str, Any], examples: dict[str, Outcome]) -> None:
    from sparklio.batch.report import FAILURES, SUMMARY_TABLE, told
    from sparklio.batch.view import reasons_table

    if totals["reasons"]:
        terminal.show(reasons_table(totals["reasons"], examples))
        terminal.say(f"failed:  {totals['folder']}/{FAILURES}; the same command tries them again")
    terminal.say(f"index:   {totals['index']}")
    terminal.say(f"summary: {totals['folder']}/{SUMMARY_TABLE}")
    terminal.say(told(totals))


def _tell_interrupted(stop: Stop, *, as_json: bool, distributed: bool) -> None:
    """Once, and at once: a report of many rows may still be under way when the time to stop is over."""
    if stop.told:
        return
    stop.told = True
    if distributed:
        terminal.note("rows that workers have go on there; the same command collects them", as_json=as_json)
    terminal.print_interrupted(as_json=as_json, command=shlex.join(["sparklio", *sys.argv[1:]]))
