"""Images of OpenAI, and of every server that speaks its images API.

Wire format: ``POST /images/generations`` in JSON, ``POST /images/edits`` as a form where a photo is given; see
https://platform.openai.com/docs/api-reference/images. The API knows neither a negative prompt nor a seed.

``models.<provider>.<model>`` of provider_config.yaml:

    sizes: ["1024x1024", ...]      what the model draws; null where it is not to be told a size
    edit: {input_fidelity: high}   parameters of edits only
    anything else                  goes into the request as it is, e.g. quality, background, response_format
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from providers.base import IMAGE_SUFFIXES, Photo, Usage
from providers.errors import ConfigError, JobError
from providers.http import client_options, is_http_url
from providers.llm.openai import OpenAIProvider
from providers.media._rented import Drawn, ImageOrder, RentedImages, RentedWish
from providers.media.sizes import nearest_size, parse_size
from providers.openai_api import HOME, OpenAIApi
from providers.rented import rented_settings

__all__ = ["DalleProvider"]

_SPARE_KEY = "OPENAI_API_KEY"
# platform.openai.com/docs/api-reference/images/create, "size": what every model of the API draws, 2026-11
_SIZES = ("1024x1024", "1536x1024", "1024x1536")
_MAX_IMAGE_BYTES = 64 * 1024 * 1024


class _Picture(BaseModel):
    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class _Answer(BaseModel):
    """``usage`` is read apart: a strange one is no reason to lose an image that was paid for."""

    data: list[_Picture] | None = None
    usage: Any = None


class _NotFetchedError(Exception):
    """Why a file could not be had; for the provider to tell."""


class DalleProvider(OpenAIApi, RentedImages):
    """See the module."""

    vendor = "openai"
    title = "OpenAI images"
    prefix = "DALLE"
    extra = "dalle"
    spare_key = _SPARE_KEY
    settings = (
        *rented_settings("DALLE", "OpenAI images", base_url=HOME, timeout_s=180),
        # The very one of the chat provider: both may be active.
        *(setting for setting in OpenAIProvider.settings if setting.name == _SPARE_KEY),
    )

    def _client(self, http: httpx.AsyncClient) -> Any:
        client = self.service.load("openai").AsyncOpenAI(
            api_key=self.service.key(),
            base_url=self.service.base_url,
            max_retries=0,
            http_client=http,
        )
        # The package reads these from the environment, and lets a key among such headers win over ours.
        client.organization = client.project = client.admin_api_key = None
        client._custom_headers = {}  # noqa: SLF001  there is no public way
        return client

    def _arguments(self, model: str, wish: RentedWish, own: Mapping[str, Any]) -> dict[str, Any]:
        """The body beside model, prompt and image."""
        more = own.get("edit") or {}
        if not isinstance(more, Mapping):
            raise self._misconfigured(model, "edit", "must hold parameters of edits", "write it like {quality: high}")
        body = {**self._size(model, wish, own), **own, **(more if wish.photo else {})}
        ours = {"model", "prompt", "image", "sizes", "edit"}
        return {name: value for name, value in body.items() if value is not None and name not in ours}

    def _size(self, model: str, wish: RentedWish, own: Mapping[str, Any]) -> dict[str, str]:
        sizes = own.get("sizes", _SIZES)
        if sizes is None:
            return {}
        try:
            known = [parse_size(size) for size in sizes]
            width, height = nearest_size(known, wish.width, wish.height, wish.aspect_ratio)
        except (TypeError, ValueError, LookupError) as exc:
            raise self._misconfigured(
                model, "sizes", f"is no list of sizes: {sizes!r}", 'write it like ["1024x1024", "1536x1024"]'
            ) from exc
        return {"size": f"{width}x{height}"}

    def _misconfigured(self, model: str, option: str, what: str, hint: str) -> ConfigError:
        return ConfigError(f"provider_config.yaml: models.{self.config.name}.{model}.{option} {what}", hint=hint)

    async def _draw(self, client: Any, order: ImageOrder) -> Drawn:
        # Raw: the package would make an answer object of any JSON, and of a page of HTML too.
        images = client.images.with_raw_response
        key = order.wish.idempotency_key
        call = {
            "model": order.model,
            "prompt": order.text,
            "extra_body": dict(order.arguments),
            "extra_headers": {"Idempotency-Key": key} if key else None,
        }
        photo = order.wish.photo
        raw = await (images.edit(image=_file(photo), **call) if photo else images.generate(**call))
        answer = _read(raw.content)
        pictures = [picture for picture in answer.data or () if picture.b64_json or picture.url]
        usage = _usage(answer.usage)
        try:
            contents = [await self._content(picture) for picture in pictures]
        except _NotFetchedError as exc:
            raise JobError(
                f"{self.title} made the image and told where it lies, but {exc}",
                provider=self.config.name,
                hint="ask for the bytes with `response_format: b64_json` under the model in provider_config.yaml",
                usage=usage,
                images=len(pictures),
                details={"reason": "not_fetched"},
            ) from exc
        return Drawn(contents, _facts(order, pictures), usage)

    async def _content(self, picture: _Picture) -> bytes:
        if picture.b64_json:
            return base64.b64decode(picture.b64_json, validate=True)
        return await self._fetched(picture.url or "")

    async def _fetched(self, url: str) -> bytes:
        """A file at a host that the service named: it gets no key, by a client that has none."""
        if not is_http_url(url) or httpx.URL(url).scheme not in ("https", httpx.URL(self.service.base_url).scheme):
            raise _NotFetchedError("its address is no https URL")
        options = client_options(url, read_timeout_s=self.service.timeout_s, local=False)
        content = bytearray()
        async with httpx.AsyncClient(**options) as http, http.stream("GET", url) as response:
            if not response.is_success:
                raise _NotFetchedError(f"its host answered with status {response.status_code}")
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > _MAX_IMAGE_BYTES:
                    raise _NotFetchedError(f"it is larger than {_MAX_IMAGE_BYTES // 2**20} MB")
        return bytes(content)


def _file(photo: Photo) -> tuple[str, bytes, str]:
    return f"photo{IMAGE_SUFFIXES.get(photo.media_type, '.png')}", photo.content, photo.media_type


def _read(body: bytes) -> _Answer:
    """Raises ValueError for a body that is no answer of this API."""
    try:
        return _Answer.model_validate_json(body)
    except ValidationError as exc:
        first = exc.errors()[0]  # the whole would show the body
        raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'its body'}: {first['msg']}") from None


def _facts(order: ImageOrder, pictures: Sequence[_Picture]) -> dict[str, Any]:
    revised = next((picture.revised_prompt for picture in pictures if picture.revised_prompt), None)
    facts = {"size": order.arguments.get("size"), "revised_prompt": revised}
    return {name: value for name, value in facts.items() if value is not None}


def _usage(told: Any) -> Usage | None:
    if not isinstance(told, Mapping):
        return None
    names = ("input_tokens", "output_tokens", "total_tokens")
    counts = [told[name] if isinstance(told.get(name), int) else 0 for name in names]
    return Usage(prompt_tokens=counts[0], completion_tokens=counts[1], total_tokens=counts[2])
