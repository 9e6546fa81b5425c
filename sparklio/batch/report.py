"""What a batch writes of itself into its folder: summary.json, summary.csv, failures.csv and the index."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from graph.sqlite import storage_errors
from graph.store import RunStore
from providers.errors import UsageError
from routing.image_store import write_whole
from sparklio.batch.book import Book
from sparklio.batch.cells import neutral
from sparklio.batch.columns import FAILURE
from sparklio.batch.index import Index, file_of
from sparklio.batch.plan import Key

__all__ = ["FAILURES", "SUMMARY", "Report", "check_folder", "remove_torn", "told"]

SUMMARY = "summary.json"
SUMMARY_TABLE = "summary.csv"
FAILURES = "failures.csv"
_TORN = re.compile(rf"\.(?:index(?:-[0-9]+)?\.html|summary\.(?:json|csv)|{re.escape(FAILURES)})\.[0-9a-f]{{16}}")
_COLUMNS = (
    "row", "name", "product", "run_id", "status", "kept", "score", "approved", "cost_usd", "seconds",
    "code", "message", "hint",
)  # fmt: skip
_REASON = ("code", "message")


def check_folder(folder: Path, batch: str) -> None:
    """See that nothing but this batch's own report would be overwritten there.

    Raises:
        UsageError: something would.
        StorageError: the folder cannot be read.
    """
    summary = folder / SUMMARY
    with storage_errors(str(folder)):
        holder = _batch_in(summary.read_bytes()) if summary.exists() else None
        others = [name for name in (SUMMARY, SUMMARY_TABLE, FAILURES, file_of(1)) if (folder / name).exists()]
    if others and holder != batch:
        what = f"those of batch {holder!r}" if holder else f"{', '.join(others)} of somebody else's"
        raise UsageError(f"{folder} holds {what}", hint="choose another --out")


def _batch_in(summary: bytes) -> str | None:
    try:
        return str(json.loads(summary)["batch"])
    except (ValueError, LookupError, TypeError):
        return None


def remove_torn(folder: Path) -> None:
    """Take away what a killed process left half written; only who is alone in the folder may do so.

    Raises:
        StorageError: it cannot be removed.
    """
    with storage_errors(str(folder)):
        for path in folder.iterdir():
            if _TORN.fullmatch(path.name):
                path.unlink(missing_ok=True)


class Report:
    """Writes each file whole; a thread may do it.

    Args:
        folder: the batch's.
        header: the titles of the rows' cells.
        file: the table.
    """

    def __init__(
        self, folder: Path, book: Book, store: RunStore, key: Key, *, header: Sequence[str], file: Path
    ) -> None:
        self._folder = folder
        self._book = book
        self._key = key
        self._header = header
        self._file = file
        self._index = Index(folder, store, key.batch)
        self._started = time.monotonic()

    def write(self) -> None:
        """Raises StorageError where the disk refuses; the next time then writes what this one did not."""
        self._write_tables()
        changed = self._book.take_changed()
        try:
            self._index.write(self._book, changed, told(self.totals()))
        except BaseException:
            self._book.tell_again(changed)
            raise

    def totals(self) -> dict[str, Any]:
        book = self._book
        return {
            "batch": self._key.batch,
            "file": str(self._file),
            "mode": self._key.mode,
            "stage": self._key.stage,
            "rows": len(book),
            "finished": book.counts["finished"],
            "kept": book.kept,
            "failed": book.failed,
            "duplicates": book.counts["duplicate"],
            "left": book.left,
            "cost_usd": book.cost_usd,
            "seconds": round(time.monotonic() - self._started, 3),
            "reasons": {code: count for code, count in book.reasons.most_common() if count},
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "folder": str(self._folder),
            "index": str(self._folder / file_of(1)),
        }

    def _write_tables(self) -> None:
        """All in one pass over the rows: whoever interrupts a batch waits for it."""
        head = json.dumps(self.totals(), ensure_ascii=False, indent=1).removesuffix("\n}")
        lines: list[bytes] = []
        summary, failures = _Csv(_COLUMNS), _Csv([*self._titles(), *(f"{FAILURE}{name}" for name in _REASON)])
        for number, line in enumerate(self._book.outcome_texts()):
            lines.append(line)
            outcome = json.loads(line)
            summary.add(outcome[name] for name in _COLUMNS)
            if outcome["status"] in ("failed", "cancelled"):
                failures.add([*self._cells(number), *(outcome[name] for name in _REASON)])
        rows = b",\n".join(lines)
        whole = b'%b,\n "results": [\n%b\n]}\n' % (head.encode(errors="backslashreplace"), rows)
        write_whole(self._folder / SUMMARY, whole)
        write_whole(self._folder / SUMMARY_TABLE, summary.content())
        if failures.rows:
            write_whole(self._folder / FAILURES, failures.content())
        else:
            with storage_errors(str(self._folder)):
                (self._folder / FAILURES).unlink(missing_ok=True)

    def _titles(self) -> list[str]:
        """Without the reasons of an earlier failure."""
        return [title for title in self._header if not _is_reason(title)]

    def _cells(self, number: int) -> list[str]:
        cells = self._book.row(number).cells
        cells = [*cells, *[""] * (len(self._header) - len(cells))]
        return [cell for title, cell in zip(self._header, cells, strict=False) if not _is_reason(title)]


class _Csv:
    """A table as Excel reads it: by its mark for UTF-8; no text is a formula there."""

    def __init__(self, header: Iterable[str]) -> None:
        self._text = io.StringIO(newline="")
        self._writer = csv.writer(self._text)
        self.rows = -1
        self.add(header)

    def add(self, cells: Iterable[Any]) -> None:
        self._writer.writerow([neutral(cell) if isinstance(cell, str) else cell for cell in cells])
        self.rows += 1

    def content(self) -> bytes:
        return self._text.getvalue().encode("utf-8-sig", "replace")


def _is_reason(title: str) -> bool:
    return title.strip().lower().startswith(FAILURE)


def told(totals: dict[str, Any]) -> str:
    """The totals in a sentence."""
    kept = f" ({totals['kept']:,} kept)" if totals["kept"] else ""
    facts = [f"{totals['rows']:,} rows: {totals['finished']:,} finished{kept}", f"{totals['failed']:,} failed"]
    facts += [f"{totals[name]:,} {name}" for name in ("left", "duplicates") if totals[name]]
    facts += [f"{totals['cost_usd']:.4f} USD"] if totals["cost_usd"] else []
    return ", ".join([*facts, f"mode {totals['mode']}"])
