"""Servers that pass requests on to other servers, and never round in a circle.

Whatever a server does, it does under its own name and those of the servers that the request came through; the clients
in :mod:`routing.clients` send these names along, and a server that finds its own among them refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from providers.errors import ConfigError

__all__ = ["VIA", "names_to_send", "passing"]

VIA = "X-Sparklio-Via"
_MOST_SERVERS = 8
_names: ContextVar[tuple[str, ...]] = ContextVar("via", default=())


def names_to_send() -> str:
    """The header's value for a request that is sent from here; empty outside of any server."""
    return ", ".join(_names.get())


@contextmanager
def passing(name: str, header: str = "") -> Iterator[None]:
    """What a server called ``name`` does in this block, tasks that it starts included, it does under its name.

    Args:
        name: of this server, unlike any other's.
        header: what the request said in :data:`VIA`.

    Raises:
        ConfigError: the request came through this server before, or through more than eight.
    """
    before = tuple(filter(None, (one.strip() for one in header.split(","))))
    if name in before:
        raise ConfigError(
            "this server's SPARKLIO_GATEWAY_URL leads back to itself",
            hint="unset SPARKLIO_GATEWAY_URL on the server whose own providers are to answer",
        )
    if len(before) > _MOST_SERVERS:
        raise ConfigError(
            f"the request came through {len(before)} servers, and {_MOST_SERVERS} are the most",
            hint="let SPARKLIO_GATEWAY_URL name the server whose own providers are to answer",
        )
    token = _names.set((*before, name))
    try:
        yield
    finally:
        _names.reset(token)
