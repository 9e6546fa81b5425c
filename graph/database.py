"""The database of a data folder: checkpoints, what calls came to, long texts. A file of SQLite, or PostgreSQL by a URL.

Both keep the same values in the same forms, strict about what they revive. Their SQL is one dialect: ``?`` for a value,
``ON CONFLICT`` for what may be there already.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from graph.long_texts import LongTexts, Thrifty
from graph.sqlite import Statement
from graph.vault import Vault
from providers.errors import ConfigError, StorageError

__all__ = [
    "SEALED",
    "TABLES",
    "URL_HINT",
    "Database",
    "Row",
    "Serializer",
    "check_key",
    "in_order",
    "open_database",
    "reseal_database",
    "resealed",
    "serializer",
]

Row = tuple[Any, ...]

TABLES: Mapping[str, Mapping[str, type]] = {
    "texts": {"thread_id": str, "digest": str, "form": str, "body": bytes},
    "checkpoints": {
        "thread_id": str,
        "checkpoint_ns": str,
        "checkpoint_id": str,
        "parent_checkpoint_id": str,
        "type": str,
        "checkpoint": bytes,
        "metadata": bytes,
    },
    "writes": {
        "thread_id": str,
        "checkpoint_ns": str,
        "checkpoint_id": str,
        "task_id": str,
        "task_path": str,
        "idx": int,
        "channel": str,
        "type": str,
        "value": bytes,
    },
    "effects": {
        "thread_id": str,
        "node": str,
        "ordinal": int,
        "fingerprint": str,
        "form": str,
        "body": bytes,
    },
}
"""A run's rows as SQLite keeps them and as they travel; texts first, for values of the others refer to them.

Parents of first checkpoints are NULL; nothing else is.
"""

SEALED = {
    "checkpoints": (("thread_id", "checkpoint_ns", "checkpoint_id"), "type", "checkpoint"),
    "writes": (("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx"), "type", "value"),
    "effects": (("thread_id", "node", "ordinal", "fingerprint"), "form", "body"),
    "texts": (("thread_id", "digest"), "form", "body"),
}
"""The same tables: their key, the column of a value's form, the column of the value."""

URL_HINT = "postgresql://user:password@host:5432/database"
_URLS = ("postgresql://", "postgres://")
_KEY_HINT = "set SPARKLIO_ENCRYPTION_KEY to the key that it was begun with, or SPARKLIO_HOME to another folder"


class Database(ABC):
    """LangGraph's saver and our tables, for one process and event loop.

    Attributes:
        saver: LangGraph's checkpointer.
        vault: how bytes are kept.
        tables: those that hold rows of runs.
        is_file: whether it lies in the data folder.
    """

    tables: ClassVar[tuple[str, ...]]
    is_file: ClassVar[bool]

    def __init__(self, saver: Thrifty, vault: Vault) -> None:
        self.saver = saver
        self.vault = vault

    @property
    def texts(self) -> LongTexts:
        return self.saver.texts

    async def read(self, sql: str, values: Iterable[Any] = ()) -> list[Row]:
        """All rows.

        Raises:
            StorageError: the database cannot be read.
        """
        return await self.saver.engine.read(sql, values)

    async def write(self, *statements: Statement) -> None:
        """Statements with their values, all in one transaction, or none of them. On PostgreSQL they may be executed
        twice: what is there already must do no harm.

        Raises:
            StorageError: the database cannot be written.
        """
        await self.saver.engine.write(*statements)

    async def forget(self, run_id: str) -> None:
        """Delete all rows of a run, in one transaction.

        Raises:
            StorageError: the database cannot be written.
        """
        self.texts.release(run_id)
        await self.write(*((f"DELETE FROM {table} WHERE thread_id = ?", (run_id,)) for table in self.tables))  # noqa: S608

    async def run_ids(self) -> set[str]:
        """Of all runs that have rows."""
        every = [await self.read(f"SELECT DISTINCT thread_id FROM {table}") for table in self.tables]  # noqa: S608
        return {row[0] for rows in every for row in rows}

    @abstractmethod
    async def measure(self, run_id: str) -> int:
        """About how many bytes the rows of a run take."""

    @abstractmethod
    async def size(self) -> int:
        """Bytes of the whole database."""

    async def rows(self, table: str, run_id: str) -> list[Row]:
        """A run's rows of one of :data:`TABLES`, in the order of their columns that are no bytes.

        Raises:
            StorageError: the database cannot be read.
        """
        columns = ", ".join(TABLES[table])
        found = await self.read(f"SELECT {columns} FROM {table} WHERE thread_id = ?", (run_id,))  # noqa: S608
        return in_order(table, found)

    def insertions(self, table: str, rows: Iterable[Row]) -> list[Statement]:
        """The statements that write such rows.

        Raises:
            ValueError: a row is nothing that this database could hold.
        """
        marks = ", ".join("?" for _ in TABLES[table])
        sql = f"INSERT INTO {table} ({', '.join(TABLES[table])}) VALUES ({marks})"  # noqa: S608 - our own names
        return [(sql, row) for row in rows]


def in_order(table: str, rows: Iterable[Row]) -> list[Row]:
    """Sorted here, for each database has another opinion of what comes first."""
    plain = [place for place, kind in enumerate(TABLES[table].values()) if kind is not bytes]
    return sorted(rows, key=lambda row: [(row[place] is not None, row[place]) for place in plain])


class Serializer(EncryptedSerializer):
    """LangGraph's, with a typed error for a value that nobody can read."""

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        try:
            return super().loads_typed(data)
        except (NotImplementedError, TypeError, ValueError) as exc:
            raise StorageError(
                f"a value in the database is damaged: {exc}",
                hint="put a copy of the database in its place, or start a new run",
            ) from exc


def serializer(vault: Vault, kind: type[Serializer] = Serializer) -> Serializer:
    """The state is plain JSON, so nothing else is ever revived.

    That is what LANGGRAPH_STRICT_MSGPACK=true makes the default. The variable is the host program's to set: LangGraph
    reads it once, at its import, for every saver there is.
    """
    return kind(vault, JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=None))


def check_key(marks: Mapping[str, Any], vault: Vault, what: str) -> None:
    """Raises ConfigError where ``what``, which holds these marks, was begun with another key or needs one."""
    if "canary" not in marks:
        return
    if not vault.encrypts:
        raise ConfigError(f"{what} is encrypted, and there is no key", hint=_KEY_HINT)
    if not vault.fits(marks["canary"]):
        raise ConfigError(f"{what} is encrypted with another key", hint=_KEY_HINT)


def resealed(row: tuple[str, bytes], old: Vault, new: Vault, *, typed: bool) -> tuple[str, bytes]:
    """A form and a value under another key. LangGraph's values have a type before their form, and had nothing else
    before layout 1."""
    kind, _, form = row[0].partition("+") if typed else ("", "", row[0])
    form, value = new.encrypt(old.decrypt(form, row[1]) if form else row[1])
    return f"{kind}+{form}" if typed else form, value


def _is_server(place: Path | str) -> bool:
    """Raises ConfigError for the URL of another kind of database; it is not shown, for it may hold a password."""
    if isinstance(place, str) and not place.startswith(_URLS):
        raise ConfigError("SPARKLIO_DATABASE_URL is no URL of a PostgreSQL database", hint=URL_HINT)
    return isinstance(place, str)


@asynccontextmanager
async def open_database(place: Path | str, key: bytes | None = None) -> AsyncIterator[Database]:
    """The one database of this process and event loop.

    Args:
        place: the path of a file of SQLite; it and its folder are made where they are missing, an older layout is
            brought up to date. Or, as a text, the URL of a database of PostgreSQL, whose tables are made likewise.
        key: 32 bytes that new values are encrypted with; None: they are not.

    Raises:
        StorageError: it cannot be made, opened or written, or a newer version of Sparklio made it.
        ConfigError: it was begun with another key or needs one, or a package is missing.
    """
    async with _opening(place, key) as database:
        yield database


def _opening(place: Path | str, key: bytes | None) -> AbstractAsyncContextManager[Database]:
    """Each kind is imported by who uses it, so that nobody needs the packages of the other."""
    if _is_server(place):
        with _extra():
            from graph.postgres_database import open_postgres

        return open_postgres(str(place), key)
    from graph.sqlite_database import open_sqlite

    return open_sqlite(Path(place), key)


async def reseal_database(place: Path | str, *, old_key: bytes | None, key: bytes | None) -> None:
    """Rewrite all values under ``key``, in one transaction, so that a key is turned on, changed or (None) turned off.

    Broken off, it can be repeated. What a file held before is gone from it and from its WAL afterwards; a server's
    backups and archived WAL are its own matter.

    Raises:
        StorageError: somebody works with it, it cannot be written, or a value in it cannot be read.
        ConfigError: ``old_key`` is not its key, or a package is missing.
    """
    if _is_server(place):
        with _extra():
            from graph.postgres_reseal import reseal_postgres

        return await reseal_postgres(str(place), old_key, key)
    from graph.sqlite_database import reseal_sqlite

    return await reseal_sqlite(Path(place), old_key, key)


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"SPARKLIO_DATABASE_URL is set, and the package {exc.name} is not installed",
            hint="pip install 'sparklio[distributed]'",
        ) from exc
