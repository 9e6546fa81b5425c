"""What the columns of a table mean: dotted paths into the form of an input file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from graph.inputs import RunInput
from providers.errors import InputError, nearest
from sparklio.batch.cells import as_meant

__all__ = ["FAILURE", "Column", "columns_of", "data_of", "name_of"]

FAILURE = "failure."
"""Columns that a batch itself has written beside the rows; given again they mean nothing."""

Column = tuple[str, ...] | None
"""The path of a column's values; None: they mean nothing; empty: it has no title, and may have no values."""

_ID: Column = ("id",)
_FACTS = ("product", "facts")
_LISTS = ("key_features", "uploaded_materials")
_FACT = re.compile(r"(?:product\.)?facts\.\s*(\S.*)", re.IGNORECASE)
_BETWEEN = re.compile(r"[|\r\n]")


def _known() -> dict[str, tuple[str, ...]]:
    """Paths by titles; the product's own go without ``product.``, too."""
    paths: dict[str, tuple[str, ...]] = {"id": ("id",)}
    for name, field in RunInput.model_fields.items():
        kind = field.annotation
        parts = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        paths |= {name: (name,)} if parts is None else {f"{name}.{part}": (name, part) for part in parts}
    del paths[".".join(_FACTS)]
    return {path[1]: path for path in paths.values() if path[0] == "product"} | paths


_KNOWN = _known()


def columns_of(titles: Sequence[str], file: str) -> list[Column]:
    """The meaning of each column.

    Raises:
        InputError: a title is unknown, or two columns mean the same.
    """
    columns = [_column(title.strip(), f"{file}: column {number}") for number, title in enumerate(titles, 1)]
    seen: dict[Column, int] = {}
    for number, column in enumerate(columns, 1):
        if column and column in seen:
            raise InputError(
                f"{file}: columns {seen[column]} and {number} both are {'.'.join(column)}", hint="remove one of them"
            )
        seen[column] = number
    return columns


def _column(title: str, place: str) -> Column:
    word = title.lower()
    if word.startswith(FAILURE):
        return None
    if not word or word in _KNOWN:
        return _KNOWN.get(word, ())
    if fact := _FACT.fullmatch(title):
        return (*_FACTS, fact[1])
    close = nearest(word, _KNOWN)
    raise InputError(
        f"{place}: unknown title {title!r}",
        hint=f"did you mean {close!r}?" if close else f"facts are product.facts.{title}; known: {', '.join(_KNOWN)}",
    )


def name_of(columns: Sequence[Column], cells: Sequence[str]) -> str:
    """What the row calls itself; empty where it does not."""
    return next((cell.strip() for column, cell in zip(columns, cells, strict=False) if column == _ID), "")


def data_of(columns: Sequence[Column], cells: Sequence[str]) -> dict[str, Any]:
    """A row as its part of an input file's form; empty cells are left out.

    Raises:
        InputError: it has a value in a column without a title.
    """
    titled = [*columns, *[()] * (len(cells) - len(columns))]
    for number, (column, cell) in enumerate(zip(titled, cells, strict=False), 1):
        if column == () and cell.strip():
            raise InputError(
                f"column {number} has a value and no title", hint="put a text that has the delimiter in it into quotes"
            )
    data: dict[str, Any] = {}
    for column, cell in zip(columns, cells, strict=False):
        text = as_meant(cell.strip())
        if not column or column == _ID or not text:
            continue
        inside = data
        for part in column[:-1]:
            inside = inside.setdefault(part, {})
        inside[column[-1]] = _entries(text) if column[-1] in _LISTS and len(column) == 2 else text
    return data


def _entries(text: str) -> list[str]:
    """One a line, or with | between them."""
    return [entry.strip() for entry in _BETWEEN.split(text) if entry.strip()]
