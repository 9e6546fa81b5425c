"""Another key for what PostgreSQL keeps: while nobody else uses the database, all of it or nothing."""

from __future__ import annotations

import asyncio
import time

from psycopg import errors

from graph.database import resealed
from graph.postgres import AnyConnection, connected, postgres_errors
from graph.postgres_database import SEALED, WHAT, check_canary, prepare, write_canary
from graph.vault import Vault
from providers.errors import StorageError

__all__ = ["reseal_postgres"]

_OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
AND application_name = current_setting('application_name')
"""
_ALONE_TIMEOUT_S = 2.0
_BATCH = 100


async def reseal_postgres(url: str, old_key: bytes | None, key: bytes | None) -> None:
    """As :func:`graph.database.reseal_database`."""
    old, new = Vault(old_key), Vault(key)
    with postgres_errors(WHAT):
        await asyncio.to_thread(prepare, url, old)
        await asyncio.to_thread(_reseal, url, old, new)


def _reseal(url: str, old: Vault, new: Vault) -> None:
    with connected(url) as connection:
        connection.execute("SET statement_timeout = 0")
        _await_others(connection)
        with connection.transaction():
            _be_alone(connection)
            check_canary(connection, old)
            for table in SEALED:
                _reseal_table(connection, table, old, new)
            _forget_orders(connection)
            connection.execute("DELETE FROM sparklio WHERE name = 'canary'")
            write_canary(connection, new)
        for table in SEALED:
            connection.execute(f"VACUUM FULL {table}".encode())  # free pages hold what was there before


def _await_others(connection: AnyConnection) -> None:
    """Who has just closed a connection is seen a moment longer."""
    until = time.monotonic() + _ALONE_TIMEOUT_S
    while _others(connection) and time.monotonic() < until:
        time.sleep(0.02)


def _others(connection: AnyConnection) -> int:
    [(count,)] = connection.execute(_OTHERS).fetchall()
    return int(count)


def _be_alone(connection: AnyConnection) -> None:
    """Others would go on writing with the key that they were opened with; whoever connects from now on waits for the
    table of the canary, and then finds another one."""
    try:
        connection.execute(f"LOCK TABLE sparklio, {', '.join(SEALED)} IN ACCESS EXCLUSIVE MODE NOWAIT".encode())
    except errors.LockNotAvailable as exc:
        raise _in_use() from exc
    if _others(connection):
        raise _in_use()


def _in_use() -> StorageError:
    return StorageError(
        "the database is in use", hint="stop every server, worker and run that uses this database, then try again"
    )


def _forget_orders(connection: AnyConnection) -> None:
    """What workers have ordered of each other is under the old key, too; it is ordered anew where it is gone."""
    if connection.execute("SELECT to_regclass('worker_orders')").fetchall() != [(None,)]:
        connection.execute("TRUNCATE worker_orders")


def _reseal_table(connection: AnyConnection, table: str, old: Vault, new: Vault) -> None:
    names, form, value = SEALED[table]
    select = f"SELECT {form}, {value}, {', '.join(names)} FROM {table} WHERE {value} IS NOT NULL"  # noqa: S608
    update = f"UPDATE {table} SET {form} = %s, {value} = %s WHERE {' AND '.join(f'{name} = %s' for name in names)}"  # noqa: S608
    with connection.cursor("sparklio_reseal") as rows, connection.cursor() as changes:
        rows.execute(select.encode())
        while batch := rows.fetchmany(_BATCH):
            changed = [(*resealed(row[:2], old, new, typed=form == "type"), *row[2:]) for row in batch]
            changes.executemany(update.encode(), changed)
