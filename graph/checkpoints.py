"""Checkpoints in SQLite (WAL) under the data folder; strict about what they bring back to life."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from providers.errors import StorageError

__all__ = ["open_checkpointer"]

_BUSY_TIMEOUT_S = 30.0


@asynccontextmanager
async def open_checkpointer(path: Path) -> AsyncIterator[AsyncSqliteSaver]:
    """The one saver of this process and event loop. The state is plain JSON, so nothing else is ever revived.

    Raises:
        StorageError: the file cannot be made, opened or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        async with aiosqlite.connect(path, timeout=_BUSY_TIMEOUT_S) as connection:
            serde = JsonPlusSerializer(pickle_fallback=False, allowed_msgpack_modules=None)
            saver = AsyncSqliteSaver(connection, serde=serde)
            await saver.setup()
            yield saver
    except (OSError, sqlite3.OperationalError, sqlite3.DatabaseError) as exc:
        raise StorageError(
            f"cannot use the checkpoint database {path}: {exc}", hint="make the folder writable, or set SPARKLIO_HOME"
        ) from exc
