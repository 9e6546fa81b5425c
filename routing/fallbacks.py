"""The chain of routes: the next one where one fails, and a rest for a provider that keeps failing.

A provider that is down would cost every request its retries before the next route gets a turn. So after
:data:`FAILURES` requests in a row that found it down, its routes come after all others for a while: for :data:`REST_S`
seconds, doubled each time up to :data:`LONGEST_REST_S`, and at once for as long as the server itself asked. When the
rest is over one request tries it first; those beside it go on as before until that has an answer. A route is never left
out: the only one is always tried.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from providers.errors import AttemptTimeoutError, OverloadedError, ProviderError, ServerError, UnreachableError
from routing.contracts import Route

__all__ = ["FAILURES", "LONGEST_REST_S", "REST_S", "Fallbacks"]

FAILURES = 2
REST_S = 15.0
LONGEST_REST_S = 300.0

_DOWN = (UnreachableError, OverloadedError, ServerError, AttemptTimeoutError)

log = logging.getLogger(__name__)
T = TypeVar("T")
R = TypeVar("R", bound=Route)


@dataclass
class _Health:
    """``failures`` in a row, the rest that they brought, until when it lasts (0: none), and who tries it just now."""

    failures: int = 0
    rest_s: float = 0.0
    until: float = 0.0
    trying: int = 0

    def recover(self) -> None:
        self.failures, self.rest_s, self.until = 0, 0.0, 0.0


class Fallbacks:
    """One per gateway; remembers how its providers do.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._health: defaultdict[str, _Health] = defaultdict(_Health)

    async def first(self, routes: Sequence[R], ask: Callable[[R], Awaitable[T]]) -> T:
        """The answer of the first route that gives one; the last route's error where none does."""
        found_down: set[str] = set()
        *others, last = sorted(routes, key=lambda route: self._rests(route.provider))
        for route in others:
            try:
                return await self._try(route, ask, found_down)
            except ProviderError as exc:
                log.warning("%s %s failed (%s: %s); trying the next route", route.provider, route.model, exc.code, exc)
        return await self._try(last, ask, found_down)

    def note_down(self, provider: str, retry_after: float | None = None) -> None:
        """Count a request that found the provider down; ``retry_after`` in seconds, where it asked to wait.

        Requests that were on their way when its rest began make the rest no longer.
        """
        health, now = self._health[provider], self._clock()
        health.failures += 1
        if health.failures >= FAILURES and now >= health.until:
            health.rest_s = min(health.rest_s * 2 or REST_S, LONGEST_REST_S)
            health.until = now + health.rest_s
        if retry_after:
            health.until = max(health.until, now + retry_after)
        if health.until > now:
            log.warning("%s is down; other routes go before it for %g s", provider, health.until - now)

    def _rests(self, provider: str) -> bool:
        """Whether its routes come after all others now."""
        health = self._health[provider]
        return health.until > 0 and (self._clock() < health.until or health.trying > 0)

    async def _try(self, route: R, ask: Callable[[R], Awaitable[T]], found_down: set[str]) -> T:
        """``found_down``: providers that this request has counted already."""
        health = self._health[route.provider]
        health.trying += 1
        try:
            answer = await ask(route)
        except ProviderError as exc:
            if not isinstance(exc, _DOWN):  # it is there, if only to refuse
                health.recover()
            elif route.provider not in found_down:
                found_down.add(route.provider)
                self.note_down(route.provider, exc.retry_after)
            raise
        else:
            health.recover()
            return answer
        finally:
            health.trying -= 1
