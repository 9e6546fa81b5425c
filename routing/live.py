"""The live backends: every call goes to the real provider that the route names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Generic, TypeVar

from providers.base import ImageChunk, ImageProvider, LLMChunk, LLMProvider
from providers.errors import SparklioError
from providers.registry import image_provider, llm_provider
from routing.contracts import ImageRequest, LLMRequest
from routing.prompt_builder import Prompt
from routing.router import ImageRoute, LLMRoute
from routing.settings import Settings

__all__ = ["LiveImages", "LiveLLM", "Providers", "image_providers"]

P = TypeVar("P", LLMProvider, ImageProvider)


class Providers(Generic[P]):
    """The active providers of one family, each built at its first use and closed with the gateway."""

    def __init__(self, active: tuple[str, ...], build: Callable[[str], P]) -> None:
        self._active = active
        self._build: Callable[[str], P] = build
        self._built: dict[str, P] = {}

    def __getitem__(self, name: str) -> P:
        if name not in self._built:
            self._built[name] = self._build(name)
        return self._built[name]

    async def prepare(self) -> None:
        await asyncio.gather(*(self[name].prepare() for name in self._active))

    async def aclose(self) -> None:
        await asyncio.gather(*(provider.aclose() for provider in self._built.values()))


def image_providers(settings: Settings) -> Providers[ImageProvider]:
    """The active image providers; building one opens nothing."""
    return Providers(
        settings.config.providers.media.active,
        lambda name: image_provider(name)(settings.provider_config("media", name)),
    )


class LiveLLM:
    """The chat providers behind the LLM gateway."""

    def __init__(self, settings: Settings) -> None:
        self._providers = Providers(
            settings.config.providers.llm.active,
            lambda name: llm_provider(name)(settings.provider_config("llm", name)),
        )
        self.prepare, self.aclose = self._providers.prepare, self._providers.aclose

    async def stream(
        self, route: LLMRoute, request: LLMRequest, prompt: Prompt, options: Mapping[str, Any]
    ) -> AsyncGenerator[LLMChunk, None]:
        provider = self._providers[route.provider]
        merged = {**provider.get_default_options(request.role, request.task), **options}
        answer = provider.stream(prompt.user, request.role, request.task, request.mode, merged)
        with _blaming(route.provider):
            async with aclosing(answer) as chunks:
                async for chunk in chunks:
                    yield chunk


class LiveImages:
    """The image providers behind the media gateway."""

    def __init__(self, settings: Settings) -> None:
        self._providers = image_providers(settings)
        self.prepare, self.aclose = self._providers.prepare, self._providers.aclose

    async def cancel(self, provider: str, idempotency_key: str) -> None:
        await self._providers[provider].cancel(idempotency_key)

    def goes_on(self, provider: str) -> bool:
        return self._providers[provider].goes_on

    def fingerprint(self, route: ImageRoute, options: Mapping[str, Any]) -> dict[str, Any]:
        return self._providers[route.provider].fingerprint(options)

    async def check(self, route: ImageRoute, request: ImageRequest, options: Mapping[str, Any]) -> None:
        await self._providers[route.provider].check(request.kind, options)

    async def stream(
        self, route: ImageRoute, request: ImageRequest, options: Mapping[str, Any]
    ) -> AsyncGenerator[ImageChunk, None]:
        making = self._providers[route.provider].stream(request.prompt, request.kind, options)
        with _blaming(route.provider):
            async with aclosing(making) as chunks:
                async for chunk in chunks:
                    yield chunk


@contextmanager
def _blaming(name: str) -> Iterator[None]:
    """Note on an error that no provider may let out which one did."""
    try:
        yield
    except SparklioError:
        raise
    except Exception as exc:
        exc.add_note(f"provider {name!r} let this out")
        raise
