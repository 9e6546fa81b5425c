"""Gateways for a graph that was invoked without any: built from the settings, once per event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from weakref import WeakKeyDictionary

from routing.gateways import Gateways, build_gateways
from routing.settings import load_settings

__all__ = ["default_gateways"]

_Lifetimes = WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[AsyncGenerator[Gateways, None], Gateways]]
_open: _Lifetimes = WeakKeyDictionary()


async def default_gateways() -> Gateways:
    """The gateways of this event loop, which closes them at its own end."""
    loop = asyncio.get_running_loop()
    if loop not in _open:
        lifetime = _lifetime(await asyncio.to_thread(_build))
        _open[loop] = (lifetime, await anext(lifetime))
    return _open[loop][1]


async def _lifetime(gateways: Gateways) -> AsyncGenerator[Gateways, None]:
    """Nobody owns these gateways, but a loop ends its async generators (``shutdown_asyncgens``), and so this."""
    try:
        yield gateways
    finally:
        await gateways.aclose()


def _build() -> Gateways:
    return build_gateways(load_settings())
