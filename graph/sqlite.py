"""One connection to SQLite for everybody in this process: it has one writer, so all wait for one lock."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import aiosqlite

from providers.errors import StorageError

__all__ = ["Sqlite", "Statement", "storage_errors", "to_its_end", "until_done"]

T = TypeVar("T")
Statement = tuple[str, Iterable[Any]]


class Sqlite:
    """Reads and whole transactions.

    Args:
        connection: the process's.
        lock: who holds it may use the connection.
    """

    def __init__(self, connection: aiosqlite.Connection, lock: asyncio.Lock) -> None:
        self._connection = connection
        self._lock = lock

    async def read(self, sql: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows.

        Raises:
            StorageError: the file cannot be read.
        """
        with storage_errors("the database"):
            async with self._lock, self._connection.execute(sql, tuple(values)) as rows:
                return [tuple(row) async for row in rows]

    async def write(self, *statements: Statement) -> None:
        """Statements with their values, all in one transaction, or none of them.

        Raises:
            StorageError: the file cannot be written.
        """
        with storage_errors("the database"):
            async with self._lock:
                try:
                    for sql, values in statements:
                        await self._connection.execute(sql, tuple(values))
                    await self._connection.commit()
                except BaseException:
                    await self._connection.rollback()
                    raise

    async def foreign_write(self, work: Coroutine[Any, Any, T]) -> T:
        """A write of LangGraph's, which takes the lock itself and neither minds being cancelled nor a full disk.

        Broken off between statement and commit it would leave its transaction open, and the file locked for all others.
        """
        try:
            return await to_its_end(work)
        except (OSError, sqlite3.Error):
            async with self._lock:
                if self._connection.in_transaction:
                    await self._connection.rollback()
            raise


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``; however often that is cancelled, it goes on first."""
    task = asyncio.ensure_future(work)
    await until_done(task)
    return task.result()


async def until_done(task: asyncio.Future[Any]) -> None:
    """Wait for a task however often the waiting is cancelled; then be cancelled."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # who cancels has a reason to tell already
        raise cancelled


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """What SQLite or the disk refuses inside the block leaves it as a StorageError about ``what``."""
    try:
        yield
    except (ConnectionError, TimeoutError):
        raise  # an OSError, but of no disk
    except (OSError, sqlite3.Error) as exc:
        raise StorageError(
            f"cannot use {what}: {exc}", hint="make the folder writable, free some space, or set SPARKLIO_HOME"
        ) from exc
