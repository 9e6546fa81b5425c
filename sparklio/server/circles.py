"""No request goes round: a server whose SPARKLIO_GATEWAY_URL leads back to it refuses, see :mod:`routing.via`."""

from __future__ import annotations

from secrets import token_hex

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from routing.via import VIA, passing

__all__ = ["NoCircles"]


class NoCircles:
    """Has each request done under this server's name, tasks that it starts included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._name = token_hex(8)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ConfigError: the request came through here before."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with passing(self._name, Headers(scope=scope).get(VIA, "")):
            await self._app(scope, receive, send)
