"""The live backends: every call goes to the real provider that the route names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from providers.base import ImageChunk, ImageProvider, LLMChunk, LLMProvider
from providers.registry import image_provider, llm_provider
from routing.contracts import ImageRequest, LLMRequest
from routing.prompt_builder import Prompt
from routing.router import ImageRoute, LLMRoute
from routing.settings import Settings

__all__ = ["LiveImages", "LiveLLM"]


class LiveLLM:
    """Chat providers, each built at its first use and closed with the gateway."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._providers: dict[str, LLMProvider] = {}

    async def stream(
        self, route: LLMRoute, request: LLMRequest, prompt: Prompt, options: Mapping[str, Any]
    ) -> AsyncGenerator[LLMChunk, None]:
        provider = self._provider(route.provider)
        merged = {**provider.get_default_options(request.role, request.task), **options}
        answer = provider.stream(prompt.user, request.role, request.task, request.mode, merged)
        async with aclosing(answer) as chunks:
            async for chunk in chunks:
                yield chunk

    async def prepare(self) -> None:
        active = self._settings.config.providers.llm.active
        await asyncio.gather(*(self._provider(name).prepare() for name in active))

    async def aclose(self) -> None:
        for provider in self._providers.values():
            await provider.aclose()

    def _provider(self, name: str) -> LLMProvider:
        if name not in self._providers:
            self._providers[name] = llm_provider(name)(self._settings.provider_config("llm", name))
        return self._providers[name]


class LiveImages:
    """Image providers, each built at its first use and closed with the gateway."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._providers: dict[str, ImageProvider] = {}

    async def stream(
        self, route: ImageRoute, request: ImageRequest, options: Mapping[str, Any]
    ) -> AsyncGenerator[ImageChunk, None]:
        making = self._provider(route.provider).stream(request.prompt, request.kind, options)
        async with aclosing(making) as chunks:
            async for chunk in chunks:
                yield chunk

    async def prepare(self) -> None:
        active = self._settings.config.providers.media.active
        await asyncio.gather(*(self._provider(name).prepare() for name in active))

    async def aclose(self) -> None:
        for provider in self._providers.values():
            await provider.aclose()

    def _provider(self, name: str) -> ImageProvider:
        if name not in self._providers:
            self._providers[name] = image_provider(name)(self._settings.provider_config("media", name))
        return self._providers[name]
