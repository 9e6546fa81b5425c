"""Dead letters as a table."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from sparklio.plain_text import printable

__all__ = ["letters_table"]


def letters_table(letters: list[dict[str, Any]]) -> Table:
    """``letters`` as :meth:`sparklio.worker.queue.Queue.letter` tells them."""
    table = Table("run", "product", "deliveries", "failed", "reason", box=None)
    for letter in letters:
        error = letter["error"]
        words = (letter["run_id"], letter["product"], str(letter["deliveries"]), letter["finished_at"] or "")
        table.add_row(*map(printable, words), printable(f"{error.get('code')}: {error.get('message')}"))
    return table
