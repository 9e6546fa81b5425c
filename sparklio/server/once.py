"""The Idempotency-Key header: a request that is repeated with its key is done once, and answered as at first.

Answers are kept for a day, apart for each API key and endpoint, encrypted where the database of the runs is: in
``<home>/requests.sqlite``, or in PostgreSQL, where all servers find them. A request has a token, which stands there
before anything is done: after a crash between the deed and its answer the repeated request comes with the same token,
and whoever wrote it down with the deed (a run's record, an image's job) finds it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Self

from fastapi import Header, Request
from fastapi.encoders import jsonable_encoder
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from graph.sqlite import to_its_end
from graph.vault import Vault
from providers.errors import InputError, StorageError
from routing.contracts import Mode
from sparklio.server.bodies import wants_events
from sparklio.server.request_book import Answer, Book, RequestBook, Turn, under_way

__all__ = ["REPLAYED", "IdempotencyKey", "Once"]

log = logging.getLogger(__name__)

REPLAYED = "idempotency-replayed"
_HEADER = "idempotency-key"
_LONGEST_KEY = 255
_BIGGEST = 8_000_000
"""Bytes of an answer that is kept; a bigger one is made again."""

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=_LONGEST_KEY,
        pattern=r"^[ -~]+$",
        description="A word of your own for this request: repeated with it within 24 hours, it is not done again but "
        "answered as at first, with the header `Idempotency-Replayed: true`. Failures are not kept.",
    ),
]
"""For the signature of a route, so that OpenAPI tells of the header; :meth:`Once.answer` reads it by itself."""

Make = Callable[[str | None], Awaitable[Any]]


class Once:
    """``async with Once(home) as once``; several servers may share a data folder, or a book.

    Args:
        home: the data folder; it is there.
        key: 32 bytes that answers are encrypted with; None: they are not.
        mode: of the server; what a mock answered is no answer in live.
        book: where the answers are kept, instead of the data folder.

    Raises:
        StorageError: on entering, where the file cannot be used.
        ConfigError: there is a key, and the package that encrypts is not installed.
    """

    def __init__(self, home: Path, key: bytes | None = None, mode: Mode = "mock", *, book: Book | None = None) -> None:
        self._mode = mode
        self._book = book or RequestBook(home, Vault(key))
        self._working: dict[str, asyncio.Task[Any] | None] = {}

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._book.open)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await to_its_end(asyncio.to_thread(self._book.close))

    async def answer(
        self,
        request: Request,
        make: Make,
        *,
        status: int = 200,
        body: bytes | None = None,
        good: Callable[[], bool] = lambda: True,
    ) -> Response:
        """The response to a request: what ``make`` makes or, if it was made before under the same key, that again.

        Without the header it is just made. In a route::

            async def start_run(body: NewRun, request: Request, services: ServicesOf, key: IdempotencyKey = None):
                return await services.once.answer(request, lambda token: book(services, body, token), status=202)

        Args:
            request: its header, path, query and body tell whether it is the same, and whether it accepts events.
            make: does the work. It is given the request's token, the same for each try (also after a crash or a
                failure) or None without the header; and returns a Response (streams, too) or what JSON can say (a
                pydantic model, a dict), to be sent with ``status``.
            body: what stands for the request's body where FastAPI has taken that apart: the bytes of an upload.
            good: asked when a stream is over; one that ended in an error says False, and is not kept.

        Raises:
            InputError: the header is not 1 to 255 printable ASCII characters.
            ConflictError: the key came with another request before, or that one is still being answered.
            StorageError: the file cannot be used.
        """
        key = _key(request)
        if key is None:
            return _response(await make(None), status)
        name, digest = _name(request, key, self._mode), _digest(request, await request.body() if body is None else body)
        begun = await self._begin(name, digest)
        if isinstance(begun, Answer):
            return Response(begun.body, begun.status, {**begun.headers, REPLAYED: "true"})
        try:
            response = _response(await make(begun.token), status)
        except BaseException:
            await self.give_back(begun)
            raise
        return _Kept(response, self, begun, good)

    async def _begin(self, name: str, digest: str) -> Turn | Answer:
        """Whoever comes first gets the turn, and is remembered by its task: a turn whose task is over is free."""
        task = self._working.get(name)
        if task is not None and not task.done():
            raise under_way()
        self._working[name] = asyncio.current_task()
        try:
            begun = await to_its_end(asyncio.to_thread(self._book.begin, name, digest))
        except BaseException:
            self._working.pop(name, None)
            raise
        if isinstance(begun, Answer):
            self._working.pop(name, None)
        return begun

    async def keep(self, turn: Turn, answer: Answer) -> None:
        """Remember the answer, and end the turn.

        An answer that the disk refuses is an answer all the same; to do it all again would help nobody.
        """
        try:
            await to_its_end(asyncio.to_thread(self._book.keep, turn, answer))
        except StorageError as exc:
            log.warning("an answer could not be kept for its Idempotency-Key: %s", exc)
        finally:
            self._working.pop(turn.name, None)

    async def give_back(self, turn: Turn) -> None:
        """End the turn without an answer: it has failed, or its client is gone. The next try has the same token."""
        try:
            await to_its_end(asyncio.to_thread(self._book.give_back, turn))
        except StorageError as exc:
            log.warning("a failed request could not be crossed out: %s", exc)
        finally:
            self._working.pop(turn.name, None)


class _Kept(Response):
    """A response that is kept before its last part is sent, so that no client has an answer that is not kept."""

    def __init__(self, response: Response, once: Once, turn: Turn, good: Callable[[], bool]) -> None:
        self.status_code, self.background = response.status_code, response.background
        self.raw_headers = response.raw_headers
        self.body = getattr(response, "body", b"")
        self._response, self._once, self._turn, self._good = response, once, turn, good
        self._sent = bytearray()
        self._settled = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def kept_first(message: Message) -> None:
            if message["type"] == "http.response.body":
                if len(self._sent) <= _BIGGEST:
                    self._sent += message.get("body", b"")
                if not message.get("more_body", False):
                    await self._settle()
            await send(message)

        self._response.background = self.background  # FastAPI hangs a route's background tasks on what it is given
        try:
            await self._response(scope, receive, kept_first)
        finally:
            if not self._settled:
                await self._once.give_back(self._turn)

    async def _settle(self) -> None:
        self._settled = True
        if self.status_code < 400 and len(self._sent) <= _BIGGEST and self._good():
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.raw_headers}
            await self._once.keep(self._turn, Answer(self.status_code, headers, bytes(self._sent)))
        else:
            await self._once.give_back(self._turn)


def _key(request: Request) -> str | None:
    key = request.headers.get(_HEADER)
    if key is not None and not (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InputError(
            "the header Idempotency-Key must be 1 to 255 printable ASCII characters", hint="a UUID is a good one"
        )
    return key


def _name(request: Request, key: str, mode: Mode) -> str:
    """Of the row: nobody meets another caller's key, and one key may serve at several endpoints."""
    caller = getattr(request.state, "caller", "")
    return sha256("\0".join((mode, caller, request.method, request.url.path, key)).encode()).hexdigest()


def _digest(request: Request, body: bytes) -> str:
    """Who asks for events is not answered with the whole that was kept, nor the other way round."""
    kind = b"events" if wants_events(request) else b"whole"
    return sha256(b"\0".join((request.url.query.encode(), kind, body))).hexdigest()


def _response(made: Any, status: int) -> Response:
    return made if isinstance(made, Response) else JSONResponse(jsonable_encoder(made), status)
