"""Builds the two gateways from the settings: the one place where mock, live and remote part ways."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from routing.contracts import ChatGateway, ImageGateway
from routing.image_store import image_store
from routing.live import LiveImages, LiveLLM, image_providers
from routing.llm_gateway import LLMGateway
from routing.media_gateway import MediaGateway
from routing.mock.backends import MockImages, MockLLM
from routing.prices import Prices
from routing.router import Router
from routing.settings import Settings

__all__ = ["ChatService", "Gateways", "ImageService", "build_gateways"]


class _Service(Protocol):
    async def prepare(self) -> None:
        """Imports and connections that the first request would otherwise wait for."""

    async def aclose(self) -> None:
        """Close the running event loop's connections."""


class ChatService(ChatGateway, _Service, Protocol):
    """An LLM gateway with its life."""


class ImageService(ImageGateway, _Service, Protocol):
    """A media gateway with its life."""


@dataclass(frozen=True)
class Gateways:
    llm: ChatService
    media: ImageService

    async def prepare(self) -> None:
        """Make the imports and connections that the active providers need; whether they answer is not asked."""
        await asyncio.gather(self.llm.prepare(), self.media.prepare())

    async def aclose(self) -> None:
        """Close the running event loop's connections of both."""
        await self.llm.aclose()
        await self.media.aclose()


def build_gateways(settings: Settings) -> Gateways:
    """Gateways for the settings' mode, or those of the server that SPARKLIO_GATEWAY_URL names.

    Opens no connection and imports no vendor's SDK.

    Raises:
        ConfigError: SPARKLIO_ARTIFACTS_URL cannot be used.
    """
    if url := settings.text("SPARKLIO_GATEWAY_URL"):
        return _gateways_of(url, settings)
    router = Router(settings.config, settings.default_model, settings.default_variable)
    mock = settings.mode == "mock"
    prices = Prices(None if mock else settings.config.prices)
    return Gateways(
        llm=LLMGateway(
            router,
            MockLLM() if mock else LiveLLM(settings),
            mode=settings.mode,
            deadline_s=settings.gateway_timeout_s,
            prices=prices,
            secrets=settings.secrets,
        ),
        media=MediaGateway(
            router,
            MockImages(image_providers(settings)) if mock else LiveImages(settings),
            image_store(settings),
            mode=settings.mode,
            prices=prices,
            secrets=settings.secrets,
        ),
    )


def _gateways_of(url: str, settings: Settings) -> Gateways:
    from routing.clients import LLMGatewayClient, MediaGatewayClient

    key, mode = settings.text("SPARKLIO_GATEWAY_KEY"), settings.mode
    return Gateways(
        llm=LLMGatewayClient(url, key, mode=mode, deadline_s=settings.gateway_timeout_s),
        media=MediaGatewayClient(url, key, store=image_store(settings), mode=mode),
    )
