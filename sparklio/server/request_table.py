"""The same book of requests in PostgreSQL: several servers answer a repeated request as the first of them did."""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import Any
from uuid import uuid4

from psycopg_pool import ConnectionPool

from graph.postgres import lent, migrate, patient, postgres_errors, rows_of
from graph.vault import Vault
from providers.errors import StorageError
from sparklio.server.request_book import KEPT_S, Answer, Row, Turn, before_now

__all__ = ["RequestTable"]

log = logging.getLogger(__name__)

_LEASE_S = 15.0
_BEAT_S = 4.0
_CLEANED_EVERY_S = 600.0
_WHAT = "the book of requests"
_TABLE = (
    """
    CREATE TABLE requests (
        name TEXT PRIMARY KEY,
        digest TEXT NOT NULL,
        token TEXT NOT NULL,
        owner TEXT,
        owned_until TIMESTAMPTZ,
        at TIMESTAMPTZ NOT NULL DEFAULT now(),
        status INTEGER,
        headers TEXT,
        form TEXT,
        body BYTEA
    )
    """,
    "CREATE INDEX requests_owner ON requests (owner) WHERE owner IS NOT NULL",
    "CREATE INDEX requests_at ON requests (at)",
)
_MINE = """
INSERT INTO requests (name, digest, token, owner, owned_until)
VALUES (%s, %s, %s, %s, now() + make_interval(secs => %s))
ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, token = excluded.token, owner = excluded.owner,
    owned_until = excluded.owned_until, at = now(), status = NULL, headers = NULL, form = NULL, body = NULL
"""


class RequestTable:
    """Which server is at a request is told by a lease that each renews while it lives: a killed one's requests are free
    after 15 s.

    Args:
        pool: open; it is not closed here.
        vault: encrypts what is answered.
    """

    def __init__(self, pool: ConnectionPool[Any], vault: Vault) -> None:
        self._pool, self._vault = pool, vault
        self._owner = uuid4().hex
        self._turns: set[str] = set()
        self._closed = threading.Event()
        self._beating: threading.Thread | None = None
        self._cleaned_at = time.monotonic()

    def open(self) -> None:
        with postgres_errors(_WHAT), lent(self._pool) as connection:
            migrate(connection, "requests", _TABLE)
        self._beating = threading.Thread(target=self._beat, name="requests under way", daemon=True)
        self._beating.start()

    def close(self) -> None:
        self._closed.set()
        if self._beating is not None:
            self._beating.join()
            self._beating = None

    def begin(self, name: str, digest: str) -> Turn | Answer:
        """As :meth:`sparklio.server.request_book.Book.begin`."""
        with postgres_errors(_WHAT):
            self._clean()
            begun = self._begin(name, digest)
        if isinstance(begun, Turn):
            self._turns.add(name)
        return begun

    @patient
    def _begin(self, name: str, digest: str) -> Turn | Answer:
        """May be executed twice: the second time the row is ours."""
        with lent(self._pool) as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))
            row = connection.execute(
                "SELECT owned_until > now(), digest, token, owner, status, headers, form, body FROM requests "
                "WHERE name = %s AND at > now() - make_interval(secs => %s)",
                (name, KEPT_S),
            ).fetchone()
            before = None
            if row is not None:
                fresh, *columns = row
                before = before_now(digest, Row(*columns), self._vault, lambda owner: fresh and owner != self._owner)
            if isinstance(before, Answer):
                return before
            turn = Turn(name, before or uuid4().hex)
            connection.execute(_MINE, (name, digest, turn.token, self._owner, _LEASE_S))
            return turn

    def keep(self, turn: Turn, answer: Answer) -> None:
        self._turns.discard(turn.name)
        form, body = self._vault.encrypt(answer.body)
        self._write(
            "UPDATE requests SET owner = NULL, owned_until = NULL, at = now(), status = %s, headers = %s, form = %s, "
            "body = %s WHERE name = %s AND token = %s",
            (answer.status, json.dumps(answer.headers), form, body, turn.name, turn.token),
        )

    def give_back(self, turn: Turn) -> None:
        """Unless another server has begun it meanwhile."""
        self._turns.discard(turn.name)
        self._write(
            "UPDATE requests SET owner = NULL, owned_until = NULL, at = now() "
            "WHERE name = %s AND token = %s AND owner = %s",
            (turn.name, turn.token, self._owner),
        )

    def _beat(self) -> None:
        while not self._closed.wait(_BEAT_S):
            if not self._turns:
                continue
            try:
                self._write(
                    "UPDATE requests SET owned_until = now() + make_interval(secs => %s) WHERE owner = %s",
                    (_LEASE_S, self._owner),
                )
            except StorageError as exc:
                log.warning("the requests under way cannot be told to other servers: %s", exc)

    def _clean(self) -> None:
        if time.monotonic() - self._cleaned_at >= _CLEANED_EVERY_S:
            self._cleaned_at = time.monotonic()
            self._write("DELETE FROM requests WHERE at <= now() - make_interval(secs => %s)", (KEPT_S,))

    def _write(self, sql: str, values: tuple[Any, ...]) -> None:
        rows_of(self._pool, sql, values, what=_WHAT)
