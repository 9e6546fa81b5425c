"""The commands for many runs: compare two, stop one, move one to another machine, delete old ones."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparklio import terminal
from sparklio.options import AsJson, RunId

if TYPE_CHECKING:
    from graph.store import RunRecord
    from sparklio.pruning import Pruned

__all__ = ["commands"]

commands = typer.Typer()

_COUNTED = ("runs", "images", "pages", "server")


@commands.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="Id of the run that is compared with.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Id of the other run.")],
    as_json: AsJson = False,
) -> None:
    """Show what differs between two runs: inputs, artefacts, models. One without result is compared as far as it is."""
    from sparklio.difference_view import difference_lines
    from sparklio.studio import Sparklio

    async def read() -> dict[str, Any]:
        async with Sparklio() as studio:
            return await studio.diff(a, b)

    body = asyncio.run(read())
    if as_json:
        terminal.print_json(body)
        return
    for line in difference_lines(body["a"], body["b"], body["differences"]):
        terminal.show(line) if sys.stdout.isatty() else terminal.say(line.plain)


@commands.command()
def cancel(run_id: RunId, as_json: AsJson = False) -> None:
    """Stop a run for good: one that waits, was interrupted, or that a worker of any machine drives."""
    from sparklio.studio import Sparklio

    async def stop() -> RunRecord:
        async with Sparklio() as studio:
            return await studio.cancel(run_id)

    record = asyncio.run(stop())
    if as_json:
        terminal.print_json(record.summary())
    else:
        told = "is being stopped by whoever drives it" if record.status == "running" else f"is {record.status}"
        terminal.say(f"run {run_id} {told}")


@commands.command()
def pack(
    run_id: RunId,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File, or folder of it; default: RUN.sparklio.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a run with its images and checkpoints into one file, to show or resume it on another machine."""
    from sparklio.disk_use import readable
    from sparklio.studio import Sparklio

    async def write() -> Path:
        async with Sparklio() as studio:
            return await studio.pack(run_id, out)

    path = asyncio.run(write())
    size = path.stat().st_size
    if as_json:
        terminal.print_json({"run_id": run_id, "file": str(path), "bytes": size})
    else:
        terminal.say(f"wrote {path}, {readable(size)}; on the other machine: sparklio unpack {path.name}")


@commands.command()
def unpack(file: Annotated[Path, typer.Argument(metavar="FILE")], as_json: AsJson = False) -> None:
    """Make a packed run one of this machine's. All of the file is checked before anything is written."""
    from sparklio.studio import Sparklio
    from sparklio.unpacking import check_file

    check_file(file)  # before there is so much as a data folder

    async def take() -> RunRecord:
        async with Sparklio() as studio:
            return await studio.unpack(file)

    record = asyncio.run(take())
    if as_json:
        terminal.print_json(record.summary())
        return
    command = "show" if record.status == "finished" else "resume"
    terminal.say(f"unpacked {record.run_id}, {record.status}; go on with: sparklio {command} {record.run_id}")


@commands.command()
def prune(
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="AGE", help="Runs that ended longer ago, e.g. 30d, 2w, 12h.")
    ] = None,
    keep: Annotated[int | None, typer.Option("--keep", metavar="N", help="Never the N latest runs.")] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Failed, interrupted and cancelled runs, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing, say what would be.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete old runs, then images and pages that no run needs any more, and say what the data folder holds."""
    from sparklio.pruning import parse_age
    from sparklio.studio import Sparklio

    age = None if older_than is None else parse_age(older_than)

    async def delete() -> Pruned:
        async with Sparklio() as studio:
            return await studio.prune(older_than=age, keep=keep, unfinished=unfinished, dry_run=dry_run)

    done = asyncio.run(delete())
    if as_json:
        terminal.print_json(done.to_dict())
    else:
        _tell(done)


def _tell(done: Pruned) -> None:
    from sparklio.disk_use import readable

    verb, freed = ("would delete", "about") if done.dry_run else ("deleted", "freed")
    terminal.say(
        f"{verb}: runs {len(done.runs)}, images {done.images}, pages {done.pages}, leftovers {done.leftovers}; "
        f"{freed} {readable(done.freed_bytes)}"
    )
    for run_id in done.runs:
        terminal.say(f"  {run_id}")
    for run_id in done.busy:
        terminal.say(f"  {run_id} is being run, and stays")
    terminal.warn(done.notes)
    counted = (f"{name} {done.holds[name].count} ({readable(done.holds[name].bytes)})" for name in _COUNTED)
    terminal.say(f"holds: {', '.join(counted)}, database {readable(done.holds['database'].bytes)}")
