"""What people see in the terminal while a run goes on, drawn from the run's events.

:class:`Progress` keeps what the events have told and knows nothing of terminals. :class:`LiveView` draws it again and
again in place, one line per agent; :class:`PlainView` prints one line per event, for logs and pipes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sparklio.plain_text import one_line

__all__ = ["LiveView", "NodeProgress", "PlainView", "Progress", "View", "make_view", "seconds"]

Event = Mapping[str, Any]

_TAIL = 200
_WIDEST = 100
_SPIN = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_ICONS = {"waiting": "·", "done": "✓", "failed": "✗", "interrupted": "■"}
_STYLES = {"waiting": "dim", "running": "cyan", "done": "green", "failed": "red", "interrupted": "yellow"}


class View(Protocol):
    """Takes a run's events one by one, inside a ``with`` block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, event: Event) -> None: ...


def make_view(console: Console | TextIO, *, plain: bool) -> View:
    """In place for people at a Unicode terminal; line by line if ``plain`` and for everything else."""
    console = console if isinstance(console, Console) else Console(file=console)
    capable = console.is_terminal and not console.options.ascii_only
    return LiveView(console) if capable and not plain else PlainView(console)


# What the events have told -----------------------------------------------------------------------------------


@dataclass
class NodeProgress:
    """One agent. Times in milliseconds; ``runs`` counts its executions, more than one after a revision."""

    name: str
    status: str = "waiting"
    provider: str = ""
    model: str = ""
    runs: int = 0
    attempt: int = 0
    streamed: int = 0
    text: str = ""
    step: int = 0
    steps: int = 0
    tokens: int = 0
    cached: bool = False
    degraded: bool = False
    started_ms: float = 0
    spent_ms: float = 0
    error: str = ""

    def start(self, at: float) -> None:
        self.status, self.started_ms, self.runs = "running", at, self.runs + 1
        self.attempt, self.streamed, self.text, self.step, self.steps = 0, 0, "", 0, 0

    def hear(self, data: Mapping[str, Any]) -> None:
        """Take a token; a new attempt makes void what was streamed before it."""
        attempt = int(data.get("attempt") or 1)
        if attempt > self.attempt:
            self.attempt, self.streamed, self.text = attempt, 0, ""
        self.streamed += 1
        self.text = (self.text + str(data.get("text", "")))[-_TAIL:]

    def draw_image(self, data: Mapping[str, Any]) -> None:
        self.step, self.steps = int(data.get("step") or 0), int(data.get("steps") or 0)

    def finish(self, at: float, data: Mapping[str, Any]) -> None:
        self.spent_ms += float(data["ms"]) if data.get("ms") is not None else at - self.started_ms
        self.status, self.cached, self.degraded = "done", bool(data.get("cached")), bool(data.get("degraded"))
        self.provider, self.model = one_line(data.get("provider") or ""), one_line(data.get("model") or "")
        self.tokens += _total(data)

    def keep(self) -> None:
        """It had finished before this session began."""
        self.status, self.cached = "done", True

    def fail(self, at: float, data: Mapping[str, Any]) -> None:
        self.status, self.error = "failed", one_line(data.get("code") or "failed")
        self.spent_ms += at - self.started_ms

    def elapsed(self, now: float) -> float:
        return self.spent_ms + (now - self.started_ms if self.status == "running" else 0)


@dataclass
class Progress:
    """A run as far as its events have told it. ``at`` is the newest ``elapsed_ms``."""

    run_id: str = ""
    mode: str = ""
    resumed: bool = False
    at: float = 0
    status: str = "waiting"
    nodes: dict[str, NodeProgress] = field(default_factory=dict)
    outcome: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, event: Event) -> None:
        """Take one event in; kinds that this version does not know are passed over."""
        self.at = float(event.get("elapsed_ms") or self.at)
        data: Mapping[str, Any] = event.get("data") or {}
        kind = event["type"]
        if kind == "run_started":
            self.run_id, self.mode = one_line(event.get("run_id") or ""), one_line(data.get("mode") or "")
            self.status, self.resumed = "running", bool(data.get("resumed"))
            self.nodes = {name: NodeProgress(one_line(name)) for name in data.get("nodes") or ()}
            for name in data.get("done") or ():
                self._node(name).keep()
        elif kind in {"run_finished", "run_failed"}:
            self.status, self.outcome = ("done" if kind == "run_finished" else "failed"), data
        elif event.get("node"):
            self._apply_to(self._node(event["node"]), kind, data)

    def stop(self) -> None:
        """Nothing more will come; what is still under way was interrupted."""
        if self.status in {"waiting", "running"}:
            self.status = "interrupted"
        for node in self.nodes.values():
            if node.status == "running":
                node.spent_ms = node.elapsed(self.at)
                node.status = "interrupted"

    def _node(self, name: str) -> NodeProgress:
        return self.nodes.setdefault(name, NodeProgress(one_line(name)))

    def _apply_to(self, node: NodeProgress, kind: str, data: Mapping[str, Any]) -> None:
        if kind == "node_started":
            node.start(self.at)
        elif kind == "token":
            node.hear(data)
        elif kind == "image_progress":
            node.draw_image(data)
        elif kind == "node_finished":
            node.finish(self.at, data)
        elif kind == "node_failed":
            node.fail(self.at, data)


def _total(data: Mapping[str, Any]) -> int:
    return int((data.get("usage") or {}).get("total_tokens") or 0)


# In place ----------------------------------------------------------------------------------------------------


class LiveView:
    """One line per agent, redrawn in place at most eight times a second.

    Args:
        console: where to draw.
        clock: seconds from any start; between two events it moves the running times on.
    """

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock, self.progress = console, clock, Progress()
        self._heard = clock()
        self._live = Live(
            console=console, refresh_per_second=8, get_renderable=self.render, redirect_stdout=not console.stderr
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.at = self._now()
        self.progress.stop()
        self._live.stop()

    def update(self, event: Event) -> None:
        self.progress.apply(event)
        self._heard = self.clock()

    def render(self) -> RenderableType:
        """The picture of this moment."""
        widths = _Widths.of(self.progress, self._width)
        lines = [self._line(node, widths) for node in list(self.progress.nodes.values())]
        parts: list[RenderableType] = [self._header(), *lines]
        if ending := _ending(self.progress):
            parts.append(ending)
        return Group(*parts)

    @property
    def _width(self) -> int:
        """Room for the ``^C`` that a terminal echoes: a line that it makes wrap would be drawn twice.

        In a wide window the times stay near their rows.
        """
        return max(1, min(self.console.width - 3, _WIDEST))

    def _now(self) -> float:
        running = self.progress.status == "running"
        return self.progress.at + ((self.clock() - self._heard) * 1000 if running else 0)

    def _header(self) -> RenderableType:
        run = self.progress
        title = Text.assemble(("Sparklio", "bold"), "  ", run.run_id or "starting")
        mark = Text.assemble(
            ("resumed  ", "dim") if run.resumed else "",
            (f" {run.mode.upper()} ", "bold black on yellow") if run.mode == "mock" else (run.mode, "bold green"),
            (f"{seconds(self._now()):>8}", "dim"),
        )
        header = Table.grid()
        header.width = self._width
        header.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        header.add_column(justify="right", no_wrap=True)
        header.add_row(title, mark)
        return header

    def _line(self, node: NodeProgress, widths: _Widths) -> Text:
        name = Text(node.name, "dim" if node.status == "waiting" else "bold")
        if node.runs > 1:
            name.append(f" x{node.runs}", "dim")
        icon = Text(self._icon(node), _STYLES[node.status])
        spent = "" if node.status == "waiting" else seconds(node.elapsed(self._now()))
        middle = self._middle(node, widths)
        return Text(" ", no_wrap=True).join([icon, _cell(name, widths.name), *middle, Text(f"{spent:>6}", "dim")])

    def _middle(self, node: NodeProgress, widths: _Widths) -> list[Text]:
        """The model is known when the node is done; until then its words have the room."""
        if not widths.model or node.status != "done":
            room = widths.detail + (widths.model + 1 if widths.model else 0)
            return [_cell(self._detail(node, room), room)]
        model = node.model if widths.model < 20 else f"{node.provider} {node.model}".strip()
        return [_cell(Text(model, "dim"), widths.model), _cell(self._detail(node, widths.detail), widths.detail)]

    def _icon(self, node: NodeProgress) -> str:
        if node.status == "running":
            return _SPIN[int(self.clock() * 8) % len(_SPIN)]
        return _ICONS[node.status]

    def _detail(self, node: NodeProgress, width: int) -> Text:
        if node.status == "failed":
            return Text(node.error, "red")
        if node.status == "done":
            if node.degraded:
                return Text(f"{_tokens(node.tokens)}, partly on the CPU", "yellow")
            return Text("reused" if node.cached else _tokens(node.tokens), "dim")
        if node.status != "running":
            return Text("interrupted" if node.status == "interrupted" else "", "yellow")
        if node.steps:
            return self._bar(node)
        if node.streamed:
            count = f"{node.streamed:>4} tok  " + (f"try {node.attempt}  " if node.attempt > 1 else "")
            return Text.assemble(count, (_tail(node.text, min(40, width - len(count))), "dim"))
        return Text("waiting for the model", "dim")

    def _bar(self, node: NodeProgress) -> Text:
        filled = round(14 * min(node.step, node.steps) / node.steps)
        return Text.assemble(("━" * filled, "cyan"), ("─" * (14 - filled), "dim"), f" {node.step}/{node.steps}")


@dataclass(frozen=True)
class _Widths:
    """Columns in cells. They hold still while a run goes on: a column that follows its content makes the eye jump."""

    name: int
    model: int
    detail: int

    @classmethod
    def of(cls, run: Progress, width: int) -> _Widths:
        """A narrow terminal does without the models."""
        name = min(20, max([len(name) for name in run.nodes] or [0]) + 3)
        model = 0 if width < 56 else 16 if width < 76 else 24 if width < 100 else 32
        around = 1 + name + model + 6 + (4 if model else 3)
        return cls(name, model, max(1, width - around))


def _cell(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis", pad=True)
    return text


def _ending(run: Progress) -> Text | None:
    """The last line; the message and hint of a failure are the command's to tell."""
    if run.status != "done":
        return None
    tokens = _tokens(_total(run.outcome))
    if tokens and run.resumed:
        tokens += " in all"  # the rows tell those of this session
    facts = [f"done in {seconds(float(run.outcome.get('wall_ms') or run.at))}", tokens]
    return Text("  ".join(fact for fact in facts if fact), "green")


def _tail(text: str, cells: int) -> str:
    """The end of ``text`` that fits; a Korean syllable takes two cells."""
    shown = one_line(text)
    if Text(shown).cell_len <= cells:
        return shown
    while shown and Text(shown).cell_len > cells - 1:
        shown = shown[1:]
    return f"…{shown}"


def _tokens(count: int) -> str:
    return f"{count:,} tokens" if count else ""


def seconds(milliseconds: float) -> str:
    """``3.2s``, or ``2m05s`` from 100 seconds on."""
    whole = int(milliseconds / 1000)
    return f"{milliseconds / 1000:.1f}s" if whole < 100 else f"{whole // 60}m{whole % 60:02d}s"


# Line by line ------------------------------------------------------------------------------------------------


class PlainView:
    """One line for each start, end and failure. Nothing is coloured, nothing redrawn."""

    def __init__(self, console: Console | TextIO) -> None:
        self.console = console if isinstance(console, Console) else Console(file=console)
        self.progress = Progress()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def update(self, event: Event) -> None:
        self.progress.apply(event)
        if words := _plain_words(event):
            line = f"[{self.progress.at / 1000:5.1f}s] {words}".encode(self.console.encoding, "replace")
            self.console.print(Text(line.decode(self.console.encoding)), soft_wrap=True, highlight=False)


def _plain_words(event: Event) -> str:
    """What the line says after its time; nothing for events that are only progress."""
    kind, data = event["type"], event.get("data") or {}
    if kind == "run_started":
        return _plain_started(event, data)
    if kind in {"node_failed", "run_failed"}:
        return f"{one_line(event.get('node') or 'run')} failed  {one_line(data.get('code') or '')}"
    node, _, what = kind.partition("_")
    if what not in {"started", "finished"}:
        return ""
    name = one_line(event["node"]) if node == "node" else "run"
    model = one_line(f"{data.get('provider') or ''} {data.get('model') or ''}")
    facts = [f"{name} {what}", model, _tokens(_total(data)), "reused" if data.get("cached") else ""]
    facts += ["partly on the CPU"] if data.get("degraded") else []
    return "  ".join(fact for fact in facts if fact)


def _plain_started(event: Event, data: Mapping[str, Any]) -> str:
    mode = one_line(data.get("mode") or "")
    resumed = "  resumed" if data.get("resumed") else ""
    return f"run {one_line(event.get('run_id') or '')} started  mode {'MOCK' if mode == 'mock' else mode}{resumed}"
