"""The two interfaces that every provider implements. A new provider never edits this file.

A provider owns its client, its authentication, its URLs and its error translation (to :mod:`providers.errors`); nothing
above it knows them. It declares the environment variables that it reads in ``settings``, so a new one needs no edit of
the settings either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

import httpx
from pydantic import BaseModel, Field

from providers.errors import ConfigError
from providers.http import without_credentials
from providers.usage import Usage

__all__ = [
    "IMAGE_SUFFIXES",
    "Finding",
    "GeneratedImage",
    "ImageChunk",
    "ImageProvider",
    "ImageProviderResponse",
    "LLMChunk",
    "LLMOutput",
    "LLMProvider",
    "LLMProviderResponse",
    "MendingStep",
    "OutputType",
    "Photo",
    "ProviderConfig",
    "Setting",
    "Usage",
]

Options = Mapping[str, Any]
OutputType = Literal["text", "json", "tools"]


@dataclass(frozen=True)
class Setting:
    """One variable that may stand in the environment, in .env or under ``settings:`` of provider_config.yaml.

    Attributes:
        name: name of the variable, e.g. ``OLLAMA_BASE_URL``.
        help: one sentence for .env.example and ``sparklio config``.
        default: used when nobody says otherwise; None where there is none. Model names never stand here: their
            defaults stand in the packaged provider_config.yaml.
        kind: how the text is checked; ``seconds`` is a positive number, ``amount`` a number from 0,
            ``count`` a whole number from 1, ``url`` an http(s) URL, ``place`` a URL whose scheme is one of ``choices``,
            ``words`` are separated by commas.
        choices: of a ``choice`` its values, of a ``place`` its schemes.
        secret: masked wherever it is shown.
    """

    name: str
    help: str
    default: str | None = None
    kind: Literal["text", "words", "url", "seconds", "amount", "count", "path", "model", "choice", "place"] = "text"
    choices: tuple[str, ...] = ()
    secret: bool = False


@dataclass(frozen=True)
class ProviderConfig:
    """What a provider is built from.

    Attributes:
        name: the provider's name in provider_config.yaml.
        values: effective value of each variable that the provider declares (None where unset).
        models: options by model name from ``models.<provider>`` of provider_config.yaml.
    """

    name: str
    values: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """The value of a variable that must be set.

        Raises:
            ConfigError: it is not set.
        """
        value = self.values.get(name)
        if not value:
            raise ConfigError(
                f"{name} is not set, and provider {self.name!r} needs it",
                hint=f"set {name} in the environment or in .env",
            )
        return value

    def seconds(self, name: str) -> float:
        """The value of a duration variable, in seconds (already checked to be a positive number)."""
        return float(self.text(name))


@dataclass(frozen=True)
class MendingStep:
    """Progress of a mending: what is done just now, and ``done`` of ``total`` units (bytes, where files are loaded)."""

    note: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Finding:
    """One thing that ``sparklio doctor`` looked at.

    Attributes:
        subject: what was looked at, e.g. ``"ollama"`` or ``"workflow NAME"``.
        state: ``failed`` where a run that needs it would fail, ``warning`` where it would be slow or poor.
        message: what was found, one sentence.
        remedy: the command or the setting that mends it; empty where nothing is wrong.
        mend: does it, yielding its progress; None where only the user can. Raises what a call would.
    """

    subject: str
    state: Literal["ok", "warning", "failed"]
    message: str
    remedy: str = ""
    mend: Callable[[], AsyncGenerator[MendingStep, None]] | None = field(default=None, repr=False, compare=False)


class LLMOutput(BaseModel):
    """``content`` is the text as the model wrote it; ``parsed`` its value for json, the calls for tools, else None."""

    type: OutputType
    content: str
    parsed: Any = None


class LLMProviderResponse(BaseModel):
    """A provider's answer. Providers leave ``output.parsed`` of json to the gateway, which validates it."""

    provider: str
    model: str
    usage: Usage = Usage()
    output: LLMOutput
    meta: dict[str, Any] = Field(default_factory=dict)
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class LLMChunk:
    """A piece of a streamed answer: some text, and with the last piece the whole response."""

    text: str = ""
    response: LLMProviderResponse | None = None


class LLMProvider(ABC):
    """A vendor of chat models. Implement :meth:`generate` and :meth:`health_check`; the rest has defaults."""

    vendor: ClassVar[str]
    supports_json: ClassVar[bool] = False
    supports_streaming: ClassVar[bool] = False
    settings: ClassVar[tuple[Setting, ...]] = ()

    def __init__(self, config: ProviderConfig) -> None:
        self.config = config

    @abstractmethod
    async def generate(self, prompt: str, role: str, task: str, mode: str, options: Options) -> LLMProviderResponse:
        """One attempt at an answer; retries are the gateway's.

        Args:
            prompt: the user turn, never empty.
            role: who asks, e.g. ``copywriter``; for logs and defaults only.
            task: what for, e.g. ``product_detail``.
            mode: ``chat``, ``json`` or ``tools``.
            options: ``model`` (always set) and, where wanted, ``system``, ``json_schema``, ``tools``, ``temperature``,
                ``max_tokens``, ``seed``, ``timeout_s`` (seconds left for this attempt). A provider takes the ones that
                it knows and no others: options may come from a stranger's request.

        Raises:
            ProviderError: one of its leaves; nothing else leaves a provider but ``CancelledError``.
        """

    async def stream(
        self, prompt: str, role: str, task: str, mode: str, options: Options
    ) -> AsyncGenerator[LLMChunk, None]:
        """The same answer in pieces; the last chunk carries the response. Default: one piece."""
        response = await self.generate(prompt, role, task, mode, options)
        yield LLMChunk(text=response.output.content, response=response)

    @abstractmethod
    async def health_check(self) -> bool:
        """Whether the service answers. Never loads a model, never raises for a service that is down."""

    async def diagnose(self, models: Sequence[str]) -> list[Finding]:
        """What a run that asks these models would meet. Loads no model and raises for nothing that is found."""
        return [_reachable(self, answers=await self.health_check())]

    async def models(self) -> list[dict[str, Any]]:
        """What the service offers just now: ``name`` of each model, and what else it tells, e.g. ``size`` in bytes.

        Loads none. Default: nothing is told.

        Raises:
            ConfigError: the service cannot be asked at all: a package or a key is missing.
            ProviderError: it does not answer.
        """
        return []

    def get_default_options(self, role: str, task: str) -> dict[str, Any]:
        """Options that this vendor wants for a role and task beneath everybody else's."""
        return {}

    async def prepare(self) -> None:
        """Make the imports and connections that the first call would wait for. A dead service is no error here.

        Raises:
            ConfigError: a call cannot work at all: a package or a key is missing.
        """
        await self.health_check()

    async def aclose(self) -> None:
        """Close the running event loop's connections."""


IMAGE_SUFFIXES: Mapping[str, str] = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
"""Media types of the images that we take, with the suffix of their files."""


@dataclass(frozen=True)
class Photo:
    """A picture that somebody uploaded: its bytes (PNG, JPEG or WebP) and their type."""

    content: bytes = field(repr=False)
    media_type: str


@dataclass(frozen=True)
class GeneratedImage:
    """One image: its bytes (PNG, JPEG or WebP), its size in pixels, and the seed that it came from."""

    content: bytes = field(repr=False)
    width: int
    height: int
    seed: int
    media_type: str = "image/png"
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageProviderResponse:
    """``usage``: tokens, where the vendor counts images in them."""

    provider: str
    images: tuple[GeneratedImage, ...]
    usage: Usage = field(default_factory=Usage)
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageChunk:
    """Progress of an image (``step`` of ``steps``, e.g. of the sampler), and with the last one the response."""

    step: int = 0
    steps: int = 0
    note: str = ""
    response: ImageProviderResponse | None = None


class ImageProvider(ABC):
    """A maker of images. Implement :meth:`generate` and :meth:`health_check`; the rest has defaults.

    Attributes:
        goes_on: whether an image that was ordered is made to its end when nobody waits for it any more.
    """

    vendor: ClassVar[str]
    goes_on: ClassVar[bool] = False
    settings: ClassVar[tuple[Setting, ...]] = ()

    def __init__(self, config: ProviderConfig) -> None:
        self.config = config

    @abstractmethod
    async def generate(self, prompt: str, kind: str, options: Options) -> ImageProviderResponse:
        """One attempt at an image; retries are the gateway's.

        Args:
            prompt: what the image shows.
            kind: ``product_shot``, ``hero``, ``concept``, ``thumbnail`` or another word.
            options: where wanted ``negative_prompt``, ``seed``, ``width`` and ``height`` (pixels), ``aspect_ratio``
                (``"16:9"``), ``model``, ``workflow``, ``photo`` (a :class:`Photo` to start from), ``idempotency_key``
                (the same key never makes a second image while the first can still be had) and what the route gives
                (e.g. ``checkpoint``, ``steps``).

        Raises:
            ProviderError: one of its leaves; nothing else leaves a provider but ``CancelledError``.
        """

    async def check(self, kind: str, options: Options) -> None:
        """Raise at once what these options would fail with later, e.g. a workflow that does not exist. Makes no call.

        Raises:
            UsageError, ProviderError: as :meth:`generate` would.
        """

    def fingerprint(self, options: Options) -> dict[str, Any]:
        """What decides the image beside the options and ``models`` of provider_config.yaml, e.g. a workflow's file.

        Raises:
            UsageError, ProviderError: as :meth:`check`.
        """
        return {}

    async def cancel(self, idempotency_key: str) -> None:
        """Stop the image that was ordered with this key, where it is still to come and :attr:`goes_on`.

        Raises:
            ProviderError: the service cannot be asked.
        """

    async def stream(self, prompt: str, kind: str, options: Options) -> AsyncGenerator[ImageChunk, None]:
        """The same with progress; the last chunk carries the response. Default: one chunk."""
        yield ImageChunk(response=await self.generate(prompt, kind, options))

    @abstractmethod
    async def health_check(self) -> bool:
        """Whether the service answers. Never raises for a service that is down."""

    async def diagnose(self, wishes: Sequence[Options]) -> list[Finding]:
        """What images of these options would meet. Makes none and raises for nothing that is found."""
        return [_reachable(self, answers=await self.health_check())]

    async def models(self) -> list[dict[str, Any]]:
        """What the service draws with: ``name`` of each model, and what else it tells. As in :class:`LLMProvider`."""
        return []

    async def prepare(self) -> None:
        """Make the imports and connections that the first call would wait for. A dead service is no error here.

        Raises:
            ConfigError: a call cannot work at all: a package or a key is missing.
        """
        await self.health_check()

    async def aclose(self) -> None:
        """Close the running event loop's connections."""


def _reachable(provider: LLMProvider | ImageProvider, *, answers: bool) -> Finding:
    name = provider.config.name
    if answers:
        return Finding(name, "ok", "answers")
    names = [setting.name for setting in provider.settings if setting.kind == "url"]
    given = {variable: provider.config.values.get(variable) for variable in names}
    urls = [f"{variable} is {without_credentials(httpx.URL(url))}" for variable, url in given.items() if url]
    where = f" ({', '.join(urls)})" if urls else ""
    return Finding(name, "failed", f"does not answer{where}", "check its address and key: `sparklio config`")
