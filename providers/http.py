"""What every provider's connections share: limits, TLS, and one client per event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import httpx

from providers.errors import (
    AttemptTimeoutError,
    AuthenticationError,
    OverloadedError,
    ProviderError,
    RejectedError,
    ServerError,
)

__all__ = [
    "CONNECT_TIMEOUT_S",
    "LONGEST_RETRY_AFTER_S",
    "PerLoop",
    "client_options",
    "error_type",
    "is_http_url",
    "retry_after",
    "said",
    "unknown_host",
    "without_credentials",
]

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
_MAX_ERROR_CHARS = 300
_OVERLOADED = {429, 503, 529}  # 529 is Anthropic's
LONGEST_RETRY_AFTER_S = 3600.0

T = TypeVar("T")


def is_http_url(url: str) -> bool:
    """Whether ``url`` is an absolute http or https URL with a host."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host)


def without_credentials(url: httpx.URL) -> httpx.URL:
    return url.copy_with(userinfo=b"")


def said(exc: BaseException) -> str:
    """What an error says, bounded."""
    return (str(exc) or type(exc).__name__)[:_MAX_ERROR_CHARS]


def error_type(status: int) -> type[ProviderError]:
    """The error that an HTTP status above 299 is by convention (RFC 9110)."""
    if status in (401, 403):
        return AuthenticationError
    if status in _OVERLOADED:
        return OverloadedError
    return ServerError if status >= 500 or status == 408 else RejectedError


def unknown_host(exc: BaseException) -> bool:
    """Whether a connection failed because nobody knows the host's name; some packages raise their own ``from None``."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds that ``Retry-After`` asks to wait, given there as seconds or as a date; an hour at most."""
    value = headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return min(float(value), LONGEST_RETRY_AFTER_S)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        return None
    return min(max(0.0, (when - datetime.now(UTC)).total_seconds()), LONGEST_RETRY_AFTER_S)


def client_options(base_url: str, *, read_timeout_s: float, local: bool = True) -> dict[str, Any]:
    """Keyword arguments for an ``httpx.AsyncClient`` (or a vendor's client that passes them on).

    At most 20 kept-alive connections: with a hundred, httpx 0.28 spends 18-20 ms of CPU a call instead of 1.5-2.7 ms.
    Proxies of the environment are not used for services at home. Redirects are not followed, so no key travels to a
    host that nobody configured. Loading the system's certificates costs tens of milliseconds, so a plain-http URL gets
    an empty TLS context.
    """
    plain = httpx.URL(base_url).scheme == "http"
    return {
        "timeout": httpx.Timeout(read_timeout_s, connect=CONNECT_TIMEOUT_S),
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=20),
        "trust_env": not local,
        "follow_redirects": False,
        "verify": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else ssl.create_default_context(),
    }


@dataclass(eq=False)
class _Lent(Generic[T]):
    """An object with the number of its users; a retired one gets no new ones."""

    item: T
    users: int = 0
    retired: bool = False


class PerLoop(Generic[T]):
    """One object per running event loop, built at first use: connections must not cross loops.

    httpcore loses a connection from its books if a cancellation comes at an unlucky moment (encode/httpcore#1093). So
    what saw a cancellation or a timeout is retired at once: the next borrower gets a new one, and the old one is closed
    when its last user has gone.
    """

    def __init__(self, build: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._build = build
        self._close = close
        self._lent: WeakKeyDictionary[asyncio.AbstractEventLoop, list[_Lent[T]]] = WeakKeyDictionary()
        self._closing: set[asyncio.Future[None]] = set()

    @asynccontextmanager
    async def borrow(self) -> AsyncGenerator[T, None]:
        """The running loop's object, while the ``with`` block lasts."""
        lents = self._lent.setdefault(asyncio.get_running_loop(), [])
        lent = next((lent for lent in lents if not lent.retired), None)
        if lent is None:
            lent = _Lent(self._build())
            lents.append(lent)
        lent.users += 1
        try:
            yield lent.item
        except (asyncio.CancelledError, AttemptTimeoutError):
            lent.retired = True
            raise
        finally:
            lent.users -= 1
            if lent.retired and not lent.users and lent in lents:
                lents.remove(lent)
                await self._shut([lent])

    async def aclose(self) -> None:
        """Close the running loop's objects, lent ones too; another loop's can only be closed there."""
        lents = self._lent.pop(asyncio.get_running_loop(), [])
        closing = lents.copy()
        lents.clear()
        await self._shut(closing)

    async def _shut(self, lents: list[_Lent[T]]) -> None:
        """Close them, each in a task of its own, so that a cancellation leaves none half closed.

        Errors are logged only: an error that is on its way already matters more.
        """
        tasks = [asyncio.ensure_future(self._close(lent.item)) for lent in lents]
        for task in tasks:
            self._closing.add(task)
            task.add_done_callback(self._note_closed)
        if tasks:
            await asyncio.wait(tasks)

    def _note_closed(self, task: asyncio.Future[None]) -> None:
        self._closing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.debug("closing a connection failed", exc_info=error)
