"""What people see while a batch goes on: one bar in a terminal, a line a row elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sparklio.batch.book import Book, Outcome
from sparklio.batch.pace import Pace, span
from sparklio.plain_text import one_line
from sparklio.view import seconds

if TYPE_CHECKING:
    from sparklio.batch.session import Session

__all__ = ["BatchView", "make_view", "reasons_table"]

_BAR = 30
_UNWRAPPED = 10_000  # a pipe has no width


class BatchView(Protocol):
    """Takes each row that has ended, inside a ``with`` block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def update(self, outcome: Outcome) -> None: ...


def make_view(session: Session, *, as_json: bool, plain: bool) -> BatchView:
    """With ``as_json`` only a terminal's stderr gets anything."""
    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=as_json, highlight=False, quiet=as_json, width=_UNWRAPPED)
    facts = _Facts(session.book, session.pace, session.to_make)
    if plain or not console.is_terminal or console.options.ascii_only:
        return _Lines(console, facts)
    return _Bar(console, session.name, facts)


class _Bar:
    """Redrawn in place, at most four times a second; failures stand above it and stay."""

    def __init__(self, console: Console, batch: str, facts: _Facts) -> None:
        self._console = console
        self._facts = facts
        self._batch = one_line(batch)
        self._live = Live(
            console=console, refresh_per_second=4, get_renderable=self.render, redirect_stdout=not console.stderr
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, outcome: Outcome) -> None:
        self._facts.ended += 1
        if outcome.status != "finished":
            self._console.print(Text(_words(outcome), "red", no_wrap=True, overflow="ellipsis"))

    def render(self) -> RenderableType:
        facts = self._facts
        filled = _BAR * facts.ended // max(1, facts.to_make)
        bar = Text.assemble(
            (self._batch, "bold"), "  ", ("━" * filled, "cyan"), ("─" * (_BAR - filled), "dim"), f"  {facts.count()}"
        )
        return Group(_fitting(bar), _fitting(Text(facts.rest(), "dim")))


class _Lines:
    def __init__(self, console: Console, facts: _Facts) -> None:
        self._console = console
        self._facts = facts

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def update(self, outcome: Outcome) -> None:
        self._facts.ended += 1
        facts = self._facts
        line = f"[{facts.count()}] {_words(outcome)}  time left {facts.left()}".encode(
            self._console.encoding, "replace"
        )
        self._console.print(Text(line.decode(self._console.encoding)), soft_wrap=True, highlight=False)


class _Facts:
    """``ended`` of the rows ``to_make``; those that were kept are in neither."""

    def __init__(self, book: Book, pace: Pace, to_make: int) -> None:
        self._book = book
        self._pace = pace
        self.to_make = to_make
        self.ended = 0

    def count(self) -> str:
        return f"{self.ended}/{self.to_make}"

    def left(self) -> str:
        return span(self._pace.left_s(self.to_make - self.ended - self._pace.under_way))

    def rest(self) -> str:
        book, rate = self._book, self._pace.per_minute()
        facts = [
            f"{book.counts['finished'] - book.kept} done",
            f"{book.failed} failed",
            f"{self.to_make - self.ended} left",
            f"{book.kept} kept" if book.kept else "",
            "" if rate is None else f"{rate:.1f} a minute",
            f"time left {self.left()}",
        ]
        return "  ".join(fact for fact in facts if fact)


def _words(outcome: Outcome) -> str:
    """One line for a row that has ended."""
    title = one_line(outcome.run_id or outcome.place)
    if outcome.status == "finished":
        return f"{title}  {outcome.score}/100  {seconds((outcome.seconds or 0) * 1000)}"
    return f"{title}  {outcome.status}  {one_line(outcome.code)}: {one_line(outcome.message)}"


def _fitting(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def reasons_table(reasons: Mapping[str, int], examples: Mapping[str, Outcome]) -> Table:
    """A row for each code for which rows failed, with one of them.

    Args:
        reasons: how many rows, by code.
        examples: a row for each code.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("failed", justify="right")
    table.add_column("because", no_wrap=True)
    table.add_column("e.g.", overflow="fold")
    for code, count in reasons.items():
        example = examples[code]
        table.add_row(f"{count:,}", one_line(code), Text(f"{one_line(example.place)}: {one_line(example.message)}"))
    return table
