"""The media gateway: mode, route, provider, store, answer. Images leave it as ids and URLs, never as bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from providers.base import GeneratedImage, ImageChunk, ImageProviderResponse, Photo
from providers.errors import ServerError, UnknownNameError
from routing.attempts import AttemptLog, with_retries
from routing.budget import Budget
from routing.contracts import Image, ImageAnswer, ImageAnswerMeta, ImageRequest, Mode, OnProgress, Progress
from routing.fallbacks import Fallbacks
from routing.fingerprints import Fingerprint, digest
from routing.image_store import ImageStore
from routing.prices import Prices, Used
from routing.router import ImageRoute, Router
from routing.tracing import call_span

__all__ = ["ImageBackend", "MediaGateway"]

_ROUTING_OPTIONS = {"model", "workflow", "photo", "budget_usd", "timeout_s", "device"}
_UNDECIDING_OPTIONS = {
    "model",
    "workflow",
    "budget_usd",
    "timeout_s",
    "idempotency_key",
    "device",
}  # or told by the route


class ImageBackend(Protocol):
    """What makes the images behind the gateway: the providers in live, the mock in mock."""

    def stream(
        self, route: ImageRoute, request: ImageRequest, options: Mapping[str, Any]
    ) -> AsyncGenerator[ImageChunk, None]: ...

    async def check(self, route: ImageRoute, request: ImageRequest, options: Mapping[str, Any]) -> None: ...

    def fingerprint(self, route: ImageRoute, options: Mapping[str, Any]) -> dict[str, Any]: ...

    def goes_on(self, provider: str) -> bool: ...

    async def cancel(self, provider: str, idempotency_key: str) -> None: ...

    async def prepare(self) -> None: ...

    async def aclose(self) -> None: ...


class MediaGateway:
    """One per process and configuration; safe to share between tasks.

    An image has no deadline here: its provider has one, counted from when the image starts to be made (an hour in
    somebody else's queue is no failure).
    """

    def __init__(
        self,
        router: Router,
        backend: ImageBackend,
        store: ImageStore,
        *,
        mode: Mode,
        prices: Prices | None = None,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self._router = router
        self._backend = backend
        self._mode = mode
        self._prices = prices or Prices(None)
        self._secrets = secrets
        self._fallbacks = Fallbacks()
        self.store = store

    async def generate_image(
        self, request: ImageRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> ImageAnswer:
        """Make the image(s) of ``request``; ``on_progress`` hears each step; ``budget`` as in the LLM gateway.

        Raises:
            ProviderError: every route failed; the error is the last route's.
            BudgetError: the budget does not pay for the next call.
            UsageError: the request names a provider that is not active, or no such workflow or photo exists.
            StorageError: an image cannot be written.
        """
        with call_span(request, self._mode, self._secrets) as tell:
            answer = await self._generate_image(request, on_progress, budget)
            tell(answer)
        return answer

    async def _generate_image(
        self, request: ImageRequest, on_progress: OnProgress | None, budget: Budget | None
    ) -> ImageAnswer:
        started = time.perf_counter()
        book = self._book(request, budget)

        async def ask(route: ImageRoute) -> ImageProviderResponse:
            options = _options(route, request, photo)

            async def attempt() -> ImageProviderResponse:
                return await book.record(
                    route,
                    lambda ordinal: self._attempt(route, request, options, ordinal, on_progress),
                    lambda response: Used(response.usage, len(response.images)),
                    at_least=Used(images=1),
                )

            return await with_retries(attempt)

        with book.told():
            photo = await self._photo(request)
            routes = self._router.image_routes(request)
            book.check_prices(routes)
            response = await self._fallbacks.first(routes, ask)
            images = [await self._keep(image) for image in response.images]
        return ImageAnswer(
            provider=response.provider,
            images=images,
            meta=ImageAnswerMeta(
                request_id=request.request_id,
                kind=request.kind,
                generator_mode=self._mode,
                latency_ms=round((time.perf_counter() - started) * 1000),
                cost_usd=book.cost_usd,
                attempts=book.attempts,
            ),
        )

    async def check(self, request: ImageRequest) -> None:
        """Raise at once what ``generate_image`` would fail with whatever the models do, e.g. an unknown workflow.

        Raises:
            UsageError, ProviderError: as :meth:`generate_image`.
        """
        with self._book(request, None).told():
            photo = await self._photo(request)
            for route in self._router.image_routes(request):
                await self._backend.check(route, request, _options(route, request, photo))

    async def cancel(self, request: ImageRequest) -> None:
        """Stop the image of ``request``, ordered with its ``options.idempotency_key``, where it is still to come.

        Raises:
            ProviderError: a service cannot be asked.
        """
        key = request.options.idempotency_key or request.request_id
        for provider in dict.fromkeys(route.provider for route in self._router.image_routes(request)):
            await self._backend.cancel(provider, key)

    def goes_on(self, request: ImageRequest) -> bool:
        """Whether an image that was ordered may be made to its end though nobody waits for it any more."""
        return any(self._backend.goes_on(route.provider) for route in self._router.image_routes(request))

    async def fingerprint(self, request: ImageRequest) -> Fingerprint:
        """What decides the image of ``request``: mode, input, options, routing, workflow.

        Raises:
            UsageError, ProviderError: no route serves it, or its workflow does not exist.
        """
        return await asyncio.to_thread(self._fingerprint, request)

    def _fingerprint(self, request: ImageRequest) -> Fingerprint:
        routes = self._router.image_routes(request)
        asked = request.options.model_dump(exclude_none=True, exclude=_UNDECIDING_OPTIONS)
        workflows = [self._backend.fingerprint(route, _options(route, request, None)) for route in routes]
        return {
            "mode": self._mode,
            "input": digest([request.kind, request.prompt, request.brand]),
            "options": digest(asked),
            "routing": digest([[route.provider, route.model, self._router.own_options(route)] for route in routes]),
            "workflow": digest(workflows),
        }

    async def prepare(self) -> None:
        """Imports and connections that the first request would otherwise wait for."""
        await self._backend.prepare()

    async def aclose(self) -> None:
        await self._backend.aclose()

    def _book(self, request: ImageRequest, budget: Budget | None) -> AttemptLog:
        budget = budget or Budget(request.options.budget_usd)
        return AttemptLog(request.request_id, self._prices, budget, self._secrets, operation="generate_content")

    async def _photo(self, request: ImageRequest) -> Photo | None:
        if request.options.photo is None:
            return None
        try:
            return Photo(*await asyncio.to_thread(self.store.read, request.options.photo))
        except UnknownNameError as exc:
            hint = "store it first: `await studio.add_photo(path)`, or POST /api/v1/uploads"
            raise UnknownNameError("photo", request.options.photo, (), hint=hint) from exc

    async def _attempt(
        self,
        route: ImageRoute,
        request: ImageRequest,
        options: Mapping[str, Any],
        ordinal: int,
        on_progress: OnProgress | None,
    ) -> ImageProviderResponse:
        async with aclosing(self._backend.stream(route, request, options)) as chunks:
            async for chunk in chunks:
                if chunk.response is not None:
                    return chunk.response
                if on_progress:
                    on_progress(Progress(kind="image", step=chunk.step, steps=chunk.steps, attempt=ordinal))
        raise ServerError("the image ended before it was complete", provider=route.provider, hint="try again")

    async def _keep(self, image: GeneratedImage) -> Image:
        image_id = await asyncio.to_thread(self.store.save, image.content, image.media_type)
        return Image(
            id=image_id,
            url=self.store.url(image_id),
            width=image.width,
            height=image.height,
            seed=image.seed,
            meta=image.meta,
        )


def _options(route: ImageRoute, request: ImageRequest, photo: Photo | None) -> dict[str, Any]:
    """The route's options beneath the request's own.

    One image a request, however often it is tried: a connection that breaks after the hand-over makes no second.
    """
    asked = request.options.model_dump(exclude_none=True, exclude=_ROUTING_OPTIONS)
    options = {"idempotency_key": request.request_id, **route.options, **asked, "workflow": route.workflow}
    if route.image_model is not None:
        options["model"] = route.image_model
    if photo is not None:
        options["photo"] = photo
    return options
