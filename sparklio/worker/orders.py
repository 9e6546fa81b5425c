"""What one worker orders of another, in the table ``worker_orders``: an image, or one agent's work.

An order is known by its key. Whoever does it says so every few seconds, and writes what came of it; that stays there
for who orders the same again. Redis only says that there is something to look at.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from base64 import b64decode, b64encode
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, TypeVar

from graph.postgres import SyncPool, rows_of
from graph.sqlite import until_done
from graph.vault import Vault

__all__ = ["BEAT_S", "GivenBackError", "Orders", "Standing", "StoppedError", "TakenOverError", "under_beat"]

T = TypeVar("T")

BEAT_S = 1.0
_DEAD_AFTER_S = 8.0
_KEPT_FOR = "7 days"

_PLACE = """
INSERT INTO worker_orders (key, request) VALUES (%(key)s, %(request)s)
ON CONFLICT (key) DO UPDATE SET request = excluded.request, error = NULL, cancel_wanted = FALSE
"""
_TAKE = """
UPDATE worker_orders SET owner = %(owner)s, beat_at = clock_timestamp()
WHERE key = %(key)s AND answer IS NULL AND error IS NULL AND NOT cancel_wanted
    AND (beat_at IS NULL OR owner = %(owner)s OR beat_at < clock_timestamp() - make_interval(secs => %(dead_s)s))
RETURNING request
"""
_BEAT = """
UPDATE worker_orders SET beat_at = clock_timestamp() WHERE key = %(key)s AND owner = %(owner)s RETURNING cancel_wanted
"""
_FAILED = """
UPDATE worker_orders SET error = %(error)s, beat_at = NULL
WHERE key = %(key)s AND owner = %(owner)s AND answer IS NULL
"""
_LOOK = """
SELECT answer, error, beat_at > clock_timestamp() - make_interval(secs => %(dead_s)s) FROM worker_orders
WHERE key = %(key)s
"""


class StoppedError(Exception):
    """Whoever ordered the work wants it no more."""


class TakenOverError(Exception):
    """Somebody else does it, as we were not heard of for too long: what a service makes by its key is theirs now."""


class GivenBackError(Exception):
    """This process is to end."""


@dataclass(frozen=True)
class Standing:
    """How an order stands: its answer or error as JSON, and whether somebody does it now."""

    answer: str | None = None
    error: dict[str, Any] | None = None
    alive: bool = False


class Orders:
    """
    Args:
        pool: connections to a database that has the table, see :class:`sparklio.worker.queue.Queue`. One object
            does one thing at a time.
        vault: encrypts requests and answers, which hold prompts and what agents read and write.
    """

    def __init__(self, pool: SyncPool, vault: Vault | None = None) -> None:
        self.pool = pool
        self._vault = vault or Vault()
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{token_hex(4)}"

    def place(self, key: str, request: str) -> None:
        """Order it, anew where it failed or was cancelled; an answer that is there stays."""
        self._all(_PLACE, key, request=self._sealed(request))

    def take(self, key: str) -> str | None:
        """The request, which is ours from now on; None: it is done, unwanted, or somebody else does it."""
        rows = self._all(_TAKE, key)
        return self._opened(rows[0][0]) if rows else None

    def beat(self, key: str) -> bool:
        """Say that we still do it; whether we are to go on.

        Raises:
            TakenOverError: it is not ours any more.
        """
        rows = self._all(_BEAT, key)
        if not rows:
            raise TakenOverError
        return not rows[0][0]

    def answered(self, key: str, answer: str) -> None:
        sql = "UPDATE worker_orders SET answer = %(answer)s WHERE key = %(key)s AND answer IS NULL"
        self._all(sql, key, answer=self._sealed(answer))

    def failed(self, key: str, error: dict[str, Any]) -> None:
        """Unless it is answered, or somebody else has taken it over."""
        self._all(_FAILED, key, error=json.dumps(error))

    def give_back(self, key: str) -> None:
        """Have somebody else do it."""
        self._all("UPDATE worker_orders SET beat_at = NULL WHERE key = %(key)s AND owner = %(owner)s", key)

    def cancel(self, key: str) -> None:
        self._all("UPDATE worker_orders SET cancel_wanted = TRUE WHERE key = %(key)s AND answer IS NULL", key)

    def look(self, key: str) -> Standing:
        rows = self._all(_LOOK, key)
        if not rows:
            return Standing()
        answer, error, alive = rows[0]
        return Standing(answer and self._opened(answer), json.loads(error) if error else None, bool(alive))

    def forget_old(self) -> None:
        """Delete what nobody asks for any more."""
        self._all(f"DELETE FROM worker_orders WHERE ordered_at < now() - interval '{_KEPT_FOR}'", "")  # noqa: S608

    def _sealed(self, text: str) -> str:
        """JSON as it is, or where there is a key the form and the bytes of a vault."""
        if not self._vault.encrypts:
            return text
        form, body = self._vault.encrypt(text.encode())
        return f"{form}:{b64encode(body).decode()}"

    def _opened(self, text: str) -> str:
        if text.startswith("{"):
            return text
        form, _, body = text.partition(":")
        return self._vault.decrypt(form, b64decode(body)).decode()

    def _all(self, sql: str, key: str, **words: Any) -> list[Any]:
        """The rows of a statement that may be executed twice.

        Raises:
            StorageError: the database cannot be used.
        """
        every = {"key": key, "owner": self.owner, "dead_s": _DEAD_AFTER_S, **words}
        return rows_of(self.pool, sql, every, what="the orders of workers")


async def under_beat(
    orders: Orders,
    key: str,
    work: Coroutine[Any, Any, T],
    stopping: asyncio.Event,
    on_stop: Callable[[], Awaitable[None]] | None = None,
) -> T:
    """What ``work`` comes to, while everybody can see that somebody does it.

    Args:
        orders: whose order ``key`` was taken.
        key: the order.
        work: what is to be done; it is cancelled where it is wanted no more.
        stopping: set once this process is to end; the order is given back then.
        on_stop: called after the work was cancelled because it is wanted no more.

    Raises:
        StoppedError, GivenBackError, TakenOverError: the work was cancelled; and what it raises itself.
    """
    working = asyncio.create_task(work)
    ending = asyncio.create_task(stopping.wait())
    try:
        while not working.done():
            await asyncio.wait({working, ending}, timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                break
            if ending.done():
                await _cancelled(working)
                await asyncio.to_thread(orders.give_back, key)
                raise GivenBackError
            if not await asyncio.to_thread(orders.beat, key):
                await _cancelled(working)
                if on_stop:
                    await on_stop()
                raise StoppedError
        return await working
    finally:
        ending.cancel()
        await _cancelled(working)


async def _cancelled(working: asyncio.Task[Any]) -> None:
    working.cancel()
    await until_done(working)
    if not working.cancelled():
        working.exception()  # told already, or of no interest to who leaves
