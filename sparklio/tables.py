"""Runs, their history and the settings, as tables and trees for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from sparklio.plain_text import one_line
from sparklio.view import seconds

__all__ = ["findings_table", "history_tree", "run_summary", "runs_table", "settings_table"]

Record = Mapping[str, Any]

_STYLES = {
    "done": "green",
    "finished": "green",
    "failed": "red",
    "queued": "dim",
    "running": "cyan",
    "interrupted": "yellow",
    "cancelled": "yellow",
}
_STATE_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def runs_table(records: Iterable[Record]) -> Table:
    """One row per run.

    Args:
        records: ``{run_id, status, mode, product, created_at, parent: {run_id, start_at} | None}`` each, in the order
            in which they are shown.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("run", no_wrap=True, overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("mode", no_wrap=True)
    table.add_column("product")
    rows = list(records)
    if reruns := any(record.get("parent") for record in rows):
        table.add_column("from", no_wrap=True)
    table.add_column("created", no_wrap=True)
    for record in rows:
        start_at = one_line((record.get("parent") or {}).get("start_at") or "")
        table.add_row(
            Text(one_line(record["run_id"])),
            _status(record),
            _mode(record),
            Text(one_line(record.get("product") or ""), no_wrap=True, overflow="ellipsis"),
            *([Text(start_at)] if reruns else []),
            Text(_moment(record.get("created_at")), "dim"),
        )
    return table


def history_tree(family: Sequence[Record], points: Sequence[Record]) -> Tree:
    """The runs of one family as branches, each under the run that it was rerun from, with their checkpoints as leaves.

    Args:
        family: records as for :func:`runs_table`.
        points: ``{run_id, checkpoint_id, next: [names], created_at, keys: [state keys present]}`` each.
    """
    members = {record["run_id"]: record for record in family}
    children: dict[str | None, list[Record]] = {}
    for record in sorted(family, key=lambda record: str(record.get("created_at") or "")):
        parent = (record.get("parent") or {}).get("run_id")
        children.setdefault(parent if parent in members else None, []).append(record)
    tree = Tree(Text("history", "bold"), hide_root=True)
    _grow(tree, None, children, points)
    return tree


def _grow(
    branch: Tree, parent: str | None, children: Mapping[str | None, list[Record]], points: Sequence[Record]
) -> None:
    for record in children.get(parent, []):
        run_id = record["run_id"]
        member = branch.add(_member(record))
        own = [point for point in points if point["run_id"] == run_id]
        own.sort(key=lambda point: str(point.get("created_at") or ""))
        known = set(own[0].get("keys") or ()) if own and record.get("parent") else set()
        for point in own:
            member.add(_leaf(point, known))
            known |= set(point.get("keys") or ())
        _grow(member, run_id, children, points)


def _member(record: Record) -> Text:
    text = Text.assemble((one_line(record["run_id"]), "bold"), "  ", _status(record), "  ", _mode(record))
    start_at = (record.get("parent") or {}).get("start_at")
    if start_at:
        text.append(f"  from {one_line(start_at)}", "cyan")
    return text.append(f"  {_moment(record.get('created_at'))}", "dim")


def _leaf(point: Record, known: set[str]) -> Text:
    """A checkpoint by the head of its id (the part of a UUIDv6 that tells times apart) and the keys that are new."""
    following = ", ".join(one_line(name) for name in point.get("next") or ())
    added = [one_line(key) for key in point.get("keys") or () if key not in known]
    text = Text.assemble(
        (_moment(point.get("created_at"), clock=True), "dim"), "  ", one_line(point["checkpoint_id"])[:13]
    )
    text.append(f"  next {following}" if following else "  end", "cyan" if following else "green")
    return text.append(f"  +{' +'.join(added)}", "dim") if added else text


def run_summary(body: Record) -> RenderableType:
    """One run: what is known of it, what each agent took, and the review or the error.

    Args:
        body: a record as for :func:`runs_table` with ``out``, ``error: {code, message, hint} | None`` and as
            ``result`` the content of result.json, None where there is none.
    """
    result = body.get("result") or {}
    parent = body.get("parent") or {}
    facts = {
        "run": Text(one_line(body["run_id"]), "bold"),
        "status": Text.assemble(_status(body), "  ", _mode(body)),
        "product": one_line(body.get("product") or ""),
        "from": one_line(f"{parent['start_at']} of {parent['run_id']}") if parent else "",
        "created": _moment(body.get("created_at")),
        "page": one_line(f"{body['out']}/page.html") if result else "",
        "folder": one_line(body.get("out") or ""),
        "headline": one_line((result.get("copy") or {}).get("headline") or ""),
        **_verdict(result.get("review") or {}),
        **_failure(body.get("error") or {}),
    }
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            grid.add_row(name, value if isinstance(value, Text) else Text(value))
    nodes = (result.get("meta") or {}).get("nodes") or {}
    return Group(grid, "", _nodes_table(nodes)) if nodes else grid


def _verdict(review: Record) -> dict[str, str]:
    if not review:
        return {}
    verdict = "approved" if review["approved"] else "not approved"
    return {"review": f"{review['score']}/100, {verdict}: {one_line(review['summary'])}"}


def _failure(error: Record) -> dict[str, Text | str]:
    if not error:
        return {}
    message = f"{one_line(error.get('code') or 'error')}: {one_line(error.get('message') or '')}"
    return {"error": Text(message, "red"), "hint": one_line(error.get("hint") or "")}


def _nodes_table(nodes: Mapping[str, Record]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("agent", "model"):
        table.add_column(name, overflow="fold")
    for name in ("time", "tokens", "calls"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, node in nodes.items():
        tokens = (node.get("usage") or {}).get("total_tokens") or 0
        table.add_row(
            Text(one_line(name)),
            Text(one_line(f"{node.get('provider') or ''} {node.get('model') or ''}"), "dim"),
            "reused" if node.get("cached") else seconds(float(node.get("ms") or 0)),
            f"{tokens:,}" if tokens else "",
            str(node.get("attempts") or ""),
        )
    return table


def preview_table(preview: Record) -> Table:
    """One row per agent that a rerun would run, and a last one that adds them up.

    Args:
        preview: ``{nodes: [{node, why, calls, images, seconds, cost_usd}], calls, images, seconds, cost_usd}``.
    """
    table = Table(box=None, header_style="bold", pad_edge=False, show_footer=bool(preview["nodes"]))
    cost = "" if preview["cost_usd"] in (None, 0) else f"{preview['cost_usd']:.4f} USD"
    table.add_column("would run", no_wrap=True, footer=Text(f"{len(preview['nodes'])} agents"))
    table.add_column("because", overflow="fold", footer=Text(cost))
    table.add_column("calls", justify="right", footer=Text(str(preview["calls"])))
    table.add_column("images", justify="right", footer=Text(str(preview["images"])))
    table.add_column("last time", justify="right", footer=Text(seconds(preview["seconds"] * 1000)))
    for node in preview["nodes"]:
        table.add_row(
            Text(one_line(node["node"])),
            Text(one_line(node["why"])),
            str(node["calls"]),
            str(node["images"] or ""),
            seconds(node["seconds"] * 1000),
        )
    if not preview["nodes"]:
        table.add_row("nothing", "nothing has changed since")
    return table


def settings_table(values: Mapping[str, Record]) -> Table:
    """One row per setting, and one for each value that it hides; that a default is overridden surprises nobody.

    Args:
        values: ``{value: text | None, source, hides: [{source, value}]}`` by name, secrets masked already.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("source", no_wrap=True)
    for name, entry in values.items():
        value = entry.get("value")
        table.add_row(
            Text(one_line(name)),
            Text("not set", "dim") if value is None else Text(one_line(value)),
            Text(one_line(entry["source"]), "dim" if entry["source"] == "default" else ""),
        )
        for hidden in (hidden for hidden in entry.get("hides") or () if hidden["source"] != "default"):
            table.add_row(
                "", Text(f"hides {one_line(hidden['value'])}", "yellow"), Text(one_line(hidden["source"]), "yellow")
            )
    return table


def findings_table(findings: Iterable[Record]) -> Table:
    """One row per finding, and beneath it what mends it.

    Args:
        findings: ``{subject, state: ok | warning | failed, message, remedy}`` each, in the order in which they are
            shown.
    """
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=32)
    table.add_column(overflow="fold")
    for finding in findings:
        state = one_line(finding["state"])
        table.add_row(
            Text(state, _STATE_STYLES.get(state, "")),
            Text(one_line(finding["subject"])),
            Text(one_line(finding["message"])),
        )
        if finding["remedy"]:
            table.add_row("", "", Text(f"→ {one_line(finding['remedy'])}", "cyan"))
    return table


def _status(record: Record) -> Text:
    status = one_line(record.get("status") or "")
    return Text(status, _STYLES.get(status, ""))


def _mode(record: Record) -> Text:
    mode = one_line(record.get("mode") or "")
    return Text(mode, "yellow" if mode == "mock" else "")


def _moment(value: object, *, clock: bool = False) -> str:
    """ISO text or a datetime in the reader's own time zone; what is neither is shown as it is."""
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return one_line(value or "")
    return moment.astimezone().strftime("%H:%M:%S" if clock else "%m-%d %H:%M")
