"""Images of rented services: what their providers share.

A vendor's module says how its client is built, what a request holds and what its errors mean; the rest is here: reading
the options, connections for each event loop, the time limit, the check of the bytes that came back.
"""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, TypeVar

import httpx
from pydantic import Field, StringConstraints

from providers.base import (
    Finding,
    GeneratedImage,
    ImageProvider,
    ImageProviderResponse,
    Options,
    ProviderConfig,
    Usage,
)
from providers.errors import ConfigError, EmptyAnswerError, JobError, ProviderError, RejectedError
from providers.exchange import Exchange
from providers.http import PerLoop
from providers.media._wish import ImageWish
from providers.pictures import picture_of
from providers.rented import Rented

__all__ = ["Drawn", "ImageOrder", "RentedImages", "RentedWish"]

T = TypeVar("T")


class RentedWish(ImageWish):
    """The options that rented services know."""

    model: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    timeout_s: float | None = Field(default=None, gt=0)


@dataclass(frozen=True)
class ImageOrder:
    """One request for an image.

    Attributes:
        prompt: as it was asked; :attr:`text` is what is sent.
        arguments: the request's parameters beside model, text and photo.
        seed: the one that was asked, else a drawn one.
        seconds: what the request may take.
    """

    model: str
    prompt: str
    wish: RentedWish
    arguments: Mapping[str, Any]
    seed: int
    seconds: float

    @property
    def text(self) -> str:
        """The prompt with what is to be avoided said at its end, for services that know no negative prompt."""
        unwanted = (self.wish.negative_prompt or "").strip()
        text = f"{self.prompt}\n\nAvoid: {unwanted}" if unwanted else self.prompt
        # JSON may smuggle in half a surrogate pair, which no UTF-8 request can hold.
        return text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class Drawn:
    """What came back: the bytes of each picture, facts for ``meta``, and tokens where the vendor told them."""

    contents: Sequence[bytes] = field(repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict)
    usage: Usage | None = None


@dataclass(frozen=True)
class _Connection:
    """An httpx client of ours, and the vendor's client over it."""

    http: httpx.AsyncClient
    client: Any

    async def aclose(self) -> None:
        await self.http.aclose()


class RentedImages(Rented, ImageProvider):
    """Base of the rented image providers. ``models.<provider>.<model>`` of provider_config.yaml reaches
    :meth:`_arguments`; parameters that are ``null`` there are never sent.
    """

    seed_binds: ClassVar[bool] = False

    def __init__(self, config: ProviderConfig) -> None:
        super().__init__(config)
        self._connections: PerLoop[_Connection] = PerLoop(self._connect, lambda connection: connection.aclose())

    # -- what a vendor tells ---------------------------------------------------------------------------------------

    @abstractmethod
    def _client(self, http: httpx.AsyncClient) -> Any:
        """The vendor's client over ``http``, its own retries off.

        Raises:
            ConfigError: the key or the vendor's package is missing.
        """

    @abstractmethod
    def _arguments(self, model: str, wish: RentedWish, own: Mapping[str, Any]) -> dict[str, Any]:
        """The request's parameters beside model, text and photo; ``own`` are the model's options of the YAML.

        Raises:
            ConfigError: ``own`` cannot be used.
        """

    @abstractmethod
    async def _draw(self, client: Any, order: ImageOrder) -> Drawn:
        """One request. May let out foreign errors; none of ``contents`` is checked yet."""

    # -- the interface ---------------------------------------------------------------------------------------------

    async def generate(self, prompt: str, kind: str, options: Options) -> ImageProviderResponse:
        """As the base says; ``kind`` is for the caller's routing, the words make the difference here.

        Raises:
            RefusedError: the vendor's moderation declined.
            AttemptTimeoutError: it took longer than ``<PREFIX>_TIMEOUT`` or ``options["timeout_s"]``.
            JobError: what came back is no PNG, JPEG or WebP image.
        """
        order = self._order(prompt, options)
        async with self._connections.borrow() as connection:
            exchange = Exchange(order.model, order.seconds)
            drawn = await exchange.step(lambda: self._draw(connection.client, order), self._foreign(), self._translated)
        return await self._response(order, drawn)

    async def check(self, kind: str, options: Options) -> None:
        """As the base says. Asks for no key: mock mode checks as well."""
        self._order("checked", options)

    async def diagnose(self, wishes: Sequence[Options]) -> list[Finding]:
        """As the base says; raises ConfigError for a missing key or package."""
        return await self._findings(dict.fromkeys(str(wish["model"]) for wish in wishes if wish.get("model")))

    async def aclose(self) -> None:
        await self._connections.aclose()

    # -- before a call ---------------------------------------------------------------------------------------------

    def _order(self, prompt: str, options: Options) -> ImageOrder:
        """What the options come to; raises what is wrong with them, without a call and without a key."""
        wish = RentedWish.read(options, provider=self.config.name)
        if not prompt.strip():
            raise self.service.error(RejectedError, "the prompt of the image is empty", "say what it is to show")
        if wish.model is None:
            raise ConfigError(
                f"no rule names a model of provider {self.config.name!r} for this image, and it has no default model",
                hint=f"set {self.prefix}_DEFAULT_MODEL, or add `model:` to its rule in media_routing of "
                "provider_config.yaml",
            )
        own, limit = self.config.models.get(wish.model, {}), self.service.timeout_s
        return ImageOrder(
            model=wish.model,
            prompt=prompt,
            wish=wish,
            arguments=self._arguments(wish.model, wish, own),
            seed=random.getrandbits(53) if wish.seed is None else wish.seed,
            seconds=limit if wish.timeout_s is None else min(limit, wish.timeout_s),
        )

    def _connect(self) -> _Connection:
        http = self._http()
        return _Connection(http, self._client(http))

    def _load(self, connection: _Connection) -> None:
        """Done with the connection."""

    # -- after a call ----------------------------------------------------------------------------------------------

    async def _response(self, order: ImageOrder, drawn: Drawn) -> ImageProviderResponse:
        if not drawn.contents:
            raise EmptyAnswerError(
                f"{order.model} answered without an image",
                provider=self.config.name,
                hint="try again",
                usage=drawn.usage,
            )
        meta: dict[str, Any] = {"model": order.model, "prompt": order.prompt}
        if order.wish.negative_prompt:
            meta["negative_prompt"] = order.wish.negative_prompt
        meta |= {"seed_binds": self.seed_binds, **drawn.meta}
        told = {"usage": drawn.usage.model_dump()} if drawn.usage else {}
        # Once only, so that nobody who adds up the images counts it twice.
        metas = [{**meta, **told}, *[meta] * (len(drawn.contents) - 1)]
        try:
            looks = [await asyncio.to_thread(picture_of, content) for content in drawn.contents]
        except ValueError as exc:
            raise self._unusable(exc, order, drawn) from exc
        images = tuple(
            GeneratedImage(content, look.width, look.height, order.seed, look.media_type, its_meta)
            for content, look, its_meta in zip(drawn.contents, looks, metas, strict=True)
        )
        usage = drawn.usage or Usage()
        return ImageProviderResponse(provider=self.config.name, images=images, meta={**meta, **told}, usage=usage)

    def _unusable(self, exc: ValueError, order: ImageOrder, drawn: Drawn) -> ProviderError:
        own = f"`models.{self.config.name}.{order.model}`"
        return JobError(
            f"{self.title} answered with an image that cannot be used: {exc}",
            provider=self.config.name,
            hint=f"try again; does {own} of provider_config.yaml ask for another format than PNG, JPEG or WebP?",
            usage=drawn.usage,
            images=len(drawn.contents),
            details={"reason": "not_an_image"},
        )
