"""A context for a graph that was invoked without one: built from the settings, once per event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from secrets import randbits
from weakref import WeakKeyDictionary

from nodes.context import Context
from routing.gateways import Gateways, build_gateways
from routing.settings import load_settings

__all__ = ["default_context"]

_open: WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncGenerator[Gateways, None]] = WeakKeyDictionary()
_gateways: WeakKeyDictionary[asyncio.AbstractEventLoop, Gateways] = WeakKeyDictionary()


async def default_context() -> Context:
    """Gateways of this event loop, with a fresh seed. The loop closes them at its own end."""
    loop = asyncio.get_running_loop()
    if loop not in _gateways:
        _open[loop] = _lifetime()
        _gateways[loop] = await anext(_open[loop])
    gateways = _gateways[loop]
    return Context(llm=gateways.llm, media=gateways.media, seed=randbits(31))


async def _lifetime() -> AsyncGenerator[Gateways, None]:
    """Nobody owns these gateways, but a loop ends its async generators (``shutdown_asyncgens``), and so this."""
    gateways = await asyncio.to_thread(lambda: build_gateways(load_settings()))
    try:
        yield gateways
    finally:
        await gateways.aclose()
