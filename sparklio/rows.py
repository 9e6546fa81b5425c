"""A run's rows in the database, and how they travel: JSON lines, with bytes as base64."""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Collection
from typing import Any

from graph.database import SEALED, TABLES, Database, Row
from graph.vault import PLAIN

__all__ = [
    "TABLES",
    "Row",
    "form_of",
    "image_names",
    "key_of",
    "plain",
    "read_rows",
    "sealed",
    "to_line",
    "to_row",
]

_NULLABLE = "parent_checkpoint_id"
_MOST = 2**63
_TYPED = ("checkpoints", "writes")  # LangGraph's: the form stands behind the type
_ID_DIGITS = 32
_DIGITS = re.compile(rf"[0-9a-f]{{{_ID_DIGITS},}}")


async def read_rows(database: Database, table: str, run_id: str) -> list[Row]:
    """All rows of a run.

    Raises:
        StorageError: the database cannot be read.
    """
    return await database.rows(table, run_id)


def to_line(table: str, row: Row) -> bytes:
    """A row as one line of JSON."""
    held = {
        name: b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in zip(TABLES[table], row, strict=True)
    }
    return json.dumps(held, ensure_ascii=False).encode() + b"\n"


def to_row(table: str, line: bytes, run_id: str) -> Row:
    """The row in a line.

    Raises:
        ValueError: it is no row of this table, or one of another run.
    """
    held = json.loads(line)
    if not isinstance(held, dict) or list(held) != list(TABLES[table]):
        raise ValueError("it has not the columns of the table")
    if held["thread_id"] != run_id:
        raise ValueError("it belongs to another run")
    return tuple(_cell(name, kind, held[name]) for name, kind in TABLES[table].items())


def _cell(name: str, kind: type, value: Any) -> Any:
    if value is None and name == _NULLABLE:
        return None
    if kind is bytes and isinstance(value, str):
        return b64decode(value, validate=True)
    if type(value) is not kind or (isinstance(value, int) and not -_MOST <= value < _MOST):
        raise ValueError(f"{name} is not of its type")
    if isinstance(value, str):
        value.encode()  # half a surrogate pair is no text for SQLite, and NUL none for PostgreSQL
        if "\0" in value:
            raise ValueError(f"{name} holds NUL")
    return value


def plain(database: Database, table: str, row: Row) -> bytes:
    """What the value of a row is beneath its form.

    Raises:
        SparklioError: it is damaged, or of a form that this version or this machine's key does not open.
    """
    _, _, value = SEALED[table]
    form, content = form_of(table, row), row[list(TABLES[table]).index(value)]
    return database.vault.decrypt(form, content) if form else bytes(content)


def sealed(database: Database, table: str, row: Row, content: bytes) -> Row:
    """The row as this machine would keep it: where it has a key, nothing stays readable without."""
    if not database.vault.encrypts or form_of(table, row) not in ("", PLAIN):
        return row
    _, said, value = SEALED[table]
    held = dict(zip(TABLES[table], row, strict=True))
    form, held[value] = database.vault.encrypt(content)
    held[said] = f"{held[said].partition('+')[0]}+{form}" if table in _TYPED else form
    return tuple(held.values())


def form_of(table: str, row: Row) -> str:
    """The form in which a row's value is kept; empty: as it is."""
    _, name, _ = SEALED[table]
    said = str(row[list(TABLES[table]).index(name)])
    return said.partition("+")[2] if table in _TYPED else said


def key_of(table: str, row: Row) -> Row:
    """What no two rows of a table have in common."""
    return tuple(value for name, value in zip(TABLES[table], row, strict=True) if name in SEALED[table][0])


def image_names(content: bytes, known: Collection[str]) -> set[str]:
    """Which of the ``known`` ids of images stand in ``content``; in a longer row of hex digits one may begin anywhere.

    Too many rather than one too few: a text may look like an id.
    """
    found = set[str]()
    for digits in _DIGITS.findall(content.decode("latin-1")):
        at_each_place = (digits[at : at + _ID_DIGITS] for at in range(len(digits) - _ID_DIGITS + 1))
        found.update(name for name in at_each_place if name in known)
    return found
