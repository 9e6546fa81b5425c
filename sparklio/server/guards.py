"""What every request passes before a route sees it, from the outside in.

identity and headers -> stop of the server -> Host -> CORS -> keys -> size of the body. All of them are plain ASGI:
Starlette's ``BaseHTTPMiddleware`` breaks streams and what a client's leaving should cancel.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from hmac import compare_digest
from ipaddress import IPv4Address, IPv6Address, ip_address
from uuid import uuid4

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from providers.errors import ConfigError, UnauthorizedError
from routing.settings import Settings
from sparklio.server.errors import error_response, plain_error

__all__ = ["Requests", "add_guards"]

log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{0,5})?")
_OPEN = {"/health", "/ready"}
"""Paths that need no key: who looks after servers asks them."""
_CHUNK_S = 30.0
"""In which the next part of a request's body must come."""
_BODY_S = 60.0
"""In which all of it must come, and a second more for each :data:`_BODY_PER_S` bytes: no body is dripped for ever."""
_BODY_PER_S = 10_000
_CANCELLED_S = 1.0
"""What a cancelled request has to put its things away."""
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
"""Of every answer, where its route says nothing else."""
_METHODS = ("GET", "HEAD", "POST", "DELETE")
_ASKED = ("Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "X-Request-ID")
_TOLD = ("ETag", "Idempotency-Replayed", "Location", "Retry-After", "X-Request-ID")


def add_guards(app: FastAPI, settings: Settings) -> None:
    """Put the guards around the routes. ``app.state`` gets ``requests`` and ``host_names``, to which a server adds its.

    Raises:
        ConfigError: every web page in the world may call a server that wants no key.
    """
    keys, origins = settings.words("SPARKLIO_API_KEYS"), settings.words("SPARKLIO_CORS_ORIGINS")
    if not keys and {"*", "null"} & set(origins):  # null is the origin of any page that is sandboxed
        raise ConfigError(
            "SPARKLIO_CORS_ORIGINS lets every web page call the server, and the server has no keys",
            hint="name the origins, or set SPARKLIO_API_KEYS",
        )
    app.state.requests = Requests()
    app.state.host_names = {"localhost", *map(str.lower, settings.words("SPARKLIO_ALLOWED_HOSTS"))}
    # each is put around those before it
    app.add_middleware(_Body, limit=int(float(settings.text("SPARKLIO_MAX_BODY_MB") or 0) * 1_000_000))
    app.add_middleware(_Keys, keys=keys, origins=origins)
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=_METHODS,
            allow_headers=_ASKED,
            expose_headers=_TOLD,
            allow_private_network=True,
        )
    app.add_middleware(_Host, names=app.state.host_names)
    app.add_middleware(_Ending, requests=app.state.requests)
    app.add_middleware(_Identity, secrets=settings.secrets)


class _Identity:
    """Gives each request its id and each answer its headers, answers what breaks further in, and HEAD as GET."""

    def __init__(self, app: ASGIApp, secrets: tuple[str, ...]) -> None:
        self._app, self._secrets = app, secrets

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        answer = _Answer(send, {**_HEADERS, "x-request-id": request_id}, bodiless=scope["method"] == "HEAD")
        inner = {**scope, "state": {**scope.get("state", {}), "request_id": request_id}}
        if scope["method"] == "HEAD":
            inner["method"] = "GET"
        try:
            await self._app(inner, receive, answer.send)
        except Exception as exc:
            log.exception("%s %s failed (request %s)", scope["method"], scope["path"], request_id)
            if not answer.started:  # else the server ends the connection, by which the client sees that some is missing
                await error_response(exc, request_id, self._secrets)(inner, receive, answer.send)


class _Answer:
    """Adds headers to an answer on its way out; one without body is over once its headers are sent."""

    def __init__(self, send: Send, headers: Mapping[str, str], *, bodiless: bool) -> None:
        self._send, self._headers, self._bodiless = send, headers, bodiless
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
            await self._send(message)
            if self._bodiless:
                await self._send({"type": "http.response.body", "body": b""})
        elif not self._bodiless:
            await self._send(message)


class Requests:
    """What is being answered at this moment."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[object]] = set()
        self.ending = False

    async def end(self, grace_s: float) -> None:
        """Give what is under way some time to end by itself, then cancel it: the server is about to stop."""
        await self._wait(grace_s)
        self.ending = True
        for task in self.tasks:
            task.cancel()
        await self._wait(_CANCELLED_S)
        self.ending = False

    async def _wait(self, seconds: float) -> None:
        if self.tasks:
            await asyncio.wait(set(self.tasks), timeout=seconds)


class _Ending:
    """At the server's stop: whoever has no answer yet is told to try again, and a stream ends as streams do."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app, self._requests = app, requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        if scope["type"] != "http" or task is None:
            await self._app(scope, receive, send)
            return
        sent: list[Message] = []

        async def watched(message: Message) -> None:
            if not message.get("more_body", False):
                sent.append(message)  # the answer's beginning and its end
            await send(message)

        self._requests.tasks.add(task)
        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if not self._requests.ending or (len(sent) == 1 and "content-length" in Headers(raw=sent[0]["headers"])):
                raise
            task.uncancel()
            if not sent:
                await _stopping(scope)(scope, receive, send)
            elif len(sent) == 1:
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._requests.tasks.discard(task)


class _Host:
    """Answers to our own names and addresses only.

    A page of somebody else's whose name is made to resolve to 127.0.0.1 (DNS rebinding) is of the same origin as we
    are, to the browser; the Host header is what gives it away.
    """

    def __init__(self, app: ASGIApp, names: set[str]) -> None:
        self._app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and not self._is_ours(Headers(scope=scope).get("host", ""), scope.get("server")):
            app = plain_error(
                400,
                "the server does not answer to the name in the Host header",
                scope["state"]["request_id"],
                hint="call it by its address, or add the name to SPARKLIO_ALLOWED_HOSTS",
            )
        await app(scope, receive, send)

    def _is_ours(self, host: str, server: tuple[str, int | None] | None) -> bool:
        match = _HOST.fullmatch(host.lower())
        name = match[1].strip("[]").removesuffix(".") if match else ""
        if name in self._names or _is_loopback(name):
            return True
        address = _address(name)
        return address is not None and server is not None and address == _address(server[0])


class _Keys:
    """Lets in who has a key; where there are none, who is on this machine and no web page of somebody else's."""

    def __init__(self, app: ASGIApp, keys: Iterable[str], origins: Iterable[str]) -> None:
        self._app, self._origins = app, set(origins)
        self._digests = [sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        problem = self._without_key(scope, headers) if self._digests else self._of_a_stranger(scope, headers)
        app = error_response(problem, scope["state"]["request_id"]) if problem else self._app
        await app(scope, receive, send)

    def _without_key(self, scope: Scope, headers: Headers) -> UnauthorizedError | None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        digest = sha256(key.strip().encode("latin-1")).digest()
        known = [compare_digest(digest, other) for other in self._digests]  # all of them, whichever it is
        if scheme.lower() != "bearer" or not any(known):
            problem = "the key is none of the server's" if key else "the server wants a key"
            return UnauthorizedError(problem, hint="send the header Authorization: Bearer KEY, see SPARKLIO_API_KEYS")
        scope["state"]["caller"] = digest.hex()
        return None

    def _of_a_stranger(self, scope: Scope, headers: Headers) -> UnauthorizedError | None:
        client = scope.get("client")
        if client is None or not _is_loopback(client[0]):
            return UnauthorizedError(
                "the server has no keys, and answers on its own machine only",
                hint="set SPARKLIO_API_KEYS there, and send one of them",
            )
        if self._is_of_another_site(scope, headers):
            return UnauthorizedError(
                "a web page of another site has sent this",
                hint="add its origin to SPARKLIO_CORS_ORIGINS, or set SPARKLIO_API_KEYS and send one of them",
            )
        return None

    def _is_of_another_site(self, scope: Scope, headers: Headers) -> bool:
        """Whether a browser says so; a link that somebody follows is harmless, as the other page sees nothing of it."""
        origin = headers.get("origin")
        if origin is not None:
            own = re.sub("^https?://", "", origin.lower()) == headers.get("host", "").lower()
            return not own and origin not in self._origins
        followed = scope["method"] == "GET" and headers.get("sec-fetch-dest") == "document"
        return headers.get("sec-fetch-site") == "cross-site" and not followed


class _Body:
    """Reads no more of a request than it should, and does not wait for the rest for ever.

    What is left of a refused body is read and dropped by the server, so that the connection can be used again.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if int(Headers(scope=scope).get("content-length", "0")) > self._limit:
            await plain_error(413, self._too_large, scope["state"]["request_id"])(scope, receive, send)
            return
        exchange = _Exchange(receive, send, self._limit, HTTPException(413, self._too_large))
        await self._app(scope, exchange.receive, exchange.send)
        await exchange.end()

    @property
    def _too_large(self) -> str:
        return f"the body is larger than {self._limit / 1_000_000:g} MB"


class _Exchange:
    """One request's body as it comes, and the answer to it.

    A body that is too large or too late fails the request; where the answer has begun, which can be no error any more,
    the route is told that its client has left.
    """

    def __init__(self, receive: Receive, send: Send, limit: int, too_large: HTTPException) -> None:
        self._receive, self._send, self._limit, self._too_large = receive, send, limit, too_large
        self._size, self._complete, self._given_up = 0, False, False
        self._began: float | None = None
        self._answer: list[Message] = []

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        if self._given_up:
            return {"type": "http.disconnect"}
        try:
            message = await self._next()
        except HTTPException:
            if not self._answer:
                raise
            self._given_up = True
            return {"type": "http.disconnect"}
        self._complete = not message.get("more_body", False)
        return message

    async def _next(self) -> Message:
        now = asyncio.get_running_loop().time()
        self._began = now if self._began is None else self._began
        last = self._began + _BODY_S + self._size / _BODY_PER_S
        try:
            async with asyncio.timeout_at(min(now + _CHUNK_S, last)):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "the body does not come, or too slowly", {"connection": "close"}) from None
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            raise self._too_large
        return message

    async def send(self, message: Message) -> None:
        if not message.get("more_body", False):
            self._answer.append(message)  # its beginning and its end
        await self._send(message)

    async def end(self) -> None:
        """End the answer that a route has left off because we gave its client up."""
        if (
            self._given_up
            and len(self._answer) == 1
            and "content-length" not in Headers(raw=self._answer[0]["headers"])
        ):
            await self._send({"type": "http.response.body", "body": b""})


def _stopping(scope: Scope) -> Response:
    return plain_error(
        503,
        "the server is stopping",
        scope["state"]["request_id"],
        hint="try again when it is back",
        headers={"retry-after": "2"},
    )


def _is_loopback(text: str) -> bool:
    address = _address(text)
    return address is not None and address.is_loopback


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """What is called by version 4 on a socket of version 6 has an address of version 6 there, which is undone."""
    try:
        ip = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip
