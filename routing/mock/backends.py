"""The mock backends: they stand where the providers stand, so all above them is the same code in mock and live."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, Mapping
from secrets import randbits
from typing import Any

from providers.base import (
    GeneratedImage,
    ImageChunk,
    ImageProvider,
    ImageProviderResponse,
    LLMChunk,
    LLMOutput,
    LLMProviderResponse,
    OutputType,
    Photo,
    Usage,
)
from providers.media.sizes import choose_size
from routing.contracts import ImageRequest, LLMRequest
from routing.live import Providers
from routing.mock import answer_text, draw_image
from routing.prompt_builder import Prompt
from routing.router import ImageRoute, LLMRoute

__all__ = ["MockImages", "MockLLM"]

_OUTPUT_TYPES: Mapping[str, OutputType] = {"chat": "text", "json": "json", "tools": "tools"}
_PIECES = re.compile(r".{1,60}\S*\s*", re.DOTALL)  # a line or so at a time, never half a word
_CHARS_PER_TOKEN = 2  # roughly what Qwen's tokenizer makes of Korean mixed with JSON; enough for a mock's usage
_STEPS = 4
_DEFAULT_SIZE = (1024, 1024)  # SDXL's own square


class MockLLM:
    """Answers from the request's own payload; provider and model are those that would have answered."""

    async def stream(
        self, route: LLMRoute, request: LLMRequest, prompt: Prompt, options: Mapping[str, Any]
    ) -> AsyncGenerator[LLMChunk, None]:
        started = time.perf_counter()
        content = answer_text(request)
        for piece in _PIECES.findall(content):
            yield LLMChunk(text=piece)
        yield LLMChunk(response=_response(route, request, prompt, content, started))

    async def prepare(self) -> None:
        """Nothing is needed."""

    async def aclose(self) -> None:
        """Nothing is open."""


class MockImages:
    """Draws the image here; provider and workflow are those that would have made it, and what they refuse is refused.

    Args:
        providers: the real ones, asked only whether they would take the options.
    """

    def __init__(self, providers: Providers[ImageProvider]) -> None:
        self._providers = providers

    async def cancel(self, provider: str, idempotency_key: str) -> None:
        """Nothing goes on without its request."""

    def goes_on(self, provider: str) -> bool:
        return False

    def fingerprint(self, route: ImageRoute, options: Mapping[str, Any]) -> dict[str, Any]:
        return self._providers[route.provider].fingerprint(options)

    async def check(self, route: ImageRoute, request: ImageRequest, options: Mapping[str, Any]) -> None:
        await self._providers[route.provider].check(request.kind, options)

    async def stream(
        self, route: ImageRoute, request: ImageRequest, options: Mapping[str, Any]
    ) -> AsyncGenerator[ImageChunk, None]:
        await self.check(route, request, options)
        seed = options.get("seed")
        seed = randbits(53) if seed is None else int(seed)
        width, height = choose_size(
            options.get("width"), options.get("height"), options.get("aspect_ratio"), _DEFAULT_SIZE
        )
        photo: Photo | None = options.get("photo")
        for step in range(1, _STEPS + 1):
            yield ImageChunk(step=step, steps=_STEPS)
        content = await asyncio.to_thread(
            draw_image,
            prompt=request.prompt,
            kind=request.kind,
            brand=request.brand,
            width=width,
            height=height,
            seed=seed,
            photo=photo.content if photo is not None else None,
        )
        meta = {
            "workflow": route.workflow,
            "prompt": request.prompt,
            "negative_prompt": options.get("negative_prompt") or "",
        }
        image = GeneratedImage(content, width, height, seed, meta=meta)
        yield ImageChunk(response=ImageProviderResponse(provider=route.provider, images=(image,)))

    async def prepare(self) -> None:
        """Nothing is needed."""

    async def aclose(self) -> None:
        """Nothing is open."""


def _response(
    route: LLMRoute, request: LLMRequest, prompt: Prompt, content: str, started: float
) -> LLMProviderResponse:
    asked, written = (len(text) // _CHARS_PER_TOKEN + 1 for text in (prompt.system + prompt.user, content))
    output_type = _OUTPUT_TYPES[request.mode]
    return LLMProviderResponse(
        provider=route.provider,
        model=route.model,
        usage=Usage(prompt_tokens=asked, completion_tokens=written, total_tokens=asked + written),
        output=LLMOutput(
            type=output_type, content=content, parsed=json.loads(content) if output_type == "tools" else None
        ),
        meta={"done_reason": "stop", "total_duration_ms": round((time.perf_counter() - started) * 1000)},
    )
