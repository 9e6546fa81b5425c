"""Retries and the book of attempts, in one place: nothing above or below the gateways retries.

Up to :data:`MAX_ATTEMPTS` per route for what is retryable, with jittered exponential waits and ``Retry-After``
honoured; then the next route (:mod:`routing.fallbacks`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import uniform
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential

from providers.errors import ProviderError, SparklioError
from routing.contracts import Attempt
from routing.logs import mask_error
from routing.router import Route

__all__ = ["MAX_ATTEMPTS", "AttemptLog", "with_retries"]

MAX_ATTEMPTS = 3
LONGEST_WAIT_S = 30.0
_BACKOFF = wait_random_exponential(multiplier=0.25, max=4)

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass
class AttemptLog:
    """Every call of one gateway request, in order; ``secrets`` are kept out of the errors that leave it."""

    request_id: str
    secrets: tuple[str, ...] = ()
    attempts: list[Attempt] = field(default_factory=list)

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

    async def record(self, route: Route, call: Callable[[int], Awaitable[T]]) -> T:
        """Make one call and book it; ``call`` hears its ordinal, from 1, over all routes."""
        started = time.perf_counter()
        outcome = "cancelled"
        try:
            result = await call(len(self.attempts) + 1)
        except ProviderError as exc:
            outcome = exc.code
            raise
        else:
            outcome = "ok"
            return result
        finally:
            latency_ms = round((time.perf_counter() - started) * 1000)
            self.attempts.append(
                Attempt(provider=route.provider, model=route.model, outcome=outcome, latency_ms=latency_ms)
            )


async def with_retries(attempt: Callable[[], Awaitable[T]]) -> T:
    """Call ``attempt`` until it answers, fails for good or has had its :data:`MAX_ATTEMPTS`."""
    async for trial in AsyncRetrying(
        stop=stop_after_attempt(MAX_ATTEMPTS),
        retry=retry_if_exception(_is_retryable),
        wait=_wait,
        before_sleep=_say,
        reraise=True,
    ):
        with trial:
            return await attempt()
    raise AssertionError("tenacity ends in an answer or an error")


def _is_retryable(error: BaseException) -> bool:
    """A server that asks to wait longer than :data:`LONGEST_WAIT_S` is left for the next route."""
    return isinstance(error, ProviderError) and error.retryable and (error.retry_after or 0) <= LONGEST_WAIT_S


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ProviderError) else None
    return _BACKOFF(state) if asked is None else asked * uniform(1, 1.1)


def _say(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("attempt %d failed: %s; trying again", state.attempt_number, error)
