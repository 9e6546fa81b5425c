"""The chain of routes: the next one where one fails, and a rest for a provider that keeps failing.

A provider that is down would cost every request its retries before the next route gets a turn. So after
:data:`FAILURES` requests in a row that found it down, its routes come after all others for a while: for :data:`REST_S`
seconds, doubled each time up to :data:`LONGEST_REST_S`, and at once for as long as the server itself asked. When the
rest is over one request tries it first; those beside it go on as before until that has an answer. A model that takes
too long rests alone: a large one says nothing of a small one beside it. A route is never left out: the only one is
always tried.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
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

_Who = tuple[str, str | None]
"""A provider, and the one model of it that is meant; None is all of it."""


@dataclass
class _Health:
    """``failures`` in a row, the rest that they brought, until when it lasts (0: none), and who tries it just now."""

    failures: int = 0
    rest_s: float = 0.0
    until: float = 0.0
    trying: int = 0


class Fallbacks:
    """One per gateway; remembers how its providers do.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._health: defaultdict[_Who, _Health] = defaultdict(_Health)

    async def first(self, routes: Sequence[R], ask: Callable[[R], Awaitable[T]]) -> T:
        """The answer of the first route that gives one; the last route's error where none does."""
        found_down: set[_Who] = set()
        *others, last = sorted(routes, key=self._rests)
        for route in others:
            try:
                return await self._try(route, ask, found_down)
            except ProviderError as exc:
                log.warning("%s %s failed (%s: %s); trying the next route", route.provider, route.model, exc.code, exc)
        return await self._try(last, ask, found_down)

    def note_slow(self, provider: str, model: str) -> None:
        """Count a request that ended while it waited for this model."""
        self._note_down((provider, model), None)

    def _note_down(self, who: _Who, retry_after: float | None) -> None:
        """Count a request that found it down; ``retry_after`` in seconds, where it asked to wait.

        Requests that were on their way when its rest began make the rest no longer.
        """
        health, now = self._health[who], self._clock()
        health.failures += 1
        if health.failures >= FAILURES and now >= health.until:
            health.rest_s = min(health.rest_s * 2 or REST_S, LONGEST_REST_S)
            health.until = now + health.rest_s
        if retry_after:
            health.until = max(health.until, now + retry_after)
        if health.until > now:
            name = " ".join(filter(None, who))
            log.warning("%s is down; other routes go before it for %g s", name, health.until - now)

    def _rests(self, route: Route) -> bool:
        """Whether it comes after all others now."""
        return any(
            health.until > 0 and (self._clock() < health.until or health.trying > 0) for health in self._healths(route)
        )

    def _healths(self, route: Route) -> tuple[_Health, _Health]:
        return self._health[route.provider, None], self._health[route.provider, route.model]

    async def _try(self, route: R, ask: Callable[[R], Awaitable[T]], found_down: set[_Who]) -> T:
        """``found_down``: whom this request has counted already."""
        healths = self._healths(route)
        for health in healths:
            health.trying += 1
        try:
            answer = await ask(route)
        except ProviderError as exc:
            who = route.provider, route.model if isinstance(exc, AttemptTimeoutError) else None
            if not isinstance(exc, _DOWN):  # it is there, if only to refuse
                _recover(healths)
            elif who not in found_down:
                found_down.add(who)
                self._note_down(who, exc.retry_after)
            raise
        else:
            _recover(healths)
            return answer
        finally:
            for health in healths:
                health.trying -= 1


def _recover(healths: Iterable[_Health]) -> None:
    for health in healths:
        health.failures, health.rest_s, health.until = 0, 0.0, 0.0
