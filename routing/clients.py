"""The two gateways of another Sparklio's server, with the interface of those in this process.

Agents, graph and faces cannot tell them apart: errors arrive as the same types, costs are booked on the caller's
budget, and an image stands in the local store when its answer returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, aclosing
from typing import Any, TypeVar
from uuid import uuid4

from pydantic import BaseModel

from providers.errors import DeadlineError, ServerError, SparklioError
from routing.budget import Budget
from routing.contracts import ImageAnswer, ImageRequest, LLMAnswer, LLMRequest, Mode, OnProgress, Progress
from routing.fingerprints import Fingerprint
from routing.image_store import ImageStore
from routing.image_transfer import ImageTransfer
from routing.remote import Remote
from routing.remote_errors import GATEWAY, error_in, told_error
from routing.remote_jobs import RemoteJobs
from routing.runs_client import RunsClient
from routing.sse import EVENT_STREAM, SILENCE_S, ServerEvent, read_events
from routing.tracing import Tell, call_span, prepare_tracing

__all__ = ["LLMGatewayClient", "MediaGatewayClient", "RunsClient"]

_GRACE_S = 3.0  # the server ends its own work in time; who ends it from here does not learn what it came to
_LLM = "/api/v1/llm"
_MEDIA = "/api/v1/media/image"

R = TypeVar("R", LLMRequest, ImageRequest)


class _Fingerprint(BaseModel):
    fingerprint: dict[str, str]


class LLMGatewayClient:
    """A server's LLM gateway; one per process, safe to share between tasks.

    Args:
        url: of the server.
        key: one of its SPARKLIO_API_KEYS; None where it needs none.
        mode: the one that it must have; None: any.
        deadline_s: bound on one request in seconds, some beyond which the client stops waiting; the server has its own.
    """

    def __init__(self, url: str, key: str | None = None, *, mode: Mode | None = None, deadline_s: float = 180) -> None:
        self._remote = Remote(url, key, mode=mode)
        self._deadline_s = deadline_s

    async def generate(
        self, request: LLMRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> LLMAnswer:
        """As :meth:`routing.llm_gateway.LLMGateway.generate`, whose errors it raises.

        Raises:
            UnreachableError, AuthenticationError: of provider ``gateway``: the server is away, or refuses the key.
        """
        with _span(self._remote, request) as tell:
            answer = await self._generate(request, on_progress, budget)
            tell(answer)
        return answer

    async def _generate(self, request: LLMRequest, on_progress: OnProgress | None, budget: Budget | None) -> LLMAnswer:
        until = asyncio.get_running_loop().time() + self._deadline_s + _GRACE_S
        try:
            async with asyncio.timeout_at(until):
                answer = await self._answer(request, on_progress, budget, until)
        except TimeoutError as exc:
            late = DeadlineError(
                f"no answer for {request.role}/{request.task} from the gateway within {self._deadline_s:g} s",
                hint="raise GATEWAY_TIMEOUT_MOCK or GATEWAY_TIMEOUT_LIVE, or look whether the gateway hangs",
            )
            raise _noted(late, request, budget) from exc
        except SparklioError as exc:
            raise _noted(exc, request, budget)  # noqa: B904  # it is the same one
        _book(budget, answer.meta.model_dump()["attempts"])
        return answer

    async def fingerprint(self, request: LLMRequest) -> Fingerprint:
        """What decides the answer, as the server sees it."""
        return await _fingerprint(self._remote, f"{_LLM}/fingerprint", request)

    async def prepare(self) -> None:
        """See that the server is there and has our mode, which one that takes its time is asked by the first call.

        Raises:
            UnreachableError, ConfigError: it is not, or has another.
        """
        await _prepare(self._remote)

    async def aclose(self) -> None:
        """Close the running event loop's connections."""
        await self._remote.aclose()

    async def _answer(
        self, request: LLMRequest, on_progress: OnProgress | None, budget: Budget | None, until: float
    ) -> LLMAnswer:
        await self._remote.fits()
        body, key = _within(request, budget).model_dump(mode="json"), uuid4().hex
        if on_progress is not None:
            stream = _Stream(self._remote, body, key, on_progress)
            return await self._remote.patiently(lambda: stream.answer(until), until)
        response = await self._remote.patiently(
            lambda: self._remote.ask("POST", f"{_LLM}/generate", body, key=key, until=until, read_s=None), until
        )
        return self._remote.parsed(LLMAnswer, response)


class _Stream:
    """One request whose tokens are heard; a second try counts its attempts on from the first one's."""

    def __init__(self, remote: Remote, body: Mapping[str, Any], key: str, on_progress: OnProgress) -> None:
        self._remote = remote
        self._body = body
        self._key = key
        self._on_progress = on_progress
        self._before = self._highest = 0

    async def answer(self, until: float) -> LLMAnswer:
        return await self._remote.settled(self._try, until)

    async def _try(self) -> LLMAnswer | SparklioError:
        self._before = self._highest
        headers = {"Accept": f"{EVENT_STREAM}, application/json"}
        path = f"{_LLM}/generate"
        call = self._remote.exchange("POST", path, self._body, key=self._key, headers=headers, read_s=SILENCE_S)
        async with call as response:
            if (error := await told_error(response)) is not None:
                return error
            if not response.headers.get("content-type", "").startswith(EVENT_STREAM):  # the first try's, once more
                await response.aread()
                return self._remote.parsed(LLMAnswer, response)
            async with aclosing(read_events(response.aiter_bytes())) as events:
                async for event in events:
                    if (outcome := self._take(event)) is not None:
                        return outcome
        raise ServerError("the answer ended before it was complete", provider=GATEWAY, hint="try again")

    def _take(self, event: ServerEvent) -> LLMAnswer | SparklioError | None:
        """What the event ends the stream with, if it does."""
        if event.type == "answer":
            return self._remote.read(LLMAnswer, event.data)
        if event.type == "error":
            return error_in(event.data) or ServerError("an error that tells nothing", provider=GATEWAY)
        if event.type == "token":
            token = self._remote.read(_Token, event.data)
            self._highest = self._before + token.attempt
            self._on_progress(Progress(kind="token", text=token.text, attempt=self._highest))
        return None


class _Token(BaseModel):
    text: str
    attempt: int = 1


class MediaGatewayClient:
    """A server's media gateway. Every image is a job of the server's, which goes on when nobody waits for it.

    Args:
        url: of the server.
        key: one of its SPARKLIO_API_KEYS; None where it needs none.
        store: where images are put, and photos taken from.
        mode: the one that it must have; None: any.
    """

    def __init__(self, url: str, key: str | None = None, *, store: ImageStore, mode: Mode | None = None) -> None:
        self._remote = Remote(url, key, mode=mode)
        self._jobs = RemoteJobs(self._remote)
        self._transfer = ImageTransfer(self._remote, store)
        self.store = store

    async def generate_image(
        self, request: ImageRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> ImageAnswer:
        """As :meth:`routing.media_gateway.MediaGateway.generate_image`, whose errors it raises.

        Its ``options.idempotency_key`` (else its ``request_id``) names the job: who asks again finds the one that went
        on. There is no deadline, but a server that stays away for a minute is given up; the job may go on there.
        """
        with _span(self._remote, request) as tell:
            answer = await self._generate_image(request, on_progress, budget)
            tell(answer)
        return answer

    async def _generate_image(
        self, request: ImageRequest, on_progress: OnProgress | None, budget: Budget | None
    ) -> ImageAnswer:
        try:
            await self._remote.fits()
            order = await self._with_photo(_named(_within(request, budget)))
            answer = await self._jobs.made(order, on_progress)
        except SparklioError as exc:
            raise _noted(exc, request, budget)  # noqa: B904  # it is the same one
        _book(budget, answer.meta.model_dump()["attempts"])
        images = [await self._transfer.fetched(image) for image in answer.images]
        meta = answer.meta.model_copy(update={"request_id": request.request_id})  # a found job is another request's
        return answer.model_copy(update={"images": images, "meta": meta})

    async def fingerprint(self, request: ImageRequest) -> Fingerprint:
        """What decides the image, as the server sees it."""
        return await _fingerprint(self._remote, f"{_MEDIA}/fingerprint", request)

    async def check(self, request: ImageRequest) -> None:
        """Raise at once what :meth:`generate_image` would fail with whatever the models do."""
        await self._remote.fits()
        body = (await self._with_photo(request)).model_dump(mode="json")
        await self._remote.patiently(lambda: self._remote.ask("POST", f"{_MEDIA}/check", body))

    async def cancel(self, request: ImageRequest) -> None:
        """Stop the image of ``request`` where it is still to come."""
        await self._remote.ask("POST", f"{_MEDIA}/cancel", _named(request).model_dump(mode="json"))

    def goes_on(self, request: ImageRequest) -> bool:
        """An image that was ordered is always made to its end, whoever leaves."""
        return True

    async def prepare(self) -> None:
        """See that the server is there and has our mode, which one that takes its time is asked by the first call.

        Raises:
            UnreachableError, ConfigError: it is not, or has another.
        """
        await _prepare(self._remote)

    async def aclose(self) -> None:
        """Close the running event loop's connections."""
        await self._remote.aclose()

    async def _with_photo(self, request: ImageRequest) -> ImageRequest:
        """The request with the id that its photo has on the server, put there first where it stands here only."""
        photo = request.options.photo
        if photo is None:
            return request
        return _with_options(request, photo=await self._transfer.sent(photo))


async def _prepare(remote: Remote) -> None:
    await asyncio.to_thread(prepare_tracing)
    await remote.prepare()


def _span(remote: Remote, request: LLMRequest | ImageRequest) -> AbstractContextManager[Tell]:
    """The call as it is traced here; its attempts are the server's to trace."""
    return call_span(request, remote.mode or "unknown", remote.secrets)


async def _fingerprint(remote: Remote, path: str, request: LLMRequest | ImageRequest) -> Fingerprint:
    await remote.fits()
    response = await remote.patiently(lambda: remote.ask("POST", path, request.model_dump(mode="json")))
    return remote.parsed(_Fingerprint, response).fingerprint


def _within(request: R, budget: Budget | None) -> R:
    """The request with what is left of the budget that it shares, where it shares one."""
    return request if budget is None else _with_options(request, budget_usd=budget.left_usd)


def _named(request: ImageRequest) -> ImageRequest:
    """The request with the name of its job, which another request for the same image has too."""
    return _with_options(request, idempotency_key=request.options.idempotency_key or request.request_id)


def _with_options(request: R, **options: Any) -> R:
    return request.model_copy(update={"options": request.options.model_copy(update=options)})


def _noted(error: SparklioError, request: LLMRequest | ImageRequest, budget: Budget | None) -> SparklioError:
    """The error with its request's name; what it cost is booked."""
    error.request_id = request.request_id
    _book(budget, error.details.setdefault("attempts", []))
    return error


def _book(budget: Budget | None, attempts: Iterable[Mapping[str, Any]]) -> None:
    if budget is not None:
        for attempt in attempts:
            budget.book(attempt.get("cost_usd"))
