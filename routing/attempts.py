"""Retries and the book of attempts, in one place: nothing above or below the gateways retries.

Up to :data:`MAX_ATTEMPTS` per route for what is retryable, with jittered exponential waits and ``Retry-After``
honoured; then the next route (:mod:`routing.fallbacks`).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import uniform
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from providers.errors import AttemptTimeoutError, ProviderError, ServerError, SparklioError, UnreachableError
from providers.usage import Usage
from routing.budget import Budget
from routing.contracts import Attempt, Route
from routing.logs import mask_error
from routing.prices import Prices, Used, total_cost
from routing.tracing import attempt_span

__all__ = ["MAX_ATTEMPTS", "AttemptLog", "with_retries"]

MAX_ATTEMPTS = 3
LONGEST_WAIT_S = 30.0
_CANCELLED = "cancelled"
_BACKOFF = wait_random_exponential(multiplier=0.25, max=4)

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class AttemptLog:
    """Every call of one gateway request, in order, and what each cost.

    Attributes:
        request_id: the request's.
        prices: by which calls are paid.
        budget: what each call is paid from.
        secrets: kept out of the errors that leave it.
        operation: what each call is in a trace.
    """

    request_id: str
    prices: Prices
    budget: Budget = field(default_factory=Budget)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    attempts: list[Attempt] = field(default_factory=list)
    operation: str = "chat"

    def check_prices(self, routes: Iterable[Route]) -> None:
        """Raises ConfigError before anything is paid: a budget cannot be held with a route of unknown price."""
        if self.budget.limit_usd is not None:
            for route in routes:
                self.prices.known(route)

    @property
    def usage(self) -> Usage:
        """All that was paid for, the answers that were of no use too."""
        return sum((attempt.usage for attempt in self.attempts), Usage())

    @property
    def cost_usd(self) -> float | None:
        """None where a call has no known price."""
        return total_cost(attempt.cost_usd for attempt in self.attempts)

    @contextmanager
    def told(self) -> Iterator[None]:
        """An error that leaves the block names the request and the attempts made for it, and no secret."""
        try:
            yield
        except SparklioError as exc:
            mask_error(exc, self.secrets)
            exc.request_id = self.request_id
            exc.details.setdefault("attempts", [attempt.model_dump() for attempt in self.attempts])
            raise

    async def record(
        self, route: Route, call: Callable[[int], Awaitable[T]], used: Callable[[T], Used], *, at_least: Used
    ) -> T:
        """Make one call and book it.

        Args:
            route: whom it goes to.
            call: hears its ordinal, from 1, over all routes.
            used: what a result used up.
            at_least: what the call will use up whatever comes of it; booked where nobody knows what came of it.

        Raises:
            BudgetError: it costs more than what is left; it is not made then.
        """
        self.prices.check(route, at_least, self.budget)
        with attempt_span(self.operation, route) as tell:
            try:
                return await self._booked(route, call, used, at_least)
            finally:
                tell(self.attempts[-1])

    async def _booked(
        self, route: Route, call: Callable[[int], Awaitable[T]], used: Callable[[T], Used], at_least: Used
    ) -> T:
        started = time.perf_counter()
        outcome, taken = _CANCELLED, at_least
        try:
            result = await call(len(self.attempts) + 1)
        except ProviderError as exc:
            mask_error(exc, self.secrets)
            outcome, taken = exc.code, _taken(exc, at_least)
            raise
        else:
            outcome, taken = "ok", used(result)
            return result
        finally:
            cost_usd = self.prices.cost(route, taken)
            self.budget.book(cost_usd)
            self.attempts.append(
                Attempt(
                    provider=route.provider,
                    model=route.model,
                    outcome=outcome,
                    latency_ms=round((time.perf_counter() - started) * 1000),
                    usage=taken.usage,
                    cost_usd=cost_usd,
                )
            )

    def cut_short(self, code: str) -> None:
        """Tell why the last call was cancelled, where it was: its time was over, nobody left."""
        if self.attempts and self.attempts[-1].outcome == _CANCELLED:
            self.attempts[-1].outcome = code


def _taken(error: ProviderError, at_least: Used) -> Used:
    """What a failed call used up. One that broke off, or took too long, was at work when nobody heard any more."""
    if error.usage is not None or error.images:
        return Used(error.usage or Usage(), error.images)
    broke_off = isinstance(error, ServerError) and error.status is None
    return at_least if broke_off or isinstance(error, AttemptTimeoutError | UnreachableError) else Used()


async def with_retries(attempt: Callable[[], Awaitable[T]], ends: float = math.inf) -> T:
    """Call ``attempt`` until it answers, fails for good or has had its :data:`MAX_ATTEMPTS`.

    Waits for no server that asks for more than there is until ``ends`` (the loop's clock, seconds).
    """
    async for trial in AsyncRetrying(
        stop=stop_after_attempt(MAX_ATTEMPTS),
        retry=retry_if_exception(lambda error: _is_retryable(error, ends)),
        wait=_wait,
        before_sleep=_say,
        reraise=True,
    ):
        with trial:
            return await attempt()
    raise AssertionError("tenacity ends in an answer or an error")


def _is_retryable(error: BaseException, ends: float) -> bool:
    """A server that asks to wait longer than :data:`LONGEST_WAIT_S`, or than is left, is left for the next route."""
    longest = min(LONGEST_WAIT_S, ends - asyncio.get_running_loop().time())
    return isinstance(error, ProviderError) and error.retryable and (error.retry_after or 0) <= longest


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ProviderError) else None
    return _BACKOFF(state) if asked is None else asked * uniform(1, 1.1)


def _say(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("attempt %d failed: %s; trying again", state.attempt_number, error)
