"""Requests and answers of the two gateways: the contract that never changes when a provider is added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Protocol, runtime_checkable
from uuid import uuid4

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints

from providers.base import LLMOutput, Usage
from routing.budget import Budget
from routing.fingerprints import Fingerprint

__all__ = [
    "REQUEST_ID",
    "AnswerMeta",
    "Attempt",
    "ChatGateway",
    "Image",
    "ImageAnswer",
    "ImageGateway",
    "ImageOptions",
    "ImageRequest",
    "LLMAnswer",
    "LLMOptions",
    "LLMRequest",
    "Language",
    "Mode",
    "OnProgress",
    "Progress",
    "Route",
    "Stage",
]

Mode = Literal["mock", "live"]
Stage = Literal["draft", "final"]
Language = Literal["ko", "en"]
Word = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)]
REQUEST_ID = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,99}$"
RequestId = Annotated[str, StringConstraints(pattern=REQUEST_ID)]
AspectRatio = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,2}:[1-9]\d{0,2}$")]
WorkflowId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
DeviceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,47}$")]
ImageId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Dimension = Annotated[int, Field(ge=64, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _new_request_id() -> str:
    return uuid4().hex


class LLMOptions(BaseModel):
    """``provider`` and ``model`` win over routing. Other keys travel to the provider, which takes those it knows.

    ``budget_usd``: what the request may cost with all its attempts, in US dollars.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    temperature: float | None = Field(default=None, ge=0, le=2)
    max_tokens: int | None = Field(default=None, ge=1, le=131072)
    provider: Word | None = None
    model: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    stage: Stage = "draft"
    budget_usd: float | None = None
    seed: int | None = None
    language: Language = "ko"
    tools: list[dict[str, Any]] | None = None


class LLMRequest(BaseModel):
    """Role and task may be any words and the payload any JSON; an unknown pair gets a generic prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    request_id: RequestId = Field(default_factory=_new_request_id)
    role: Word
    task: Word
    mode: Literal["chat", "json", "tools"] = "chat"
    payload: Any = Field(default=None, validation_alias=AliasChoices("payload", "input"))
    options: LLMOptions = LLMOptions()


class Attempt(BaseModel):
    """One call to one provider. ``outcome`` is ``ok`` or the error's code; ``latency_ms`` in milliseconds.

    ``cost_usd`` in US dollars; None where the price is unknown.
    """

    provider: str
    model: str
    outcome: str
    latency_ms: int
    usage: Usage = Usage()
    cost_usd: float | None = 0.0


class AnswerMeta(BaseModel):
    """Fields are added here, never renamed. ``latency_ms`` and ``cost_usd`` cover all attempts."""

    request_id: str
    role: str
    task: str
    mode: str
    generator_mode: Mode
    latency_ms: int
    cost_usd: float | None = 0.0
    attempts: list[Attempt]
    provider: dict[str, Any] = Field(default_factory=dict, description="facts that only this provider tells")


class LLMAnswer(BaseModel):
    provider: str
    model: str
    usage: Usage
    output: LLMOutput
    meta: AnswerMeta
    timestamp: datetime = Field(default_factory=lambda: datetime.now(UTC))


class ImageOptions(BaseModel):
    """Sizes in pixels; ``aspect_ratio`` like ``16:9`` becomes the provider's nearest own size.

    ``photo`` is the id of a stored picture from which the image starts; ``budget_usd`` as in :class:`LLMOptions`;
    ``device`` names the machine whose workers make it, where workers do.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    aspect_ratio: AspectRatio | None = None
    width: Dimension | None = None
    height: Dimension | None = None
    model: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    workflow: WorkflowId | None = None
    photo: ImageId | None = None
    negative_prompt: str | None = Field(default=None, max_length=4000)
    seed: Seed | None = None
    idempotency_key: RequestId | None = None
    budget_usd: float | None = None
    device: DeviceName | None = None


class ImageRequest(BaseModel):
    """``brand`` is data for the picture, e.g. ``{name, product, colors}``; the mock letters it, a provider may."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    request_id: RequestId = Field(default_factory=_new_request_id)
    provider: Word = "auto"
    kind: Word = "product_shot"
    prompt: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=8000)]
    brand: dict[str, Any] = Field(default_factory=dict)
    options: ImageOptions = ImageOptions()
    job: Literal[False] = Field(default=False, description="in process a caller awaits; jobs belong to the HTTP face")


class Image(BaseModel):
    """``id`` names the stored file (content-addressed); ``url`` opens it from where the gateway runs."""

    id: str
    url: str
    width: int
    height: int
    seed: int
    meta: dict[str, Any] = Field(default_factory=dict)


class ImageAnswerMeta(BaseModel):
    request_id: str
    kind: str
    generator_mode: Mode
    latency_ms: int
    cost_usd: float | None = 0.0
    attempts: list[Attempt]


class ImageAnswer(BaseModel):
    provider: str
    images: list[Image]
    meta: ImageAnswerMeta


class Route(Protocol):
    """What attempts and fallbacks know of a route of either kind."""

    @property
    def provider(self) -> str: ...
    @property
    def model(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """What a caller hears while it waits: tokens of text, or steps of an image.

    ``attempt`` counts from 1; when it grows, what was streamed before is void and the text starts afresh.
    """

    kind: Literal["token", "image"]
    text: str = ""
    step: int = 0
    steps: int = 0
    attempt: int = 1


OnProgress = Callable[[Progress], None]


@runtime_checkable
class ChatGateway(Protocol):
    """What agents know of the LLM gateway, in this process or behind HTTP."""

    async def generate(
        self, request: LLMRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> LLMAnswer: ...

    async def fingerprint(self, request: LLMRequest) -> Fingerprint: ...


@runtime_checkable
class ImageGateway(Protocol):
    """What agents know of the media gateway, in this process or behind HTTP."""

    async def generate_image(
        self, request: ImageRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> ImageAnswer: ...

    async def fingerprint(self, request: ImageRequest) -> Fingerprint: ...

    async def check(self, request: ImageRequest) -> None: ...

    async def cancel(self, request: ImageRequest) -> None: ...

    def goes_on(self, request: ImageRequest) -> bool: ...
