"""One HTTP call on its way, and the time limit over each of its steps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TypeVar

import httpx

from providers.errors import ProviderError

__all__ = ["Exchange", "note_response"]

T = TypeVar("T")


class Exchange:
    """One call. ``model`` is None for a probe, ``response`` until the headers are there."""

    def __init__(self, model: str | None, seconds: float) -> None:
        self.model = model
        self.seconds = seconds
        self.deadline = asyncio.get_running_loop().time() + seconds
        self.response: httpx.Response | None = None

    async def step(
        self,
        step: Callable[[], Awaitable[T]],
        foreign: tuple[type[Exception], ...],
        translated: Callable[[Exception, Exchange], ProviderError],
    ) -> T:
        """One step, its ``foreign`` errors translated.

        Each step has the time limit to itself: around a ``yield`` it would strike the caller, in the caller's own code.
        """
        token = _current.set(self)
        try:
            async with asyncio.timeout_at(self.deadline):
                return await step()
        except ProviderError:
            raise
        except foreign as exc:
            raise translated(exc, self) from exc
        finally:
            _current.reset(token)

    async def aclose(self) -> None:
        if self.response is not None:
            await self.response.aclose()


_current: ContextVar[Exchange] = ContextVar("exchange")


async def note_response(response: httpx.Response) -> None:
    """Hook for an httpx client: the running exchange has its headers."""
    exchange = _current.get(None)
    if exchange is not None:
        exchange.response = response
