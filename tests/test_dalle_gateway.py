"""OpenAI's images behind the media gateway: the store, the retries, and the same answer as ComfyUI's."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from providers.errors import RefusedError
from routing import attempts
from routing.contracts import ImageOptions, ImageRequest
from routing.gateways import Gateways, build_gateways
from routing.image_store import ImageStore
from routing.media_gateway import MediaGateway
from routing.settings import load_settings
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.openai import OpenAIStandIn
from tests.standins.pictures import drawn
from tests.standins.rented import IMAGES

MODEL = "test-image"
PHOTO = drawn(80, 60, colour=(180, 60, 40), form="JPEG")


@pytest.fixture
async def gateways(
    openai: OpenAIStandIn, comfyui: ComfyUIStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gateways]:
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)
    rules = [
        {"kind": "hero", "provider": "dalle", "model": MODEL},
        {"kind": "concept", "provider": "comfyui", "workflow": "concept_v1", "options": {"checkpoint": "x"}},
    ]
    config = {
        "providers": {"llm": {"active": ["ollama", "openai"]}, "media": {"active": ["comfyui", "dalle"]}},
        "media_routing": {"image": rules},
        "settings": {"DALLE_BASE_URL": openai.url, "COMFYUI_BASE_URL": comfyui.url, "GENERATOR_MODE": "live"},
    }
    (tmp_path / "provider_config.yaml").write_text(yaml.safe_dump(config))
    gateways = build_gateways(load_settings(environ={"OPENAI_API_KEY": openai.key}, folder=tmp_path))
    yield gateways
    await gateways.aclose()


async def test_the_media_gateway_answers_as_with_any_provider(gateways: Gateways, openai: OpenAIStandIn) -> None:
    request = ImageRequest(kind="hero", prompt="a cup", options=ImageOptions(aspect_ratio="16:9", seed=5))
    await gateways.media.check(request)
    answer = await gateways.media.generate_image(request)
    assert openai.headers[-1]["idempotency-key"] == request.request_id
    body = answer.model_dump()
    assert set(body) == {"provider", "images", "meta"}
    assert set(body["images"][0]) == {"id", "url", "width", "height", "seed", "meta"}
    assert (answer.provider, answer.images[0].seed) == ("dalle", 5)
    assert [(a.provider, a.model, a.outcome) for a in answer.meta.attempts] == [("dalle", MODEL, "ok")]
    assert answer.meta.attempts[0].usage.completion_tokens == 1056
    stored = _store(gateways).path(answer.images[0].id).read_bytes()
    assert Image.open(io.BytesIO(stored)).size == (1536, 1024) == (answer.images[0].width, answer.images[0].height)


async def test_the_answer_has_the_fields_of_comfyui_s(gateways: Gateways, comfyui: ComfyUIStandIn) -> None:
    comfyui.checkpoints = ["x"]
    answers = [
        (await gateways.media.generate_image(ImageRequest(kind=kind, prompt="a cup"))).model_dump()
        for kind in ("hero", "concept")
    ]
    assert _fields(answers[0]) == _fields(answers[1])


def _store(gateways: Gateways) -> ImageStore:
    assert isinstance(gateways.media, MediaGateway)
    return gateways.media.store


def _fields(answer: dict[str, Any]) -> list[set[str]]:
    return [set(answer), set(answer["meta"]), set(answer["images"][0])]


async def test_a_stored_photo_travels(gateways: Gateways, openai: OpenAIStandIn) -> None:
    photo = _store(gateways).save(PHOTO, "image/jpeg")
    request = ImageRequest(kind="hero", prompt="a cup", options=ImageOptions(photo=photo))
    assert (await gateways.media.generate_image(request)).images
    assert openai.photos == [PHOTO]


async def test_the_gateway_retries_what_may_pass_with_the_same_key(gateways: Gateways, openai: OpenAIStandIn) -> None:
    openai.fail("status_503", "cut", task=IMAGES)
    answer = await gateways.media.generate_image(ImageRequest(kind="hero", prompt="a cup"))
    assert [attempt.outcome for attempt in answer.meta.attempts][-1] == "ok"
    assert len(openai.requests) == 3
    assert len({headers["idempotency-key"] for headers in openai.headers}) == 1


async def test_the_gateway_does_not_ask_again_after_a_refusal(gateways: Gateways, openai: OpenAIStandIn) -> None:
    openai.fail_always("image_refused", task=IMAGES)
    with pytest.raises(RefusedError):
        await gateways.media.generate_image(ImageRequest(kind="hero", prompt="a cup"))
    assert len(openai.requests) == 1
