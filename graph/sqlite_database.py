"""The database in one SQLite file (WAL) under the data folder.

The table ``sparklio`` says how the file is laid out (``layout``, a number) and, where a key was ever set, holds a value
encrypted with that key (``canary``), so that a wrong one is found at opening. A file without the table has layout 0.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
from filelock import FileLock, Timeout
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from graph import long_texts
from graph.database import SEALED, TABLES, Database, check_key, resealed, serializer
from graph.long_texts import LongTexts, Thrifty
from graph.sqlite import Sqlite, storage_errors
from graph.vault import Vault
from providers.errors import StorageError

__all__ = ["SqliteDatabase", "ThriftySaver", "open_sqlite", "reseal_sqlite"]

T = TypeVar("T")

_LAYOUT = 1
_BUSY_TIMEOUT_S = 30.0
_ALONE_TIMEOUT_S = 2.0
_MARKS = "CREATE TABLE IF NOT EXISTS sparklio (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
_EFFECTS = """
CREATE TABLE IF NOT EXISTS effects (
    thread_id TEXT NOT NULL,
    node TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    fingerprint TEXT NOT NULL,
    form TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (thread_id, node, ordinal, fingerprint)
) WITHOUT ROWID
"""

Marks = dict[str, Any]
"""The table ``sparklio``: values by name."""


class ThriftySaver(Thrifty, AsyncSqliteSaver):
    """LangGraph's saver for SQLite, with long texts kept once a run."""

    def __init__(self, connection: aiosqlite.Connection, *, serde: SerializerProtocol, vault: Vault) -> None:
        super().__init__(connection, serde=serde)
        self.engine: Sqlite = Sqlite(connection, self.lock)
        self.texts = LongTexts(self.engine, vault)

    async def written(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self.engine.foreign_write(work())

    async def looked_up(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await work()


class SqliteDatabase(Database):
    """One connection for all. SQLite has one writer, so everybody waits for its lock."""

    tables = tuple(SEALED)
    is_file = True

    async def measure(self, run_id: str) -> int:
        size = 0
        for table, columns in TABLES.items():
            lengths = " + ".join(f"coalesce(length(CAST({name} AS BLOB)), 0)" for name in columns)
            sql = f"SELECT coalesce(sum({lengths}), 0) FROM {table} WHERE thread_id = ?"  # noqa: S608  # names of our own
            size += int((await self.read(sql, (run_id,)))[0][0])
        return size

    async def size(self) -> int:
        """Wherever its pages lie at the moment."""
        [(pages,)] = await self.read("PRAGMA page_count")
        [(size,)] = await self.read("PRAGMA page_size")
        return int(pages) * int(size)


@asynccontextmanager
async def open_sqlite(path: Path, key: bytes | None = None) -> AsyncIterator[Database]:
    """As :func:`graph.database.open_database`."""
    vault = Vault(key)
    async with AsyncExitStack() as stack:
        with storage_errors(f"the database {path}"):
            await asyncio.to_thread(_prepare, path, vault)
            connection = await stack.enter_async_context(aiosqlite.connect(path, timeout=_BUSY_TIMEOUT_S))
            saver = ThriftySaver(connection, serde=serializer(vault), vault=vault)
            await saver.setup()
            await connection.execute(
                "PRAGMA synchronous=FULL"
            )  # each commit is on the disk, whatever the build's default
            # From here on nobody can change the key; somebody may have done it a moment ago.
            async with connection.execute("SELECT name, value FROM sparklio") as rows:
                _check({name: value async for name, value in rows}, vault, path)
        try:
            yield SqliteDatabase(saver, vault)
        finally:
            async with saver.lock:  # a write under way would leave its transaction, and so the database, locked
                await connection.close()


# the layout


def _prepare(path: Path, vault: Vault) -> None:
    """Refuse what cannot be used, then make what is missing; nothing is written where nothing is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    marks = _look(path)
    _check(marks, vault, path)
    if not _is_complete(marks, vault):
        with _alone_in_making(path), closing(_connect(path, _BUSY_TIMEOUT_S)) as connection:
            _make(connection, vault, path)


def _look(path: Path) -> Marks:
    """The marks of a file that must not change for it: reading a WAL file as usual puts two files beside it.

    Without a WAL the file holds everything and can be read as it lies. Somebody may be writing to it at that moment;
    what is torn then is looked at again, as usual, before anything is made.
    """
    if not path.exists() or not path.stat().st_size:
        return {}
    as_it_lies = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    uri = f"{path.absolute().as_uri()}?mode=ro{as_it_lies}"
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S)) as file:
        return _marks(file)
    return {}


def _marks(connection: sqlite3.Connection) -> Marks:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sparklio'").fetchone():
        return {}
    return dict(connection.execute("SELECT name, value FROM sparklio").fetchall())


def _is_complete(marks: Marks, vault: Vault) -> bool:
    return "layout" in marks and ("canary" in marks or not vault.encrypts)


def _check(marks: Marks, vault: Vault, path: Path) -> None:
    """Raises StorageError for a layout, ConfigError for a key that does not fit."""
    layout = marks.get("layout", 0)
    if not isinstance(layout, int) or layout > _LAYOUT:
        raise StorageError(
            f"the database {path} has layout {layout!r}, and this version of Sparklio knows {_LAYOUT} at most",
            hint="install a newer sparklio, or set SPARKLIO_HOME to another folder",
        )
    check_key(marks, vault, f"the database {path}")


def _make(connection: sqlite3.Connection, vault: Vault, path: Path) -> None:
    _check(_marks(connection), vault, path)
    connection.execute("PRAGMA journal_mode=WAL")
    with _transaction(connection):
        connection.execute(_MARKS)
        connection.execute(_EFFECTS)
        connection.execute(long_texts.TABLE)
        connection.execute("INSERT OR IGNORE INTO sparklio VALUES ('layout', ?)", (_LAYOUT,))
        _write_canary(connection, vault)
    _check(_marks(connection), vault, path)


def _write_canary(connection: sqlite3.Connection, vault: Vault) -> None:
    if vault.encrypts:
        connection.execute("INSERT OR IGNORE INTO sparklio VALUES ('canary', ?)", (vault.canary(),))


@contextmanager
def _alone_in_making(path: Path) -> Iterator[None]:
    """SQLite refuses, rather than waits, where two make a new file a WAL file at once."""
    try:
        with FileLock(f"{path}.lock", timeout=_BUSY_TIMEOUT_S):
            yield
    except Timeout as exc:
        raise StorageError(
            f"another process has been making the database {path} for {_BUSY_TIMEOUT_S:.0f} s",
            hint="wait for it to end, or stop it, then try again",
        ) from exc


def _connect(path: Path, timeout_s: float) -> sqlite3.Connection:
    """A connection that begins no transaction of its own accord."""
    return sqlite3.connect(path, timeout=timeout_s, isolation_level=None)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


# another key


async def reseal_sqlite(path: Path, old_key: bytes | None, key: bytes | None) -> None:
    """As :func:`graph.database.reseal_database`."""
    async with open_sqlite(path, old_key):  # refuses a wrong key, and makes what is missing
        pass
    with storage_errors(f"the database {path}"):
        await asyncio.to_thread(_reseal, path, Vault(old_key), Vault(key))


def _reseal(path: Path, old: Vault, new: Vault) -> None:
    with closing(_connect(path, _ALONE_TIMEOUT_S)) as connection:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        _check(_marks_alone(connection, path), old, path)
        with _transaction(connection):
            for table in SEALED:
                _reseal_table(connection, table, old, new)
            connection.execute("DELETE FROM sparklio WHERE name = 'canary'")
            _write_canary(connection, new)
        connection.execute("VACUUM")  # free pages hold what was there before


def _marks_alone(connection: sqlite3.Connection, path: Path) -> Marks:
    """Others would go on writing with the key that they were opened with."""
    try:
        return _marks(connection)
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raise StorageError(
            f"the database {path} is in use", hint="stop every run in this data folder, then try again"
        ) from exc


def _reseal_table(connection: sqlite3.Connection, table: str, old: Vault, new: Vault) -> None:
    names, form, value = SEALED[table]
    this_row = " AND ".join(f"{name} = ?" for name in names)
    for key in connection.execute(f"SELECT {', '.join(names)} FROM {table}").fetchall():  # noqa: S608  # names of our own
        [row] = connection.execute(f"SELECT {form}, {value} FROM {table} WHERE {this_row}", key)  # noqa: S608
        new_row = resealed(row, old, new, typed=form == "type")
        connection.execute(f"UPDATE {table} SET {form} = ?, {value} = ? WHERE {this_row}", (*new_row, *key))  # noqa: S608
