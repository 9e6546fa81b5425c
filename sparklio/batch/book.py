"""What is known of each row of a batch: which run is its own, and what has become of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from sparklio.batch.spool import Spool
from sparklio.batch.table import Row

__all__ = ["Book", "Job", "Outcome", "RowStatus", "outcome_of_error"]

RowStatus = Literal["waiting", "running", "finished", "failed", "interrupted", "cancelled", "duplicate"]
"""Duplicate: an earlier row says the same, and their page is one."""


@dataclass(frozen=True)
class Job:
    """A row and the id of its run; ``number`` is its place in the book."""

    number: int
    row: Row
    run_id: str


@dataclass(frozen=True)
class Outcome:
    """What has become of a row, as summary.json tells it.

    Attributes:
        row: its number in the table; ``place`` says it for people.
        run_id: None for a row that is wrong.
        kept: the page was there before this batch began.
        seconds: what the run took, ``cost_usd`` what it paid (None where a price is unknown).
        image_id: of the page's picture.
        code, message, hint: why it failed.
    """

    row: int
    place: str
    name: str = ""
    product: str = ""
    run_id: str | None = None
    status: RowStatus = "waiting"
    kept: bool = False
    score: int | None = None
    approved: bool | None = None
    cost_usd: float | None = None
    seconds: float | None = None
    image_id: str | None = None
    code: str = ""
    message: str = ""
    hint: str = ""


def outcome_of_error(before: Outcome, body: dict[str, Any], status: RowStatus = "failed") -> Outcome:
    """``body``: the inside of an error object."""
    told = {name: str(body.get(name) or "") for name in ("code", "message", "hint")}
    return replace(before, status=status, **told)  # type: ignore[arg-type]


class Book:
    """The rows in the order of the table; on disk, but for what is counted.

    Attributes:
        counts: how many rows there are of each status.
        kept: how many of the finished ones were there before.
        cost_usd: what this batch's own rows paid; None once one had no known price.
        reasons: how many rows failed for each code.
        examples: for each code one row that failed for it.
    """

    def __init__(self, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.examples: dict[str, Outcome] = {}
        self.kept = 0
        self.cost_usd: float | None = 0.0
        self._changed: set[int] = set()
        self._guard = threading.Lock()
        with ExitStack() as stack:
            self._rows = stack.enter_context(Spool(folder))
            self._outcomes = stack.enter_context(Spool(folder))
            self._opened = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row, outcome: Outcome) -> None:
        self._rows.append({**vars(row), "file": str(row.file) if row.file else None})
        self.tell_again({self._outcomes.append(vars(outcome))})
        self._count(outcome, 1)

    def row(self, number: int) -> Row:
        held = self._rows[number]
        return Row(**{**held, "file": Path(held["file"]) if held["file"] else None})

    def outcome(self, number: int) -> Outcome:
        return Outcome(**self._outcomes[number])

    def outcome_texts(self) -> Iterator[bytes]:
        """Each outcome as a line of JSON."""
        return (self._outcomes.text(number) for number in range(len(self)))

    def write(self, number: int, outcome: Outcome) -> None:
        self._count(self.outcome(number), -1)
        self._outcomes[number] = vars(outcome)
        self.tell_again({number})
        self._count(outcome, 1)

    def take_changed(self) -> set[int]:
        """Numbers of the rows whose outcome nobody has taken yet; whoever cannot use them says :meth:`tell_again`."""
        with self._guard:
            changed, self._changed = self._changed, set()
        return changed

    def tell_again(self, numbers: set[int]) -> None:
        with self._guard:
            self._changed |= numbers

    @property
    def left(self) -> int:
        """Rows that have not come to an end."""
        return sum(self.counts[status] for status in ("waiting", "running", "interrupted"))

    @property
    def failed(self) -> int:
        """Cancelled ones, too: their pages are missing, and the same command does not make them."""
        return self.counts["failed"] + self.counts["cancelled"]

    def _count(self, outcome: Outcome, by: int) -> None:
        self.counts[outcome.status] += by
        self.kept += by * outcome.kept
        if outcome.status in ("failed", "cancelled"):
            self.reasons[outcome.code] += by
            self.examples.setdefault(outcome.code, outcome)
        if outcome.status == "finished" and not outcome.kept and self.cost_usd is not None:
            self.cost_usd = None if outcome.cost_usd is None else self.cost_usd + by * outcome.cost_usd
