"""Asks services how they are: within a time, loading no model, and with every failure told instead of raised."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from graph.sqlite import until_done
from providers.base import ImageProvider, LLMProvider
from providers.errors import AttemptTimeoutError, SparklioError, UnreachableError
from providers.registry import Family, image_provider, llm_provider
from routing.logs import mask_error, masked_description
from routing.remote import Readiness, Remote
from routing.remote_errors import GATEWAY
from routing.settings import Settings
from sparklio.server.errors import ErrorDetail

__all__ = ["Kept", "Probed", "check_gateway", "check_provider", "gateway_of", "opened", "probed"]

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Probed(Generic[T]):
    """What a service said; exactly one of ``value`` and ``error`` tells, unless the answer is None itself."""

    value: T | None
    error: ErrorDetail | None
    elapsed_ms: int


async def probed(
    name: str, call: Callable[[], Coroutine[Any, Any, T]], secrets: tuple[str, ...], *, seconds: float | None = None
) -> Probed[T]:
    """Await ``call``, for ``seconds`` at most; ``name`` is whom it asks."""
    started = time.perf_counter()
    value, failure = None, None
    try:
        value = await _within(seconds, call())
    except TimeoutError:
        failure = _told(_too_slow(name, seconds), secrets)
    except Exception as exc:  # a provider from outside may fail in any way, and how it does is the answer
        if not isinstance(exc, SparklioError):
            log.warning("asking %s failed", name, exc_info=exc)
        failure = _told(exc, secrets)
    return Probed(value, failure, round((time.perf_counter() - started) * 1000))


async def _within(seconds: float | None, call: Coroutine[Any, Any, T]) -> T:
    """The call's result. Its time begins when it first waits: a vendor's package may take seconds to import.

    That of whoever is asked at the same moment is imported meanwhile as well, hence two turns of the loop.
    """
    task = asyncio.create_task(call)
    try:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        async with asyncio.timeout(seconds):
            return await task
    finally:
        task.cancel()


@asynccontextmanager
async def opened(settings: Settings, family: Family, name: str) -> AsyncGenerator[LLMProvider | ImageProvider, None]:
    """An active provider of its own, closed at the end; building one opens nothing.

    Raises:
        SparklioError: it cannot be built.
    """
    config = settings.provider_config(family, name)
    provider = llm_provider(name)(config) if family == "llm" else image_provider(name)(config)
    try:
        yield provider
    finally:
        await provider.aclose()


async def check_provider(settings: Settings, family: Family, name: str) -> None:
    """Raises SparklioError where an active provider's service does not answer."""
    async with opened(settings, family, name) as provider:
        if not await provider.health_check():
            hint = f"GET /api/v1/debug/{name} tells more"
            raise UnreachableError(f"{name} does not answer as it should", provider=name, hint=hint)


@asynccontextmanager
async def gateway_of(settings: Settings) -> AsyncGenerator[Remote | None, None]:
    """The other Sparklio's server that SPARKLIO_GATEWAY_URL names; the log tells if it is not ready at the beginning.

    Raises:
        ConfigError: that is no URL, or SPARKLIO_GATEWAY_KEY no key.
    """
    url = settings.text("SPARKLIO_GATEWAY_URL")
    if not url:
        yield None
        return
    remote = Remote(url, settings.text("SPARKLIO_GATEWAY_KEY"), mode=settings.mode)
    looking = asyncio.create_task(_warn(remote))
    try:
        yield remote
    finally:
        looking.cancel()
        await until_done(looking)
        await remote.aclose()


async def check_gateway(remote: Remote) -> None:
    """Raises SparklioError where the other server is not ready, has not our mode, or is somebody else."""
    readiness = await remote.readiness()
    remote.check_mode(readiness)
    if not readiness.ready:
        raise UnreachableError(_unready(readiness), provider=GATEWAY, hint="ask its own /ready for more")


async def _warn(remote: Remote) -> None:
    try:
        readiness = await remote.readiness()
    except SparklioError as exc:
        log.debug("%s", exc)  # the gateways' own preparation has told it
    else:
        if not readiness.ready:
            log.warning("%s", _unready(readiness))


def _unready(readiness: Readiness) -> str:
    why = "; ".join(f"{name}: {failure}" for name, failure in readiness.failures.items())
    return f"the gateway is not ready: {why or 'it does not say why'}"


class Kept(Generic[T]):
    """An answer that is asked for once and told to everybody for ``seconds``, however many come at a time."""

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float) -> None:
        self._ask, self._seconds = ask, seconds
        self._lock = asyncio.Lock()
        self._kept: tuple[T, float] | None = None

    async def get(self) -> T:
        async with self._lock:
            if self._kept is None or time.monotonic() >= self._kept[1]:
                self._kept = (await self._ask(), time.monotonic() + self._seconds)
            return self._kept[0]


def _too_slow(name: str, seconds: float | None) -> AttemptTimeoutError:
    message = f"{name} gave no answer within {seconds:g} s" if seconds else f"{name} gave no answer in time"
    return AttemptTimeoutError(message, provider=name, hint="look whether the service hangs")


def _told(error: BaseException, secrets: tuple[str, ...]) -> ErrorDetail:
    if isinstance(error, SparklioError):
        mask_error(error, secrets)
    return ErrorDetail.model_validate(masked_description(error, secrets))
