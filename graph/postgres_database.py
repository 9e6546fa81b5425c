"""The database in PostgreSQL, for as many processes and machines as there are.

Beside LangGraph's tables stand ours: ``effects``, ``texts``, and ``sparklio``, which holds the ``canary`` where a key
was ever set; ``sparklio_migrations`` says how far the layout is. With a key every value of a run is encrypted; readable
are ids of runs and checkpoints, names of agents and channels, versions, digests of calls, times and steps.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from psycopg import errors

from graph.database import Database, Row, Serializer, check_key, in_order, serializer
from graph.long_texts import LongTexts, Thrifty
from graph.postgres import (
    MOST_CONNECTIONS,
    AnyConnection,
    AsyncPool,
    async_pool,
    connected,
    migrate,
    one_at_a_time,
    patient,
    postgres_errors,
    settle_session,
    shortly_patient,
)
from graph.sqlite import Statement
from graph.vault import Vault

__all__ = ["SEALED", "WHAT", "PostgresDatabase", "check_canary", "open_postgres", "prepare", "write_canary"]

T = TypeVar("T")

WHAT = "the database"
_LAYOUT = (
    "CREATE TABLE sparklio (name TEXT PRIMARY KEY, value BYTEA NOT NULL)",
    """
    CREATE TABLE effects (
        thread_id TEXT NOT NULL,
        node TEXT NOT NULL,
        ordinal BIGINT NOT NULL,
        fingerprint TEXT NOT NULL,
        form TEXT NOT NULL,
        body BYTEA NOT NULL,
        PRIMARY KEY (thread_id, node, ordinal, fingerprint)
    )
    """,
    """
    CREATE TABLE texts (
        thread_id TEXT NOT NULL,
        digest TEXT NOT NULL,
        form TEXT NOT NULL,
        body BYTEA NOT NULL,
        PRIMARY KEY (thread_id, digest)
    )
    """,
)
SEALED = {
    "checkpoint_blobs": (("thread_id", "checkpoint_ns", "channel", "version"), "type", "blob"),
    "checkpoint_writes": (("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx"), "type", "blob"),
    "effects": (("thread_id", "node", "ordinal", "fingerprint"), "form", "body"),
    "texts": (("thread_id", "digest"), "form", "body"),
}
"""Tables with values: their key, the column of a value's form, the column of the value."""
_CANARY = "SELECT value FROM sparklio WHERE name = 'canary'"
_MOST_IDX = 2**31


class Postgres:
    """Reads and whole transactions over a pool; a pause of the server is waited out.

    Attributes:
        turns: who has one may take a connection, so nobody waits for the pool itself.
    """

    def __init__(self, pool: AsyncPool) -> None:
        self.pool = pool
        self.turns = asyncio.Semaphore(MOST_CONNECTIONS)

    async def read(self, sql: str, values: Iterable[Any] = ()) -> list[Row]:
        """All rows. Raises as :meth:`graph.database.Database.read`."""
        query, held = _with_marks(sql), tuple(values)
        return await self.patiently(lambda: self._fetch(query, held))

    async def _fetch(self, query: bytes, values: Row) -> list[Row]:
        async with self.turns, self.pool.connection() as connection:
            return await (await connection.execute(query, values)).fetchall()

    async def write(self, *statements: Statement) -> None:
        """One transaction. Raises as :meth:`graph.database.Database.write`."""
        told = [(_with_marks(sql), tuple(values)) for sql, values in statements]
        await self.patiently(lambda: self._execute(told))

    async def _execute(self, statements: list[tuple[bytes, Row]]) -> None:
        async with self.turns, self.pool.connection() as connection, connection.transaction():
            for query, values in statements:
                await connection.execute(query, values)

    async def close(self) -> None:
        """Wait for what is under way; who comes later is refused."""
        for _ in range(MOST_CONNECTIONS):
            await self.turns.acquire()
        await self.pool.close()
        for _ in range(MOST_CONNECTIONS):
            self.turns.release()

    async def patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what may be done twice.

        Raises:
            StorageError: the server refuses it, or was away for too long.
        """
        with postgres_errors(WHAT):
            return await self._patiently(work)

    @patient
    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await work()
        except errors.ReadOnlySqlTransaction:  # it is a standby by now, and its connections are good for nothing
            await self.pool.drain()
            raise


def _with_marks(sql: str) -> bytes:
    """In psycopg's words."""
    return sql.replace("%", "%%").replace("?", "%s").encode()


# LangGraph's part


@dataclass(frozen=True)
class _Boxed:
    """A value that the saver shall not recognize as one that it writes in plain text."""

    value: Any


class _Unboxing(Serializer):
    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        return super().dumps_typed(obj.value if isinstance(obj, _Boxed) else obj)


class _SealedSaver(AsyncPostgresSaver):
    """LangGraph's, which would write texts and numbers of the state into a checkpoint's JSON: not encrypted, and not at
    all where a text holds what JSONB refuses."""

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        boxed: Any = {name: _boxed(value) for name, value in checkpoint["channel_values"].items()}
        return await super().aput(config, checkpoint | {"channel_values": boxed}, metadata, new_versions)


def _boxed(value: Any) -> Any:
    return _Boxed(value) if value is None or isinstance(value, str | int | float) else value


class ThriftyPostgresSaver(Thrifty, _SealedSaver):
    """LangGraph's saver for PostgreSQL, with long texts kept once a run."""

    def __init__(self, engine: Postgres, *, serde: SerializerProtocol, vault: Vault) -> None:
        super().__init__(engine.pool, serde=serde)
        self.engine: Postgres = engine
        self.texts = LongTexts(engine, vault)
        self.lock = engine.turns  # type: ignore[assignment]  # its own lock would make one connection of the pool
        # What is sent before a pipeline is cancelled may be committed; a transaction is rolled back.
        self.supports_pipeline = False

    async def written(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self.engine.patiently(work)

    async def looked_up(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await self.engine.patiently(work)


# all of it


class PostgresDatabase(Database):
    tables = ("checkpoints", *SEALED)
    is_file = False

    async def measure(self, run_id: str) -> int:
        size = 0
        for table in self.tables:
            sql = f"SELECT coalesce(sum(pg_column_size(t.*)), 0) FROM {table} AS t WHERE thread_id = ?"  # noqa: S608
            size += int((await self.read(sql, (run_id,)))[0][0])
        return size

    async def size(self) -> int:
        """With what others keep in it."""
        return int((await self.read("SELECT pg_database_size(current_database())"))[0][0])

    async def rows(self, table: str, run_id: str) -> list[Row]:
        """As :meth:`Database.rows`. Checkpoints are put together and encrypted anew, so with a key no two answers are
        the same bytes."""
        if table == "writes":
            columns = "thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob"
            sql = f"SELECT {columns} FROM checkpoint_writes WHERE thread_id = ?"  # noqa: S608 - our own names
            return in_order(table, await self.read(sql, (run_id,)))
        if table == "checkpoints":
            found = await self.saver.lean_list({"configurable": {"thread_id": run_id}})
            return in_order(table, map(self._checkpoint_row, found))
        return await super().rows(table, run_id)

    def _checkpoint_row(self, found: CheckpointTuple) -> Row:
        place = found.config["configurable"]
        parent = (found.parent_config or {}).get("configurable", {}).get("checkpoint_id")
        kind, content = self.saver.serde.dumps_typed(found.checkpoint)
        metadata = json.dumps(found.metadata, ensure_ascii=False).encode()
        return (place["thread_id"], place["checkpoint_ns"], place["checkpoint_id"], parent, kind, content, metadata)

    def insertions(self, table: str, rows: Iterable[Row]) -> list[Statement]:
        if table == "writes":
            return [_insertion("checkpoint_writes", _write_columns(row)) for row in rows]
        if table == "checkpoints":
            return [statement for row in rows for statement in self._checkpoint_insertions(row)]
        return [(f"{sql} ON CONFLICT DO NOTHING", row) for sql, row in super().insertions(table, rows)]

    def _checkpoint_insertions(self, row: Row) -> list[Statement]:
        """One for the checkpoint, one for each value of its channels; several checkpoints share most of these."""
        run_id, namespace, checkpoint_id, parent, kind, content, metadata = row
        checkpoint = self.saver.serde.loads_typed((kind, content))
        try:
            versions, values = checkpoint["channel_versions"], checkpoint["channel_values"]
            place = {"thread_id": run_id, "checkpoint_ns": namespace}
            blobs = [
                {**place, "channel": name, "version": str(versions[name]), **_typed(self.saver.serde, value)}
                for name, value in values.items()
            ]
            body = {**checkpoint, "channel_values": {}}
        except (AttributeError, LookupError, TypeError) as exc:
            raise ValueError("no checkpoint of LangGraph's") from exc
        told = {"checkpoint": _jsonb(body), "metadata": _jsonb(json.loads(metadata))}
        ids = {**place, "checkpoint_id": checkpoint_id, "parent_checkpoint_id": parent}
        return [*(_insertion("checkpoint_blobs", blob) for blob in blobs), _insertion("checkpoints", ids | told)]


def _insertion(table: str, columns: dict[str, Any]) -> Statement:
    marks = ", ".join("?" for _ in columns)
    sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT DO NOTHING"  # noqa: S608
    return sql, tuple(columns.values())


def _typed(serde: SerializerProtocol, value: Any) -> dict[str, Any]:
    kind, content = serde.dumps_typed(value)
    return {"type": kind, "blob": content}


def _write_columns(row: Row) -> dict[str, Any]:
    names = ("thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "task_path", "idx", "channel", "type", "blob")
    columns = dict(zip(names, row, strict=True))
    if not -_MOST_IDX <= columns["idx"] < _MOST_IDX:
        raise ValueError("an index beyond what a table of writes holds")
    return columns


def _jsonb(value: Any) -> str:
    """Raises ValueError for what JSONB does not hold: NUL, half a letter, no number."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()
    if "\\u0000" in text:
        raise ValueError("NUL in a text")
    return text


@asynccontextmanager
async def open_postgres(url: str, key: bytes | None = None) -> AsyncIterator[Database]:
    """As :func:`graph.database.open_database`."""
    vault = Vault(key)
    with postgres_errors(WHAT):
        await asyncio.to_thread(prepare, url, vault)

    async def begin(connection: psycopg.AsyncConnection[Any]) -> None:
        """Somebody may have changed the key while this process had no connection."""
        await settle_session(connection)
        _check(await (await connection.execute(_CANARY)).fetchall(), vault)

    async with async_pool(url, configure=begin) as pool:
        engine = Postgres(pool)
        try:
            yield PostgresDatabase(ThriftyPostgresSaver(engine, serde=serializer(vault, _Unboxing), vault=vault), vault)
        finally:
            await engine.close()


@shortly_patient
def prepare(url: str, vault: Vault) -> None:
    """Make what is missing, or nothing at all where something is wrong."""
    with connected(url) as connection, one_at_a_time(connection):
        migrate(connection, "database", _LAYOUT)
        _make_langgraph_s(connection)
        check_canary(connection, vault)
        write_canary(connection, vault)


def _make_langgraph_s(connection: AnyConnection) -> None:
    """An index that is made "concurrently" can be part of no transaction; here the tables are new or nobody works."""
    setup = PostgresSaver(connection)
    setup.MIGRATIONS = [statement.replace("CONCURRENTLY ", "") for statement in setup.MIGRATIONS]
    setup.setup()


def check_canary(connection: AnyConnection, vault: Vault) -> None:
    """Raises ConfigError where the database was begun with another key."""
    _check(connection.execute(_CANARY).fetchall(), vault)


def _check(found: list[Row], vault: Vault) -> None:
    check_key({"canary": found[0][0]} if found else {}, vault, WHAT)


def write_canary(connection: AnyConnection, vault: Vault) -> None:
    """From now on nobody opens the database with another key."""
    if vault.encrypts:
        connection.execute("INSERT INTO sparklio VALUES ('canary', %s) ON CONFLICT DO NOTHING", (vault.canary(),))
