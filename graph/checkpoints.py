"""Checkpoints in SQLite (WAL) under the data folder; strict about what they bring back to life."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import aiosqlite
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from providers.errors import StorageError

__all__ = ["open_checkpointer", "storage_errors"]

_BUSY_TIMEOUT_S = 30.0


@asynccontextmanager
async def open_checkpointer(path: Path) -> AsyncIterator[AsyncSqliteSaver]:
    """The one saver of this process and event loop. The state is plain JSON, so nothing else is ever revived.

    Raises:
        StorageError: the file cannot be made, opened or written.
    """
    async with AsyncExitStack() as stack:
        with storage_errors(f"the checkpoint database {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            connection = await stack.enter_async_context(aiosqlite.connect(path, timeout=_BUSY_TIMEOUT_S))
            # What LANGGRAPH_STRICT_MSGPACK=true makes the default. The variable is the host program's to set: LangGraph
            # reads it once, at its import, for every saver there is.
            serde = JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=None)
            saver = AsyncSqliteSaver(connection, serde=serde)
            await saver.setup()
        try:
            yield saver
        finally:
            async with saver.lock:  # a write under way would leave its transaction, and so the database, locked
                await connection.close()


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
