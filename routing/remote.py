"""Another Sparklio's server, as all clients call it: connections, retries, errors, and whether it fits.

A call whose connection breaks is made again under the same idempotency key, so that the server does nothing twice. What
the server itself tells has had its retries there, and is told on.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from providers.errors import (
    AttemptTimeoutError,
    ConfigError,
    ConflictError,
    MalformedAnswerError,
    OverloadedError,
    QueueFullError,
    SparklioError,
    UnreachableError,
)
from providers.http import (
    CONNECT_TIMEOUT_S,
    PerLoop,
    client_options,
    is_http_url,
    said,
    without_credentials,
)
from routing.attempts import with_retries
from routing.contracts import Mode
from routing.logs import mask_error
from routing.remote_errors import GATEWAY, told_error
from routing.via import VIA, names_to_send

__all__ = ["ProviderState", "Readiness", "Remote"]

log = logging.getLogger(__name__)

_READ_S = 30.0
_STILL_UNDER_WAY_S = 0.5
_LONGEST_CONFLICT_S = 60.0
_OUTAGE_PAUSE_S = 1.0
_PREPARED_WITHIN_S = 2.0
_KEY = re.compile(r"[!-~]+")

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class ProviderState(BaseModel):
    """What a server says of one of its providers."""

    healthy: bool
    error: Any = None

    @property
    def failure(self) -> str:
        """Why it is not healthy, as far as the server told."""
        told = self.error.get("message") if isinstance(self.error, Mapping) else self.error
        return str(told or "does not answer")


class Readiness(BaseModel):
    """The part of ``/ready`` that clients look at."""

    ready: bool
    mode: Mode
    providers: dict[str, ProviderState] = {}

    @property
    def failures(self) -> dict[str, str]:
        """Why a provider is not healthy, by its name."""
        return {name: state.failure for name, state in self.providers.items() if not state.healthy}


class Remote:
    """A server by its URL; safe to share between tasks and event loops.

    Args:
        url: where it is, with a path where it stands below one.
        key: one of its SPARKLIO_API_KEYS.
        mode: the one that it must have; None: any.
        patience_s: how long a server may be away (a restart) from what it goes on with by itself.

    Attributes:
        mode: the one that it must have, else the one that it told; None before.

    Raises:
        ConfigError: that is no URL, or no key.
    """

    def __init__(self, url: str, key: str | None = None, *, mode: Mode | None = None, patience_s: float = 60) -> None:
        if not is_http_url(url):
            raise ConfigError(f"{url!r} is no URL of a gateway", hint="set SPARKLIO_GATEWAY_URL to http://HOST:PORT")
        if key is not None and not _KEY.fullmatch(key):
            raise ConfigError("the gateway's key is no key", hint="copy SPARKLIO_GATEWAY_KEY anew")
        self._url = without_credentials(httpx.URL(url)) if key else httpx.URL(url)
        self._key = key
        self._mode = self.mode = mode
        self._fits = False
        self.patience_s = patience_s
        self._clients = PerLoop(self._client, lambda client: client.aclose())

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no error and no trace may hold."""
        return (self._key,) if self._key else ()

    @property
    def shown(self) -> str:
        """The URL without credentials."""
        return str(without_credentials(self._url))

    async def fits(self) -> None:
        """See once that the server is there and has our mode; whether its providers answer is not asked.

        Raises:
            UnreachableError: nobody is there.
            ConfigError: it has another mode.
        """
        if self._fits:
            return
        self.check_mode(await self.readiness())
        self._fits = True

    def check_mode(self, readiness: Readiness) -> None:
        """Raises ConfigError where the server's mode is another than the one that it must have."""
        if self._mode not in (None, readiness.mode):
            raise ConfigError(
                f"the gateway at {self.shown} is in {readiness.mode}, and this is {self._mode}",
                hint=f"set GENERATOR_MODE={readiness.mode}, or start the gateway with --mode {self._mode}",
            )
        self.mode = readiness.mode

    async def prepare(self) -> None:
        """See at once whether the server is there and has our mode; one that takes its time is asked by the first call.

        It may be ourselves, and answer only when we have started.

        Raises:
            UnreachableError, ConfigError: it is not, or has another.
        """
        try:
            async with asyncio.timeout(_PREPARED_WITHIN_S):
                await self.fits()
        except TimeoutError:
            log.warning("the gateway at %s has not said within %g s how it is", self.shown, _PREPARED_WITHIN_S)

    async def readiness(self) -> Readiness:
        """What ``/ready`` says, which needs no key."""

        async def look() -> Readiness | SparklioError:
            async with self.exchange("GET", "/ready") as response:
                text = await response.aread()
                if response.status_code == 503 and (unready := _unready(text)) is not None:
                    return unready
                return await told_error(response) or self.read(Readiness, text)

        return await self.settled(look)

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        until: float = math.inf,
        read_s: float | None = _READ_S,
        **parts: Any,
    ) -> httpx.Response:
        """The server's answer.

        Args:
            method: of HTTP.
            path: below the URL.
            body: sent as JSON, unless it is None.
            key: names this call, so that a second try does nothing twice.
            until: when the caller stops waiting (the loop's clock).
            read_s: how long the server may say nothing, in seconds; None: as long as it likes.
            parts: what else httpx takes (params, files, headers), and ``passes``: statuses that are no errors here.

        Raises:
            SparklioError: what the server told, or what happened on the way.
        """
        return await self.settled(lambda: self._answered(method, path, body, key=key, read_s=read_s, **parts), until)

    async def settled(self, attempt: Callable[[], Awaitable[T | SparklioError]], until: float = math.inf) -> T:
        """What ``attempt`` comes to. It returns the errors that the server told, and raises what may be tried again.

        A second try may find the first one still under way there, and waits for it.
        """
        tries = 0
        clock = asyncio.get_running_loop().time
        waits_until = clock() + _LONGEST_CONFLICT_S if math.isinf(until) else until

        async def counted() -> T | SparklioError:
            nonlocal tries
            tries += 1
            return await attempt()

        with self._masked():
            while True:
                outcome = await with_retries(counted, until)
                if not isinstance(outcome, SparklioError):
                    return outcome
                late = clock() + _STILL_UNDER_WAY_S > waits_until
                if tries == 1 or late or not isinstance(outcome, ConflictError):
                    raise outcome
                await asyncio.sleep(_STILL_UNDER_WAY_S)

    async def patiently(self, ask: Callable[[], Awaitable[T]], until: float = math.inf) -> T:
        """What ``ask`` comes to, asked again for :attr:`patience_s` while the server is away or has no room."""
        clock = asyncio.get_running_loop().time
        until = min(until, clock() + self.patience_s)
        while True:
            try:
                return await ask()
            except (UnreachableError, OverloadedError, AttemptTimeoutError, QueueFullError) as exc:
                pause_s = max(_OUTAGE_PAUSE_S, exc.retry_after or 0)
                if getattr(exc, "provider", GATEWAY) != GATEWAY or clock() + pause_s > until:
                    raise
            await asyncio.sleep(pause_s)

    async def _answered(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        passes: Collection[int] = (),
        **parts: Any,
    ) -> httpx.Response | SparklioError:
        async with self.exchange(method, path, body, key=key, **parts) as response:
            error = None if response.status_code in passes else await told_error(response)
            await response.aread()
            return error or response

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        read_s: float | None = _READ_S,
        headers: Mapping[str, str] | None = None,
        **parts: Any,
    ) -> AsyncGenerator[httpx.Response, None]:
        """One call, its answer's body still to be read; what breaks it is an error of ours, also in the block."""
        sent = {**(headers or {}), **({"Idempotency-Key": key} if key else {})}
        if via := names_to_send():
            sent[VIA] = via
        if body is not None:
            sent["Content-Type"] = "application/json"
            parts["content"] = json.dumps(body).encode()  # ASCII: half a surrogate pair has no UTF-8
        timeout = httpx.Timeout(read_s, connect=CONNECT_TIMEOUT_S, pool=CONNECT_TIMEOUT_S)
        with self._translated():
            async with self._clients.borrow() as client:
                with _timeouts_told():  # inside, so that their connections are given up
                    async with client.stream(method, path, headers=sent, timeout=timeout, **parts) as response:
                        yield response

    def parsed(self, model: type[M], response: httpx.Response) -> M:
        """An answer's body as ``model``.

        Raises:
            MalformedAnswerError: it is none.
        """
        return self.read(model, response.content)

    def read(self, model: type[M], text: str | bytes) -> M:
        """The same from JSON."""
        try:
            return model.model_validate_json(text)
        except ValidationError as exc:
            first = exc.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "all of it"
            raise MalformedAnswerError(
                f"the gateway at {self.shown} answers in another form: {where}: {first['msg']}",
                provider=GATEWAY,
                hint="is SPARKLIO_GATEWAY_URL a Sparklio server of the same version?",
            ) from exc

    async def aclose(self) -> None:
        """Close the running event loop's connections."""
        await self._clients.aclose()

    def _client(self) -> httpx.AsyncClient:
        """The environment's proxies are for what is far away, and that is not called without TLS."""
        near = self._url.scheme == "http"
        options = client_options(str(self._url), read_timeout_s=_READ_S, local=near)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return httpx.AsyncClient(base_url=self._url, headers=headers, **options)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except AttemptTimeoutError as exc:
            if isinstance(exc.__cause__, httpx.ConnectTimeout | httpx.PoolTimeout):  # nothing was sent yet
                raise self._unreachable(exc.__cause__) from exc
            raise
        except httpx.HTTPError as exc:
            raise self._unreachable(exc) from exc

    def _unreachable(self, exc: Exception) -> UnreachableError:
        return UnreachableError(
            f"the gateway at {self.shown} cannot be reached: {said(exc)}",
            provider=GATEWAY,
            hint="start it with `sparklio serve`, or mend SPARKLIO_GATEWAY_URL",
        )

    @contextmanager
    def _masked(self) -> Iterator[None]:
        """No error that leaves tells the key; a server may repeat the one that it refuses."""
        try:
            yield
        except SparklioError as exc:
            mask_error(exc, self.secrets)
            raise


def _unready(text: bytes) -> Readiness | None:
    """What a server says that is not ready; None: it is somebody else, or no answer to that question."""
    try:
        return Readiness.model_validate_json(text)
    except ValidationError:
        return None


@contextmanager
def _timeouts_told() -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as exc:
        raise AttemptTimeoutError(
            "the gateway did not answer in time", provider=GATEWAY, hint="look whether it hangs, or its host is busy"
        ) from exc
