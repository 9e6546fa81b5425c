"""The file ``<home>/requests.sqlite``: which requests came with an Idempotency-Key, and what they were answered."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol
from uuid import uuid4

from filelock import FileLock, Timeout

from graph.sqlite import storage_errors
from graph.vault import PLAIN, Vault
from providers.errors import ConfigError, ConflictError, StorageError

__all__ = ["KEPT_S", "Answer", "Book", "RequestBook", "Row", "Turn", "before_now", "under_way"]

log = logging.getLogger(__name__)

KEPT_S = 24 * 3600.0
_CLEANED_EVERY_S = 600.0
_BUSY_TIMEOUT_S = 30.0

_TABLE = """
CREATE TABLE IF NOT EXISTS requests (
    name TEXT PRIMARY KEY,
    digest TEXT NOT NULL,
    token TEXT NOT NULL,
    owner TEXT,
    at REAL NOT NULL,
    status INTEGER,
    headers TEXT,
    form TEXT,
    body BLOB
) WITHOUT ROWID
"""
"""One row a key. ``status``: of the answer, NULL without one; then ``owner`` names the server that is at it, NULL: it
failed. ``at``: seconds since 1970 of its last change.
"""


@dataclass(frozen=True)
class Turn:
    """That a request is to be done now.

    Attributes:
        name: of its row.
        token: the same for each try to do the same.
    """

    name: str
    token: str


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Row(NamedTuple):
    """What stands of a request, as the columns of the table."""

    digest: str
    token: str
    owner: str | None
    status: int | None
    headers: str | None
    form: str | None
    body: bytes | None


class Book(Protocol):
    """Its methods take as long as a disk or a database does, and may be called from any thread."""

    def open(self) -> None:
        """Raises StorageError where it cannot be used."""

    def close(self) -> None: ...

    def begin(self, name: str, digest: str) -> Turn | Answer:
        """The turn, or what was answered.

        Raises:
            ConflictError: the name came with another digest before, or somebody is at it.
        """

    def keep(self, turn: Turn, answer: Answer) -> None:
        """Remember the answer, and end the turn."""

    def give_back(self, turn: Turn) -> None:
        """End the turn without an answer."""


class RequestBook:
    """Its methods take as long as the disk does, and may be called from any thread.

    Which server is at a request is told by a lock of the operating system's that each holds while it lives, so that a
    killed one's requests are free at once.
    """

    def __init__(self, home: Path, vault: Vault) -> None:
        self._home, self._vault = home, vault
        self._path = home / "requests.sqlite"
        self._owner = uuid4().hex
        self._alive = FileLock(self._lock_file(self._owner), thread_local=False)
        self._guard = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._cleaned_at = 0.0

    def open(self) -> None:
        try:
            with storage_errors(f"the file {self._path}"), self._alone():
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._alive.acquire(blocking=False)
        for file in self._home.glob(self._lock_file("*").name):
            if not self._lives(file):
                file.unlink(missing_ok=True)
        self._connection = sqlite3.connect(
            self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        self._set_up(self._connection)

    def close(self) -> None:
        with self._guard:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._alive.release()
            self._lock_file(self._owner).unlink(missing_ok=True)

    def begin(self, name: str, digest: str) -> Turn | Answer:
        """As :meth:`Book.begin`."""
        with self._transaction() as connection:
            now = time.time()
            self._clean(connection, now)
            row = connection.execute(
                "SELECT digest, token, owner, status, headers, form, body FROM requests WHERE name = ? AND at > ?",
                (name, now - KEPT_S),
            ).fetchone()
            before = before_now(digest, Row(*row), self._vault, self._is_at_it) if row else None
            if isinstance(before, Answer):
                return before
            turn = Turn(name, before or uuid4().hex)
            connection.execute(
                "INSERT OR REPLACE INTO requests (name, digest, token, owner, at) VALUES (?, ?, ?, ?, ?)",
                (name, digest, turn.token, self._owner, now),
            )
            return turn

    def _is_at_it(self, owner: str) -> bool:
        return owner != self._owner and self._lives(self._lock_file(owner))

    def keep(self, turn: Turn, answer: Answer) -> None:
        form, body = self._vault.encrypt(answer.body)
        with self._transaction() as connection:
            connection.execute(
                "UPDATE requests SET owner = NULL, at = ?, status = ?, headers = ?, form = ?, body = ? "
                "WHERE name = ? AND token = ?",
                (time.time(), answer.status, json.dumps(answer.headers), form, body, turn.name, turn.token),
            )

    def give_back(self, turn: Turn) -> None:
        with self._transaction() as connection:
            connection.execute(
                "UPDATE requests SET owner = NULL, at = ? WHERE name = ? AND token = ?",
                (time.time(), turn.name, turn.token),
            )

    def _set_up(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute(_TABLE)
        if self._vault.encrypts:  # what was kept before there was a key
            for name, form, body in connection.execute(
                "SELECT name, form, body FROM requests WHERE form = ?", (PLAIN,)
            ).fetchall():
                sealed = self._vault.encrypt(self._vault.decrypt(form, body))
                connection.execute("UPDATE requests SET form = ?, body = ? WHERE name = ?", (*sealed, name))

    def _clean(self, connection: sqlite3.Connection, now: float) -> None:
        if now - self._cleaned_at >= _CLEANED_EVERY_S:
            self._cleaned_at = now
            connection.execute("DELETE FROM requests WHERE at <= ?", (now - KEPT_S,))
            [(free,)] = connection.execute("PRAGMA freelist_count")
            for _ in range(free):  # Python's sqlite3 takes one step of this statement, which is a page
                connection.execute("PRAGMA incremental_vacuum(1)")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._guard, storage_errors(f"the file {self._path}"):
            if self._connection is None:
                raise StorageError(f"the file {self._path} is closed", hint="the server is stopping; try again")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has ended it already
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """SQLite refuses, rather than waits, where two make a new file a WAL file at once."""
        try:
            with FileLock(f"{self._path}.lock", timeout=_BUSY_TIMEOUT_S):
                yield
        except Timeout as exc:
            raise StorageError(
                f"another process has been opening {self._path} for {_BUSY_TIMEOUT_S:.0f} s",
                hint="wait for it to end, or stop it, then try again",
            ) from exc

    def _lock_file(self, owner: str) -> Path:
        return self._home / f"requests-{owner}.lock"

    @staticmethod
    def _lives(lock_file: Path) -> bool:
        if not lock_file.exists():
            return False
        try:
            with FileLock(lock_file, blocking=False):
                return False
        except Timeout:
            return True


def before_now(digest: str, row: Row, vault: Vault, is_at_it: Callable[[str], bool]) -> Answer | str | None:
    """What was answered before, else the token that it was tried with; None: something else failed.

    Args:
        digest: of the request that comes now.
        row: of its key.
        vault: opens what was answered.
        is_at_it: whether the owner of that name, another server, is still doing it.

    Raises:
        ConflictError: as :meth:`Book.begin`.
    """
    failed = row.status is None and row.owner is None
    if digest != row.digest:
        if failed:
            return None
        raise _another()
    if kept := _read(row, vault):
        return kept
    if row.owner is not None and is_at_it(row.owner):
        raise under_way()
    return row.token


def _read(row: Row, vault: Vault) -> Answer | None:
    """None, too, where the encryption's key is another one today. It is done again then, with the same token."""
    if row.status is None or row.headers is None or row.form is None or row.body is None:
        return None
    try:
        return Answer(row.status, json.loads(row.headers), vault.decrypt(row.form, row.body))
    except (ConfigError, StorageError) as exc:
        log.warning("an answer that was kept for its Idempotency-Key cannot be read: %s", exc)
        return None


def under_way() -> ConflictError:
    return ConflictError(
        "the first request with this Idempotency-Key is still being answered", hint="repeat it when that has ended"
    )


def _another() -> ConflictError:
    return ConflictError(
        "this Idempotency-Key came with another request before", hint="take a new key for each new request"
    )
