"""Which run is a row's own, and which rows are still to be made."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice

from graph.store import RunRecord, RunStore
from providers.errors import InputError, SparklioError, StorageError, describe
from routing.contracts import Mode, Stage
from routing.image_store import ImageStore
from sparklio.batch.book import Book, Job, Outcome, outcome_of_error
from sparklio.batch.forms import Filled, Forms
from sparklio.batch.table import Row, Table
from sparklio.copies import make_copies
from sparklio.publish import read_result

__all__ = ["Kept", "Key", "Plan", "finished_outcome", "make_plan", "record_of"]

_LISTED = 20
_BATCH_CHARS, _NAME_CHARS, _DIGEST_CHARS = 14, 20, 12
# An id has 48 characters. With eight digits one in a hundred batches of 10,000 rows would have two rows of one id;
# with twelve it is one in five million.


@dataclass(frozen=True)
class Key:
    """What a run's id follows from, beside the row: a page in mock is not the one in live."""

    batch: str
    mode: Mode
    stage: Stage

    def run_id(self, row: Row, filled: Filled) -> str:
        """The same for the same row, wherever it stands in the table.

        Raises:
            InputError: its photo cannot be read.
        """
        digest = filled.digest(self.batch, self.mode, self.stage)
        name = _word(row.name or filled.inputs.product.name)
        parts = (_word(self.batch)[:_BATCH_CHARS] or "batch", name[:_NAME_CHARS], digest[:_DIGEST_CHARS])
        return "-".join(part.strip("-_") for part in parts if part.strip("-_"))


@dataclass
class Plan:
    """``wrong`` counts the rows that are, ``problems`` and ``warnings`` hold a sentence each for the first ones."""

    book: Book
    to_make: array[int] = field(default_factory=lambda: array("q"))
    wrong: int = 0
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def jobs(self, limit: int | None = None) -> Iterator[Job]:
        """The rows that are to be made, in the order of the table."""
        for number in islice(self.to_make, limit):
            run_id = self.book.outcome(number).run_id
            if run_id is None:
                raise RuntimeError("a wrong row is not to be made")
            yield Job(number, self.book.row(number), run_id)

    def refuse_wrong(self, file: str) -> None:
        """Raises InputError where rows are wrong: told before anything is paid for, and all at once."""
        if self.wrong:
            more = [f"and {self.wrong - _LISTED} more"] if self.wrong > _LISTED else []
            raise InputError(
                "\n  ".join([f"{self.wrong} of {len(self.book)} rows are wrong:", *self.problems, *more]),
                hint=f"mend them in {file}; nothing was started. --keep-going makes the others",
                details={"wrong": self.wrong, "rows": self.problems},
            )


@dataclass(frozen=True)
class Kept:
    """Where runs are kept, and the images and pages of those that other machines have made."""

    store: RunStore
    images: ImageStore


def make_plan(table: Table, forms: Forms, book: Book, key: Key, kept: Kept, *, retry_failed: bool) -> Plan:
    """Read all rows into ``book``, with what is known of each.

    Raises:
        InputError: the table cannot be read to its end, or has no rows.
        StorageError: the disk refuses.
    """
    plan, seen = Plan(book), dict[str, str]()
    for row in table.rows():
        outcome = Outcome(row.number, row.place, row.name)
        try:
            outcome = _identified(plan, row, outcome, forms, key)
        except InputError as exc:
            plan.wrong += 1
            plan.problems.extend([exc.message] if len(plan.problems) < _LISTED else [])
            outcome = outcome_of_error(outcome, describe(exc))
        if outcome.run_id is not None:
            first = seen.setdefault(outcome.run_id, row.place)
            outcome = (
                _standing(outcome, kept, retry_failed=retry_failed) if first == row.place else _same(outcome, first)
            )
        if outcome.status == "waiting":
            plan.to_make.append(len(book))
        book.add(row, outcome)
    if not len(book):
        raise InputError(f"{table.file} holds no rows", hint="a row for each product, or a YAML file for each")
    return plan


def _identified(plan: Plan, row: Row, outcome: Outcome, forms: Forms, key: Key) -> Outcome:
    filled = forms.fill(row)
    for warning in filled.inputs.warnings:
        if len(plan.warnings) < _LISTED:
            plan.warnings.append(f"{row.place}: {warning}")
    return replace(outcome, product=filled.inputs.product.name, run_id=key.run_id(row, filled))


def _same(outcome: Outcome, first: str) -> Outcome:
    return replace(outcome, status="duplicate", message=f"says the same as {first}, and shares its page")


def _standing(outcome: Outcome, kept: Kept, *, retry_failed: bool) -> Outcome:
    """What an earlier batch has made of the row; "waiting" if it is to be made, or gone on with."""
    try:
        record = record_of(kept.store, str(outcome.run_id))
        if record is None:
            return outcome
        if record.status == "finished":
            return replace(finished_outcome(outcome, kept, record), kept=True)
        if record.status == "cancelled":
            why = {"code": "cancelled", "message": "was cancelled", "hint": f"`sparklio resume {record.run_id}`"}
            return outcome_of_error(outcome, why, "cancelled")
        if record.status == "failed" and not retry_failed:
            return outcome_of_error(outcome, record.error or {})
    except SparklioError as exc:
        return outcome_of_error(outcome, describe(exc))
    return outcome


def record_of(store: RunStore, run_id: str) -> RunRecord | None:
    """The record of a run, if there is one. The store itself would list all runs for each that there is not.

    Raises:
        StorageError: it is damaged, or cannot be read.
    """
    return store.load(run_id) if store.exists(run_id) else None


def finished_outcome(outcome: Outcome, kept: Kept, record: RunRecord) -> Outcome:
    """What a finished run tells of itself; a page that another machine has made is copied to where the index looks.

    Raises:
        StorageError: its result cannot be read, or is gone.
    """
    try:
        result = read_result(kept.store, record.run_id)
    except FileNotFoundError as exc:
        raise StorageError(
            f"the result of run {record.run_id!r} is gone",
            hint=f"`sparklio rerun {record.run_id} --from reviewer`, or delete the run's folder and begin again",
        ) from exc
    if kept.store.shared:
        make_copies(kept.store, kept.images, record.run_id, result)
    review, meta = result["review"], result["meta"]
    return replace(
        outcome,
        status="finished",
        score=review["score"],
        approved=review["approved"],
        cost_usd=meta["cost_usd"],
        seconds=round(meta["wall_ms"] / 1000, 3),
        image_id=result["image"]["image_id"],
    )


def _word(text: str) -> str:
    """What of a text may stand in an id: nothing of Korean."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_]+", "-", plain).strip("-_")
