"""``/debug``: what the settings are and what a service says, for whoever sets Sparklio up.

Every answer is 200 with the failure in its body; only a provider that this installation does not have is 404. The GETs
load no model. In mock, too, the real service is asked: that is what one wants to know before going live.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from providers.base import ImageProvider, LLMProvider
from providers.errors import UnknownNameError, UnreachableError, UsageError
from providers.registry import FAMILIES, Family, image_provider, known_providers, llm_provider
from routing.contracts import LLMAnswer, LLMOptions, LLMRequest, Mode
from routing.settings import Settings
from sparklio.server.errors import ErrorDetail
from sparklio.server.probes import opened, probed
from sparklio.server.services import ServicesOf
from sparklio.server.sse import while_there

__all__ = ["router"]

_PATIENCE_S = 5.0
_MAX_TOKENS = 256

router = APIRouter(prefix="/debug", tags=["debug"])

ProviderName = Annotated[
    str,
    Path(description="A provider of this installation.", max_length=64, examples=sorted(known_providers("llm"))),
]


class HiddenValue(BaseModel):
    source: str
    value: str | None


class ShownValue(BaseModel):
    """``hides``: what weaker sources say differently, the strongest first. Secrets are masked."""

    value: str | None
    source: str
    hides: list[HiddenValue]


class ShownSettings(BaseModel):
    """As ``sparklio config --json``."""

    config_path: str
    settings: dict[str, ShownValue]
    warnings: list[str]


class OfferedModel(BaseModel):
    """``name``, and what else the service tells, e.g. ``size`` in bytes."""

    model_config = ConfigDict(extra="allow")

    name: str


class Told(BaseModel):
    """What every debug answer of a provider holds."""

    provider: str
    mode: Mode
    target_url: str | None = Field(description="Where the service is asked; without credentials.")
    success: bool
    elapsed_ms: int
    error: ErrorDetail | None


class ProviderAnswer(Told):
    """``models`` that the service offers just now."""

    models: list[OfferedModel]


class GenerateBody(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"prompt": "안녕하세요?"}, {}]})

    prompt: str = Field(default="Say hello.", min_length=1, max_length=4000)
    model: str | None = Field(default=None, min_length=1, max_length=200, description="Default: by routing.")


class GenerateAnswer(Told):
    """``output`` is the model's text."""

    model: str | None
    output: str | None


@router.get("/settings", operation_id="debug_settings", summary="Each setting with its source and what it hides")
async def settings(request: Request) -> ShownSettings:
    """As ``sparklio config --json``: secrets are masked."""
    return ShownSettings.model_validate(_settings(request).to_dict())


@router.get(
    "/{provider}",
    operation_id="debug_provider",
    summary="What a provider's service says",
    response_model_exclude_unset=True,
)
async def provider(request: Request, provider: ProviderName) -> ProviderAnswer:
    """The real service is asked, in mock too. Loads no model; a failure stands in the body."""
    settings = _settings(request)
    family = _family(settings, provider)
    answer = await probed(provider, lambda: _models(settings, family, provider), settings.secrets, seconds=_PATIENCE_S)
    return ProviderAnswer(
        provider=provider,
        mode=settings.mode,
        target_url=_target(settings, family, provider),
        success=answer.error is None,
        models=[OfferedModel.model_validate(model) for model in answer.value or ()],
        elapsed_ms=answer.elapsed_ms,
        error=answer.error,
    )


@router.post(
    "/{provider}/generate",
    operation_id="debug_generate",
    summary="Ask a provider's model for a short text",
    response_model=GenerateAnswer,
)
async def generate(
    request: Request, services: ServicesOf, provider: ProviderName, body: Annotated[GenerateBody | None, Body()] = None
) -> Response:
    """Goes through the gateway, so in mock the mock answers: ``mode`` tells. A failure stands in the body."""
    family = _family(_settings(request), provider)
    wanted = body or GenerateBody()

    async def ask() -> LLMAnswer:
        if family != "llm":
            hint = "POST /api/v1/media/image/generate asks it for one"
            raise UsageError(f"{provider} makes images and no text", hint=hint)
        asked = _request(provider, wanted, getattr(request.state, "request_id", None))
        return await services.studio.gateways.llm.generate(asked)

    async def answer() -> Response:
        told = await _generated(_settings(request), family, provider, wanted.model, ask)
        return Response(told.model_dump_json(exclude_unset=True), media_type="application/json")

    return await while_there(request, answer())


async def _generated(
    settings: Settings,
    family: Family,
    provider: str,
    model: str | None,
    ask: Callable[[], Coroutine[Any, Any, LLMAnswer]],
) -> GenerateAnswer:
    """The gateway bounds the time."""
    answer = await probed(provider, ask, settings.secrets)
    return GenerateAnswer(
        provider=provider,
        mode=settings.mode,
        target_url=_target(settings, family, provider),
        success=answer.error is None,
        model=answer.value.model if answer.value else model,
        output=answer.value.output.content if answer.value else None,
        elapsed_ms=answer.elapsed_ms,
        error=answer.error,
    )


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _request(provider: str, body: GenerateBody, request_id: str | None) -> LLMRequest:
    own: dict[str, Any] = {} if request_id is None else {"request_id": request_id}
    options = LLMOptions(provider=provider, model=body.model, max_tokens=_MAX_TOKENS)
    return LLMRequest(role="debug", task="debug", payload={"prompt": body.prompt}, options=options, **own)


def _family(settings: Settings, name: str) -> Family:
    """What the provider makes; where there are two of the name, the active one.

    Raises:
        UnknownNameError: this installation has no provider of that name.
    """
    known = [family for family in FAMILIES if name in known_providers(family)]
    if not known:
        raise UnknownNameError("provider", name, frozenset().union(*map(known_providers, FAMILIES)))
    return next((family for family in known if name in _active(settings, family)), known[0])


def _active(settings: Settings, family: Family) -> tuple[str, ...]:
    names: tuple[str, ...] = getattr(settings.config.providers, family).active
    return names


async def _models(settings: Settings, family: Family, name: str) -> list[dict[str, Any]]:
    """Raises SparklioError where the service does not answer as it should, or has not been made active."""
    if name not in _active(settings, family):
        hint = f"add {name!r} to `active` in provider_config.yaml"
        raise UnknownNameError("active provider", name, _active(settings, family), hint=hint)
    async with opened(settings, family, name) as provider:
        models = await provider.models()
        if not models:
            await _diagnose(provider)
        return models


async def _diagnose(provider: LLMProvider | ImageProvider) -> None:
    """Raises what is found of a service that lists no models; it may not be of those that list them."""
    for finding in await provider.diagnose([]):
        if finding.state == "failed":
            raise UnreachableError(finding.message, provider=provider.config.name, hint=finding.remedy)


def _target(settings: Settings, family: Family, name: str) -> str | None:
    """The service's address as it may be shown; None where the provider declares none, or is not active."""
    declared = (llm_provider(name) if family == "llm" else image_provider(name)).settings
    urls = (settings.values.get(setting.name) for setting in declared if setting.kind == "url")
    return next((url.shown() for url in urls if url), None)
