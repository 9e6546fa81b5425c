"""The index of a batch's pages: HTML without scripts, 200 rows a page; only pages that changed are written anew."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from graph.store import RunStore
from routing.image_store import write_whole
from sparklio.batch.book import Book, Outcome
from sparklio.batch.thumbnails import Thumbnails
from sparklio.publish import IMAGES, PAGE_FILE

__all__ = ["ROWS_A_PAGE", "Index", "file_of"]

ROWS_A_PAGE = 200
_FILE = re.compile(r"index-([0-9]+)\.html")


def file_of(page: int) -> str:
    """The name of a page, from 1."""
    return "index.html" if page == 1 else f"index-{page}.html"


class Index:
    """The index in ``folder``, of the runs in ``store``."""

    def __init__(self, folder: Path, store: RunStore, batch: str) -> None:
        self._folder = folder
        self._store = store
        self._batch = batch
        self._runs = os.path.relpath(store.folder("any").parent.resolve(), folder.resolve())
        self._thumbnails = Thumbnails(folder / "thumbnails")
        loader = PackageLoader("sparklio.batch", ".")
        environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        self._template = environment.get_template("index.html.j2")

    def write(self, book: Book, changed: set[int], facts: str) -> None:
        """Write the pages of the rows that changed, and the first one, which has the ``facts``.

        Raises:
            StorageError: the disk refuses.
        """
        pages = -(-len(book) // ROWS_A_PAGE)
        for page in sorted({1, *(number // ROWS_A_PAGE + 1 for number in changed)}):
            rows = list(self._rows(book, page))
            text = self._template.render(
                batch=self._batch, facts=facts, page=page, pages=pages, rows=rows, file_of=file_of
            )
            write_whole(self._folder / file_of(page), text.encode())
        self._remove_behind(pages)

    def _rows(self, book: Book, page: int) -> Iterator[dict[str, Any]]:
        first = (page - 1) * ROWS_A_PAGE
        for number in range(first, min(first + ROWS_A_PAGE, len(book))):
            outcome = book.outcome(number)
            yield {
                "outcome": outcome,
                "title": outcome.product or outcome.name or outcome.place,
                "link": self._link(outcome),
                "thumbnail": self._thumbnail(outcome),
            }

    def _link(self, outcome: Outcome) -> str | None:
        """Relative, so that the data folder can be moved as a whole."""
        if outcome.run_id is None or outcome.status not in ("finished", "duplicate"):
            return None
        return quote(f"{self._runs}/{outcome.run_id}/{PAGE_FILE}")

    def _thumbnail(self, outcome: Outcome) -> str | None:
        if outcome.run_id is None or outcome.image_id is None:
            return None
        return self._thumbnails.data_url(outcome.image_id, self._store.folder(outcome.run_id) / IMAGES)

    def _remove_behind(self, pages: int) -> None:
        """Those of a longer table."""
        for path in self._folder.glob("index-*.html"):
            if (found := _FILE.fullmatch(path.name)) and int(found[1]) > pages:
                path.unlink(missing_ok=True)
