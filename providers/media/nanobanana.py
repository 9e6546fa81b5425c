"""Nano Banana: the images of Google's Gemini models.

Wire format: ``POST /v1beta/models/<model>:generateContent`` with ``responseModalities: [IMAGE]``; see
https://ai.google.dev/gemini-api/docs/image-generation. The API knows no negative prompt, and a size only as an aspect
ratio; it takes a seed, which does not make an image come out the same again.

``models.<provider>.<model>`` of provider_config.yaml goes into the request's ``generationConfig`` as it is, e.g.
``imageConfig: {imageSize: 2K}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from providers.base import Usage
from providers.errors import ConfigError, EmptyAnswerError, ProviderError, RefusedError
from providers.google_api import HOME, GoogleApi, build_client, call_options, int32
from providers.google_errors import DECLINED
from providers.llm.gemini import GeminiProvider
from providers.media._rented import Drawn, ImageOrder, RentedImages, RentedWish
from providers.media.sizes import nearest_size
from providers.rented import rented_settings, wanted

__all__ = ["NanoBananaProvider"]

_SPARE_KEY = "GOOGLE_API_KEY"
# ai.google.dev/gemini-api/docs/image-generation, "Aspect ratios": what every model of the API draws, 2026-11
_RATIOS = ((1, 1), (2, 3), (3, 2), (3, 4), (4, 3), (4, 5), (5, 4), (9, 16), (16, 9), (21, 9))
_SIDE = 1024  # pixels of a square, for who asks one side only


class NanoBananaProvider(GoogleApi, RentedImages):
    """See the module."""

    vendor = "google"
    title = "Nano Banana"
    prefix = "NANOBANANA"
    extra = "nanobanana"
    spare_key = _SPARE_KEY
    settings = (
        *rented_settings("NANOBANANA", "Nano Banana (Gemini image)", base_url=HOME, timeout_s=180),
        # The very one of the chat provider: both may be active.
        *(setting for setting in GeminiProvider.settings if setting.name == _SPARE_KEY),
    )

    def _client(self, http: httpx.AsyncClient) -> Any:
        return build_client(self.service, http)

    def _arguments(self, model: str, wish: RentedWish, own: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of the request but for the seed; what is None is not sent."""
        form = own.get("imageConfig", {})
        if isinstance(form, Mapping):
            form = wanted(form, {"aspectRatio": _ratio(wish)})
        elif form is not None:
            raise ConfigError(
                f"provider_config.yaml: models.{self.config.name}.{model}.imageConfig must hold options",
                hint="write it like {imageSize: 2K}",
            )
        return {"responseModalities": ["IMAGE"], **own, "imageConfig": form or None}

    async def _draw(self, client: Any, order: ImageOrder) -> Drawn:
        parameters = wanted(order.arguments, {"seed": int32(order.seed)})
        response = await client.aio.models.generate_content(
            model=order.model, contents=_turn(order), config=call_options(parameters)
        )
        parts = _parts(response)
        contents = [part.inline_data.data for part in parts if part.inline_data and part.inline_data.data]
        if not contents:
            raise self._imageless(order.model, response, " ".join(part.text for part in parts if part.text))
        ratio = parameters.get("imageConfig", {}).get("aspectRatio")
        return Drawn(contents, {"aspect_ratio": ratio} if ratio else {}, _usage(response.usage_metadata))

    def _imageless(self, model: str, response: Any, words: str) -> ProviderError:
        blocked = response.prompt_feedback.block_reason if response.prompt_feedback else None
        ended = response.candidates[0].finish_reason if response.candidates else None
        reason = next((reason.value for reason in (blocked, ended) if reason), "none")
        declined = bool(blocked) or reason in DECLINED
        did = "declined to draw" if declined else "answered without an image"
        return (RefusedError if declined else EmptyAnswerError)(
            f"{model} {did} ({reason})" + (f": {words[:300]}" if words else ""),
            provider=self.config.name,
            hint="change what the image is to show, or route it to another provider" if declined else "try again",
            usage=_usage(response.usage_metadata),
        )


def _ratio(wish: RentedWish) -> str | None:
    """The nearest of the API's ratios; None leaves it to the model, which follows a photo."""
    if (wish.width, wish.height, wish.aspect_ratio) == (None, None, None):
        return None
    sizes = {(width * _SIDE, height * _SIDE): f"{width}:{height}" for width, height in _RATIOS}
    return sizes[nearest_size(list(sizes), wish.width, wish.height, wish.aspect_ratio)]


def _turn(order: ImageOrder) -> dict[str, Any]:
    photo = order.wish.photo
    picture = [{"inline_data": {"data": photo.content, "mime_type": photo.media_type}}] if photo else []
    return {"role": "user", "parts": [*picture, {"text": order.text}]}


def _parts(response: Any) -> list[Any]:
    """What the model shows; pictures that it made while thinking are not among them."""
    content = response.candidates[0].content if response.candidates else None
    return [part for part in (content.parts if content else None) or [] if not part.thought]


def _usage(told: Any) -> Usage:
    """Thinking is billed as output."""
    if told is None:
        return Usage()
    return Usage(
        prompt_tokens=told.prompt_token_count or 0,
        completion_tokens=(told.candidates_token_count or 0) + (told.thoughts_token_count or 0),
        total_tokens=told.total_token_count or 0,
    )
