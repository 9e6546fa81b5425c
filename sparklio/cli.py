"""The command line: a thin shell. What a command does stands elsewhere; what it needs is imported when it runs."""

from __future__ import annotations

import asyncio
import shlex
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from providers.errors import UsageError
from routing.yaml_text import YamlTextError, parse_yaml
from sparklio import families, server_command, terminal
from sparklio.batch import command as batch_command
from sparklio.options import AsJson, RunId
from sparklio.worker import command as worker_command

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from graph.store import RunRecord, RunStore
    from sparklio.studio import Sparklio

__all__ = ["app", "main"]

# Typer carries Click within itself and does not export this class of it: what is wrong with a command's words.
_WrongUsage: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="sparklio",
    help="From a brand and a product to a finished product-detail page.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Plain = Annotated[bool, typer.Option("--plain", help="Plain lines instead of the live view.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Folder of result.json, page.html and images/.")]
Mode = Annotated[Literal["mock", "live"] | None, typer.Option("--mode", help="Beats GENERATOR_MODE.")]


def _version(wanted: bool) -> None:
    if wanted:
        from sparklio import __version__

        typer.echo(f"sparklio {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show the run's log on stderr.")] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    terminal.configure(debug=debug, verbose=verbose)


@app.command()
def init(folder: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path()) -> None:
    """Write an example input, .env and provider_config.yaml into DIR, keeping what is there."""
    from sparklio.scaffold import write_scaffold

    for path, written in write_scaffold(folder):
        terminal.say(f"{'wrote' if written else 'kept '} {path}")
    there = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    terminal.say(f"next: {there}sparklio run")


@app.command()
def run(
    input_file: Annotated[
        Path | None, typer.Argument(metavar="[INPUT.yaml]", help="Default: examples/protein_plus.yaml.")
    ] = None,
    out: Out = None,
    run_id: Annotated[str | None, typer.Option("--run-id", metavar="ID", help="An id of your own.")] = None,
    mode: Mode = None,
    stage: Annotated[Literal["draft", "final"], typer.Option(help="Which routing rules apply.")] = "draft",
    as_json: AsJson = False,
    plain: Plain = False,
) -> None:
    """Make a page from an input file."""
    from graph.inputs import load_input
    from sparklio.publish import out_folder
    from sparklio.scaffold import example_input, told_example
    from sparklio.studio import Sparklio

    studio, folder = Sparklio(mode=mode), out_folder(out)
    path = input_file or example_input()
    if input_file is None:
        terminal.note(told_example(path), as_json=as_json)
    inputs = load_input(path, studio.images.save)
    terminal.warn(inputs.warnings, as_json=as_json)

    async def book(studio: Sparklio) -> RunRecord:
        return await studio.runs.start(inputs, run_id=run_id, stage=stage, out=folder, input_file=path)

    terminal.drive(studio, book, as_json=as_json, plain=plain)


@app.command()
def resume(run_id: RunId, as_json: AsJson = False, plain: Plain = False) -> None:
    """Go on with a run that failed or was stopped, in the mode that it was started in."""
    from sparklio.studio import Sparklio

    record = _record(run_id)
    if record.status == "finished":
        terminal.note(
            f"run {run_id} is finished already; `sparklio rerun {run_id} --from NODE` makes a part of it anew",
            as_json=as_json,
        )
    studio = Sparklio(mode=record.mode)

    async def book(studio: Sparklio) -> RunRecord:
        return studio.runs.resumable(run_id)

    terminal.drive(studio, book, as_json=as_json, plain=plain)


@app.command()
def rerun(
    run_id: RunId,
    start_at: Annotated[
        str | None, typer.Option("--from", metavar="NODE", help="This agent and all downstream of it run again.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="path=value", help="Change a value first, e.g. brief.target=캠핑족 (YAML)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which agents would run, and why. Run none.")] = False,
    out: Out = None,
    mode: Mode = None,
    as_json: AsJson = False,
    plain: Plain = False,
) -> None:
    """Run a part of a run again, as a run of its own; with neither --from nor --set what has changed since.

    Without --mode in its parent's mode, unless GENERATOR_MODE is set.
    """
    from routing.settings import load_settings
    from sparklio.publish import out_folder, read_result
    from sparklio.studio import Sparklio
    from sparklio.tables import preview_table

    folder = out_folder(out, run_id)
    parsed = dict(_assignment(change) for change in changes or ())
    parent = _record(run_id)
    if mode is None and load_settings().values["GENERATOR_MODE"].source == "default":
        mode = parent.mode
    studio = Sparklio(mode=mode)
    if dry_run or not (start_at or parsed):
        preview = asyncio.run(_preview(studio, run_id, start_at, parsed))
        if dry_run:
            terminal.print_json(preview) if as_json else terminal.show(preview_table(preview))
            return
        if not preview["nodes"]:
            if as_json:
                with _store() as store:
                    terminal.print_json(read_result(store, run_id))
            else:
                terminal.say(f"nothing has changed since {run_id}; --from NODE runs an agent again all the same")
            return

    async def book(studio: Sparklio) -> RunRecord:
        return await studio.runs.start_rerun(run_id, start_at=start_at, changes=parsed, out=folder)

    terminal.drive(studio, book, as_json=as_json, plain=plain)


@app.command()
def runs(as_json: AsJson = False) -> None:
    """List the runs, the latest first."""
    from sparklio.tables import runs_table

    with _store() as store:
        records = [record.summary() for record in store.all()]
    if as_json:
        terminal.print_json({"runs": records})
    elif records:
        terminal.show(runs_table(records))
    else:
        terminal.say("no runs yet; `sparklio run` makes one")


@app.command()
def history(run_id: RunId, as_json: AsJson = False) -> None:
    """Show a run's checkpoints, with its whole family of reruns."""
    from sparklio.studio import Sparklio
    from sparklio.tables import history_tree

    with _store() as store:
        family = [record.summary() for record in store.family(run_id)]

    async def read() -> list[dict[str, Any]]:
        async with Sparklio() as studio:
            return [
                {
                    "run_id": point.run_id,
                    "checkpoint_id": point.checkpoint_id,
                    "next": list(point.next),
                    "created_at": point.created_at,
                    "keys": sorted(point.values),
                    "values": point.values,
                }
                for point in await studio.history(run_id)
            ]

    points = asyncio.run(read())
    if as_json:
        terminal.print_json({"run_id": run_id, "family": family, "points": points})
    else:
        terminal.show(history_tree(family, points))


@app.command()
def show(run_id: RunId, as_json: AsJson = False) -> None:
    """Show a run: its state, what it wrote, and where the page is."""
    from routing.image_store import image_store
    from routing.settings import load_settings
    from sparklio.copies import make_copies, page_here, result_here
    from sparklio.publish import read_result
    from sparklio.tables import run_summary

    with _store() as store:
        record = store.load(run_id)
        try:
            result = read_result(store, run_id)
        except FileNotFoundError:
            result = None
        out = record.out
        if result is not None and store.shared:  # another machine may have made it
            make_copies(store, image_store(load_settings()), run_id, result)
            result, out = result_here(store, run_id, result), page_here(store, record).parent
    told = {"nodes": record.nodes, "error": record.error, "result": result, "out": str(out)}
    body = {**record.summary(), **told}
    if as_json:
        terminal.print_json(body)
    else:
        terminal.show(run_summary(body))
        if record.status in ("failed", "interrupted", "cancelled"):
            verb = "retry" if (record.keeper, record.status) == ("workers", "failed") else "resume"
            terminal.say(f"go on with: sparklio {verb} {run_id}")


@app.command()
def graph(
    drawing: Annotated[Literal["mermaid", "ascii", "svg"], typer.Option("--format")] = "mermaid",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE")] = None,
) -> None:
    """Draw the flow; made here, nothing is sent anywhere."""
    from routing.image_store import write_whole
    from sparklio.drawing import draw_flow

    text = draw_flow(drawing)
    if out is None:
        terminal.say(text)
    else:
        write_whole(out, text.encode())
        terminal.say(f"wrote {out}")


@app.command()
def config(as_json: AsJson = False) -> None:
    """Show each effective setting, where it comes from, and what it hides."""
    from routing.settings import load_settings
    from sparklio.tables import settings_table

    settings = load_settings()
    body = settings.to_dict()
    if as_json:
        terminal.print_json(body)
        return
    terminal.warn(settings.warnings)
    terminal.say(f"routing: {settings.config_path}")
    terminal.show(settings_table(body["settings"]))


@app.command()
def doctor(
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended from here, e.g. pull models.")] = False,
    as_json: AsJson = False,
    mode: Mode = None,
) -> None:
    """Look whether a run would work, and say what mends what would not. Loads no model. Exit code 1: it would not."""
    from routing.settings import load_settings
    from sparklio.mending import check_up
    from sparklio.tables import findings_table

    settings = load_settings({"GENERATOR_MODE": mode})
    terminal.keep_secret(settings.secrets)
    report, failures = asyncio.run(check_up(settings, fix=fix))
    for failure in failures:
        terminal.print_error(failure, as_json=False)
    if as_json:
        terminal.print_json(report.to_dict())
    else:
        terminal.show(findings_table(report.to_dict()["findings"]))
        terminal.say(report.verdict)
    if not report.can_run:
        raise typer.Exit(1)


app.add_typer(batch_command.commands)
app.add_typer(families.commands)
app.add_typer(server_command.commands)
app.add_typer(worker_command.commands)


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Korean is no failure
    flags = {"--debug", "-v", "--verbose"}  # welcome behind the command's name too
    words = sys.argv[1:]
    words = [word for word in words if word in flags] + [word for word in words if word not in flags]
    code = _run(words)
    terminal.flush()
    sys.exit(code)


def _run(words: list[str]) -> int:
    as_json = "--json" in words
    try:
        code = app(args=words, standalone_mode=False)
    except _WrongUsage as exc:
        if as_json:
            terminal.print_error(UsageError(exc.format_message(), hint="see --help"), as_json=True)
        else:
            exc.show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = terminal.INTERRUPTED
    except Exception as exc:  # noqa: BLE001 - the last line of defence: a defect, too, is told in one sentence
        terminal.print_error(exc, as_json=as_json)
        return 2 if isinstance(exc, UsageError) else 1
    if code == terminal.INTERRUPTED:  # Typer makes it of a KeyboardInterrupt, too
        terminal.print_interrupted(as_json=as_json)
    return code if isinstance(code, int) else 0


def _store() -> AbstractContextManager[RunStore]:
    from routing.settings import load_settings
    from sparklio.stores import open_run_store

    return open_run_store(load_settings())


def _record(run_id: str) -> RunRecord:
    with _store() as store:
        return store.load(run_id)


async def _preview(studio: Sparklio, run_id: str, start_at: str | None, changes: dict[str, Any]) -> dict[str, Any]:
    async with studio:
        return (await studio.preview_rerun(run_id, start_at=start_at, changes=changes)).to_dict()


def _assignment(text: str) -> tuple[str, Any]:
    """``path=value`` with the value as YAML."""
    path, separator, value = text.partition("=")
    if not separator or not path.strip():
        raise UsageError(f"--set {text!r} is not path=value", hint="e.g. --set brief.target=캠핑족")
    try:
        return path.strip(), parse_yaml(value, as_written=True)
    except YamlTextError as exc:
        raise UsageError(f"--set {path}: the value is not YAML", hint="put it in quotes") from exc
