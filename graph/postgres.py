"""Connections to PostgreSQL: pools, waiting while a server fails over, and the making of tables.

Nothing here depends on what outlives a transaction on a connection, so a pooler such as pgbouncer may stand in between.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolClosed
from tenacity import RetryCallState, retry, retry_if_exception, stop_after_delay, wait_random_exponential

from graph.database import URL_HINT
from providers.errors import ConfigError, StorageError

__all__ = [
    "MOST_CONNECTIONS",
    "AnyConnection",
    "AsyncPool",
    "SyncPool",
    "async_pool",
    "connected",
    "execute",
    "lent",
    "migrate",
    "one_at_a_time",
    "patient",
    "postgres_errors",
    "rows_of",
    "settle_session",
    "shortly_patient",
    "sync_pool",
]

log = logging.getLogger(__name__)
logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns twice a second of what is said here once

F = TypeVar("F", bound=Callable[..., Any])

MOST_CONNECTIONS = 4
"""Of one pool."""
PATIENCE_S = 30.0
"""How long a pause is waited out."""
_SHORT_PATIENCE_S = 5.0
_POOL_TIMEOUT_S = 3.0
_RECONNECT_S = 2.0  # shorter than the pool's timeout: who waits asks anew then, and finds a pool that tries again
_STARTERS = 0x5BA7C110  # of our advisory lock: any number that is the same in all versions
_HINT = "is the server of SPARKLIO_DATABASE_URL up, and may its user make and write tables?"
_PASSWORDS = re.compile(r"(://[^:/@\s]*:(?=\S*@)|password=)('[^']*'|[^@\s]*)")
_SESSION = "SELECT set_config(name, '30s', false) FROM unnest(ARRAY[%s, %s]) AS name"
_TIMEOUTS = ("statement_timeout", "idle_in_transaction_session_timeout")
_DEFAULTS = {
    "application_name": "sparklio",
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms; a server that vanishes in the middle of a statement is given up
    "target_session_attrs": "read-write",  # not the server that was the first one until a moment ago
}
_NUMBERS = """
CREATE TABLE IF NOT EXISTS sparklio_migrations (
    name TEXT NOT NULL,
    number INTEGER NOT NULL,
    PRIMARY KEY (name, number)
)
"""

AnyConnection = psycopg.Connection[Any]
AsyncPool = AsyncConnectionPool[psycopg.AsyncConnection[Any]]
SyncPool = ConnectionPool[AnyConnection]
Values = Sequence[Any] | Mapping[str, Any]


def _words(url: str) -> dict[str, Any]:
    """Arguments of a new connection; what the URL says itself beats what we would say.

    Raises:
        ConfigError: it is no URL of a database.
    """
    try:
        said = conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise ConfigError(
            "SPARKLIO_DATABASE_URL is no URL of a PostgreSQL database",
            hint=URL_HINT,
        ) from None  # its words hold the URL, and so a password
    return {**_DEFAULTS, **said, "autocommit": True, "prepare_threshold": None}


def _pool_words(url: str) -> dict[str, Any]:
    return {
        "kwargs": _words(url),
        "min_size": 0,
        "max_size": MOST_CONNECTIONS,
        "open": False,
        "timeout": _POOL_TIMEOUT_S,
        "reconnect_timeout": _RECONNECT_S,
        "name": "sparklio",
    }


def sync_pool(url: str) -> SyncPool:
    """A pool for threads, still closed: ``with sync_pool(url) as pool, pool.connection() as connection``.

    Each statement commits at once; ``with connection.transaction()`` makes one of many. Closing the pool ends its
    threads and connections.

    Raises:
        ConfigError: it is no URL of a database.
    """
    return ConnectionPool(configure=_settle, **_pool_words(url))


def async_pool(url: str, **more: Any) -> AsyncPool:
    """The same for one event loop: ``async with async_pool(url) as pool``. ``more``: words of the pool's own."""
    return AsyncConnectionPool(**{"configure": settle_session, **_pool_words(url), **more})


def _settle(connection: AnyConnection) -> None:
    """No statement hangs for ever, and a transaction whose owner was cut off gives its locks back."""
    connection.execute(_SESSION, _TIMEOUTS)


async def settle_session(connection: psycopg.AsyncConnection[Any]) -> None:
    """What each connection of a pool begins with."""
    await connection.execute(_SESSION, _TIMEOUTS)


@contextmanager
def connected(url: str) -> Iterator[AnyConnection]:
    """One connection outside of any pool, for work that may take long; it tells at once what is wrong with the URL."""
    with psycopg.connect(**_words(url)) as connection:
        _settle(connection)
        yield connection


@contextmanager
def lent(pool: SyncPool) -> Iterator[AnyConnection]:
    """A connection of the pool; one to a server that has become a standby is not lent again."""
    with pool.connection() as connection:
        try:
            yield connection
        except errors.ReadOnlySqlTransaction:
            connection.close()
            raise


# a pause

_PASSING = (
    errors.AdminShutdown,
    errors.CannotConnectNow,
    errors.CrashShutdown,
    errors.DeadlockDetected,
    errors.IdleInTransactionSessionTimeout,
    errors.LockNotAvailable,
    errors.ReadOnlySqlTransaction,
    errors.SerializationFailure,
    errors.TooManyConnections,
)


_REFUSED = re.compile(r'password authentication failed|no pg_hba.conf entry|(database|role) ".*" does not exist')
"""Of a new connection, for which libpq tells no code."""


def _passes(error: BaseException) -> bool:
    """Whether the same statement may well succeed in a moment: no connection, a broken one, or one of the above."""
    if isinstance(error, _PASSING):
        return True
    if not isinstance(error, psycopg.OperationalError) or isinstance(error, PoolClosed) or _REFUSED.search(str(error)):
        return False
    return (error.sqlstate or "08").startswith("08")


def _say(state: RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        log.warning("the database does not answer, waiting for it: %s", masked(str(state.outcome.exception())))


def _waiting(seconds: float) -> Any:
    return retry(
        retry=retry_if_exception(_passes),
        stop=stop_after_delay(seconds),
        wait=wait_random_exponential(multiplier=0.1, max=1.0),
        before_sleep=_say,
        reraise=True,
    )


def patient(work: F) -> F:
    """A function or coroutine function that takes a connection and executes what may be executed twice: for about
    :data:`PATIENCE_S` seconds it is called again while the server is away, starting, ending or has become a standby,
    or where another transaction was in its way. What it raised last is raised.
    """
    return cast("F", _waiting(PATIENCE_S)(work))


def shortly_patient(work: F) -> F:
    """The same for who may have the wrong URL, and should hear that soon."""
    return cast("F", _waiting(_SHORT_PATIENCE_S)(work))


@contextmanager
def postgres_errors(what: str) -> Iterator[None]:
    """What the server, the network or a pool refuses inside the block leaves it as a StorageError about ``what``."""
    try:
        yield
    except (psycopg.Error, OSError) as exc:  # a pool's errors are psycopg's
        if _REFUSED.search(str(exc)):
            raise ConfigError(
                f"cannot use {what}: {masked(str(exc))}",
                hint="look at user, password and database in SPARKLIO_DATABASE_URL",
            ) from exc
        raise StorageError(f"cannot use {what}: {masked(str(exc))}", hint=_HINT) from exc


def execute(pool: SyncPool, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
    """The rows of one statement; none where it has none."""
    with lent(pool) as connection:
        cursor = connection.execute(statement.encode(), values)
        return cursor.fetchall() if cursor.description else []


_execute_patiently = patient(execute)


def rows_of(pool: SyncPool, statement: str, values: Values = (), *, what: str) -> list[tuple[Any, ...]]:
    """As :func:`execute`, of a statement that may be executed twice, and :func:`patient`.

    Raises:
        StorageError: the database cannot be used; ``what`` of it, is told.
    """
    with postgres_errors(what):
        return _execute_patiently(pool, statement, values)


def masked(text: str) -> str:
    """``text`` in one line, without what may be a password in a URL or a connection string."""
    return " ".join(_PASSWORDS.sub(r"\1***", text).split())


# tables


@contextmanager
def one_at_a_time(connection: AnyConnection) -> Iterator[None]:
    """A transaction that nobody else who makes tables is in; several may start at once."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_STARTERS,))
        yield


def migrate(connection: AnyConnection, name: str, statements: Sequence[str]) -> None:
    """Execute those of the numbered ``statements`` that this database has not seen yet, all or none.

    Args:
        connection: one with autocommit, or inside a transaction already.
        name: whose statements they are.
        statements: the first one has number 1; later versions only ever append.

    Raises:
        StorageError: a newer version of Sparklio has been here.
    """
    with one_at_a_time(connection):
        connection.execute(_NUMBERS)
        highest = "SELECT coalesce(max(number), 0) FROM sparklio_migrations WHERE name = %s"
        [(done,)] = connection.execute(highest, (name,)).fetchall()
        if done > len(statements):
            raise StorageError(
                f"the database has layout {done} of {name}, and this version of Sparklio knows {len(statements)}",
                hint="install a newer sparklio, or set SPARKLIO_DATABASE_URL to another database",
            )
        for number, statement in enumerate(statements[done:], start=done + 1):
            connection.execute(statement.encode())
            connection.execute("INSERT INTO sparklio_migrations VALUES (%s, %s)", (name, number))
