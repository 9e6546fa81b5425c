"""The provider of OpenAI's images API against a stand-in that speaks its wire format."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from providers.base import ImageProvider, ImageProviderResponse, Photo, ProviderConfig, Usage
from providers.errors import (
    AuthenticationError,
    ConfigError,
    EmptyAnswerError,
    JobError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    RefusedError,
    RejectedError,
    ServerError,
    SparklioError,
    UnreachableError,
)
from providers.media import dalle
from providers.media.dalle import DalleProvider, _NotFetchedError
from tests.standins import openai_images
from tests.standins.openai import OpenAIStandIn
from tests.standins.openai_images import error
from tests.standins.pictures import drawn, mean_colour
from tests.standins.rented import IMAGES
from tests.standins.server import free_port

MODEL = "test-image"
PHOTO = drawn(80, 60, colour=(180, 60, 40), form="JPEG")
CALLS = [("POST", "/v1/images/generations")]


def build(values: Mapping[str, str | None], own: Mapping[str, Any] | None = None) -> DalleProvider:
    """A provider with the defaults of its settings under ``values``; ``own`` are the model's options."""
    defaults = {setting.name: setting.default for setting in DalleProvider.settings}
    return DalleProvider(ProviderConfig("dalle", {**defaults, **values}, {MODEL: own or {}}))


@pytest.fixture
async def provider(openai: OpenAIStandIn) -> AsyncIterator[DalleProvider]:
    provider = build({"DALLE_BASE_URL": openai.url, "DALLE_API_KEY": openai.key})
    yield provider
    await provider.aclose()


async def draw(provider: ImageProvider, prompt: str = "a cup on a table", **options: Any) -> ImageProviderResponse:
    return await provider.generate(prompt, "product_shot", {"model": MODEL, **options})


async def failure(provider: ImageProvider, **options: Any) -> SparklioError:
    with pytest.raises(SparklioError) as caught:
        await draw(provider, **options)
    assert caught.value.hint
    return caught.value


def answered_with(monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    monkeypatch.setattr(openai_images, "_answer", lambda *_: body)


# -- success -----------------------------------------------------------------------------------------------------------


async def test_an_image_with_its_facts(provider: DalleProvider, openai: OpenAIStandIn) -> None:
    response = await draw(provider, seed=7, negative_prompt="text, people", idempotency_key="run-1.hero")
    assert openai.images == [
        {"model": MODEL, "prompt": "a cup on a table\n\nAvoid: text, people", "size": "1024x1024"},
    ]
    assert openai.requests == CALLS
    assert openai.headers[-1]["idempotency-key"] == "run-1.hero"
    [image] = response.images
    assert (image.content, image.media_type) == (drawn(1024, 1024), "image/png")
    assert (image.width, image.height, image.seed) == (1024, 1024, 7)
    assert response.provider == "dalle"
    assert response.usage.completion_tokens == 1056
    assert image.meta == response.meta == {
        "model": MODEL,
        "prompt": "a cup on a table",
        "negative_prompt": "text, people",
        "seed_binds": False,
        "size": "1024x1024",
        "usage": response.usage.model_dump(),
    }  # fmt: skip


async def test_a_seed_is_drawn_where_none_is_asked(provider: DalleProvider, openai: OpenAIStandIn) -> None:
    seeds = {(await draw(provider)).images[0].seed for _ in range(3)}
    assert len(seeds) == 3
    assert not any("seed" in body for body in openai.images)
    assert "idempotency-key" not in openai.headers[-1]


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, "1024x1024"),
        ({"aspect_ratio": "16:9"}, "1536x1024"),
        ({"aspect_ratio": "9:16"}, "1024x1536"),
        ({"aspect_ratio": "8:9"}, "1024x1024"),
        ({"width": 800, "height": 800}, "1024x1024"),
        ({"width": 640, "height": 960, "aspect_ratio": "16:9"}, "1024x1536"),
        ({"width": 1536}, "1536x1024"),
        ({"height": 1600}, "1024x1536"),
        ({"height": 500, "aspect_ratio": "3:2"}, "1536x1024"),
    ],
)
async def test_the_size_is_the_nearest_that_the_model_draws(
    provider: DalleProvider, openai: OpenAIStandIn, options: dict[str, Any], size: str
) -> None:
    [image] = (await draw(provider, **options)).images
    assert openai.images[-1]["size"] == size == image.meta["size"] == f"{image.width}x{image.height}"


async def test_sizes_and_parameters_of_a_model_come_from_the_yaml(openai: OpenAIStandIn) -> None:
    openai.image_sizes = None
    own = {
        "sizes": ["1280x720", "2560x1440"],
        "quality": "high",
        "background": None,
        "output_format": "webp",
        "prompt": "something else",
        "edit": {"input_fidelity": "high", "quality": None},
    }
    provider = build({"DALLE_BASE_URL": openai.url, "DALLE_API_KEY": openai.key}, own)
    [image] = (await draw(provider, width=2000, height=1100)).images
    assert image.media_type == "image/webp"
    photo = Photo(PHOTO, "image/jpeg")
    await draw(provider, photo=photo)
    await provider.aclose()
    sent = {"model": MODEL, "prompt": "a cup on a table", "output_format": "webp"}
    assert openai.images == [
        {**sent, "size": "2560x1440", "quality": "high"},
        {**sent, "size": "1280x720", "input_fidelity": "high"},
    ]


async def test_a_model_may_be_left_to_choose_its_size(openai: OpenAIStandIn) -> None:
    provider = build({"DALLE_BASE_URL": openai.url, "DALLE_API_KEY": openai.key}, {"sizes": None, "size": "auto"})
    response = await draw(provider, aspect_ratio="16:9")
    await provider.aclose()
    assert openai.images[-1]["size"] == response.meta["size"] == "auto"


async def test_several_images_are_paid_once(openai: OpenAIStandIn) -> None:
    provider = build({"DALLE_BASE_URL": openai.url, "DALLE_API_KEY": openai.key}, {"n": 2})
    response = await draw(provider)
    await provider.aclose()
    assert ["usage" in image.meta for image in response.images] == [True, False]
    assert response.usage.completion_tokens == 2112


async def test_a_photo_is_edited(provider: DalleProvider, openai: OpenAIStandIn) -> None:
    key = "photo-1"
    response = await draw(provider, photo=Photo(PHOTO, "image/jpeg"), aspect_ratio="2:3", idempotency_key=key)
    assert openai.requests == [("POST", "/v1/images/edits")]
    assert openai.photos == [PHOTO]
    assert openai.images == [{"model": MODEL, "prompt": "a cup on a table", "size": "1024x1536"}]
    assert openai.headers[-1]["idempotency-key"] == key
    [image] = response.images
    assert (image.width, image.height) == (1024, 1536)
    assert mean_colour(image.content) == pytest.approx(mean_colour(PHOTO), abs=12), "it derives from the photo"


# -- images that are told by their address -----------------------------------------------------------------------------


@pytest.fixture
def by_url(openai: OpenAIStandIn) -> OpenAIStandIn:
    openai.images_always_b64 = False
    return openai


async def test_an_image_is_fetched_without_the_key(provider: DalleProvider, by_url: OpenAIStandIn) -> None:
    response = await draw(provider)
    assert [path for _, path in by_url.requests] == ["/v1/images/generations", "/files/0"]
    assert "authorization" not in by_url.headers[1]
    assert response.images[0].content == drawn(1024, 1024)
    assert response.meta["revised_prompt"] == "a cup on a table"
    assert (response.usage, "usage" in response.meta) == (Usage(), False)


async def test_bytes_are_asked_for_where_the_model_needs_to_be_told(by_url: OpenAIStandIn) -> None:
    own = {"response_format": "b64_json", "quality": "hd"}
    provider = build({"DALLE_BASE_URL": by_url.url, "DALLE_API_KEY": by_url.key}, own)
    assert (await draw(provider)).images
    await provider.aclose()
    assert by_url.requests == CALLS


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x.png", "x.png", "http://", "data:,x"])
async def test_no_other_address_is_opened(provider: DalleProvider, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    answered_with(monkeypatch, {"data": [{"url": url}]})
    told = await failure(provider)
    assert isinstance(told, JobError)
    assert told.details == {"reason": "not_fetched"}
    assert told.images == 1, "it was made, so it is paid"


async def test_a_service_behind_tls_cannot_send_to_plain_http(openai: OpenAIStandIn) -> None:
    provider = build({"DALLE_BASE_URL": "https://127.0.0.1/v1", "DALLE_API_KEY": "key"})
    with pytest.raises(_NotFetchedError, match="no https URL"):
        await provider._fetched(f"{openai.url}/files/0")
    assert openai.requests == []


async def test_a_file_is_bounded(
    provider: DalleProvider, by_url: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dalle, "_MAX_IMAGE_BYTES", 1000)
    told = await failure(provider)
    assert isinstance(told, JobError)
    assert "larger" in told.message


async def test_a_file_that_is_gone(
    provider: DalleProvider, openai: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered_with(monkeypatch, {"data": [{"url": f"{openai.url}/files/9/gone.png"}]})
    told = await failure(provider)
    assert isinstance(told, JobError)
    assert "404" in told.message
    answered_with(monkeypatch, {"data": [{"url": f"http://127.0.0.1:{free_port()}/x.png"}]})
    assert isinstance(await failure(provider), UnreachableError)


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        ("status_401", AuthenticationError, 401),
        ("status_404", ModelNotFoundError, 404),
        ("status_503", OverloadedError, 503),
        ("quota", RejectedError, 429),
        ("redirect", RejectedError, 307),
        ("cut", UnreachableError, None),
        ("image_refused", RefusedError, None),
        ("broken_image", JobError, None),
    ],
)
async def test_edits_fail_as_all_images_do(
    provider: DalleProvider, openai: OpenAIStandIn, fault: str, kind: type[ProviderError], status: int | None
) -> None:
    openai.fail(fault, task=IMAGES)
    told = await failure(provider, photo=Photo(PHOTO, "image/jpeg"))
    assert type(told) is kind
    assert told.status == status
    assert openai.requests == [("POST", "/v1/images/edits")]


async def test_no_means_left(provider: DalleProvider, openai: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = 400, error("Billing hard limit has been reached", "image_error", None, "billing_hard_limit_reached")
    monkeypatch.setattr(openai, "refusals", lambda fault: refusal)
    openai.fail("status_400", task=IMAGES)
    told = await failure(provider)
    assert isinstance(told, RejectedError)
    assert "billing" in told.hint
    assert "no means left" in told.message


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ([], ServerError),
        ({"data": "x"}, ServerError),
        ({"data": [{"b64_json": 7}]}, ServerError),
        ({"data": [{"b64_json": "***"}]}, ServerError),
        ({"data": None}, EmptyAnswerError),
        ({"data": []}, EmptyAnswerError),
        ({"data": [{}]}, EmptyAnswerError),
        ({}, EmptyAnswerError),
        ({"data": [{"b64_json": base64.b64encode(b"<svg xmlns='x'/>").decode()}]}, JobError),
        ({"data": [{"b64_json": base64.b64encode(b"GIF89a" + bytes(40)).decode()}]}, JobError),
    ],
)
async def test_strange_answers_are_typed_errors(
    provider: DalleProvider, monkeypatch: pytest.MonkeyPatch, body: Any, kind: type[ProviderError]
) -> None:
    answered_with(monkeypatch, body)
    told = await failure(provider)
    assert type(told) is kind
    assert "\n" not in told.message


@pytest.mark.parametrize("usage", ["many", [1], {"input_tokens": "7", "output_tokens": None}])
async def test_a_strange_usage_costs_no_image(
    provider: DalleProvider, monkeypatch: pytest.MonkeyPatch, usage: Any
) -> None:
    answered_with(monkeypatch, {"data": [{"b64_json": base64.b64encode(PHOTO).decode()}], "usage": usage})
    response = await draw(provider)
    assert response.usage == Usage()
    assert response.images[0].media_type == "image/jpeg"


async def test_what_was_paid_for_nothing_is_told(provider: DalleProvider, openai: OpenAIStandIn) -> None:
    openai.fail("broken_image", task=IMAGES)
    told = await failure(provider)
    assert isinstance(told, JobError)
    assert told.usage
    assert told.usage.completion_tokens == 1056
    assert told.details == {"reason": "not_an_image"}


# -- what is wrong before any call -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[], ["large"], ["1024x1024", "auto"], "1024x1024", 7, [1024]])
async def test_sizes_that_are_none(sizes: Any) -> None:
    with pytest.raises(ConfigError, match=r"models\.dalle\.test-image\.sizes"):
        await build({}, {"sizes": sizes}).check("hero", {"model": MODEL})


async def test_parameters_of_edits_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"models\.dalle\.test-image\.edit"):
        await build({}, {"edit": "high"}).check("hero", {"model": MODEL})


async def test_parameters_that_no_json_holds() -> None:
    provider = build({"DALLE_BASE_URL": f"http://127.0.0.1:{free_port()}", "DALLE_API_KEY": "key"}, {"style": {1, 2}})
    told = await failure(provider)
    assert isinstance(told, RejectedError)
    assert f"models.dalle.{MODEL}" in told.hint


# -- key and package ---------------------------------------------------------------------------------------------------


async def test_the_key_of_the_chat_provider_serves_as_well(openai: OpenAIStandIn) -> None:
    provider = build({"DALLE_BASE_URL": openai.url, "OPENAI_API_KEY": openai.key})
    assert (await draw(provider)).images
    await provider.aclose()
    own = build({"DALLE_BASE_URL": openai.url, "OPENAI_API_KEY": openai.key, "DALLE_API_KEY": "of-its-own"})
    told = await failure(own)
    await own.aclose()
    assert isinstance(told, AuthenticationError)
    assert "DALLE_API_KEY" in told.hint


async def test_variables_of_the_package_do_not_leak_in(
    monkeypatch: pytest.MonkeyPatch, provider: DalleProvider, openai: OpenAIStandIn
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "strange-organization")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "strange-project")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "strange-admin")
    monkeypatch.setenv("OPENAI_API_KEY", "strange-key")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer strange-header\nX-Strange: strange")
    assert (await draw(provider)).images
    assert "strange" not in str(openai.headers).lower()


# -- health ------------------------------------------------------------------------------------------------------------


async def test_preparing_asks_nothing(provider: DalleProvider, openai: OpenAIStandIn) -> None:
    await provider.prepare()
    assert openai.requests == []


async def test_health_and_diagnosis_only_list_the_models(provider: DalleProvider, openai: OpenAIStandIn) -> None:
    assert await provider.health_check()
    findings = await provider.diagnose([{"model": MODEL}, {"model": MODEL, "seed": 1}, {"model": "typo"}, {}])
    assert [(found.subject, found.state) for found in findings] == [
        ("dalle", "ok"),
        (f"dalle {MODEL}", "ok"),
        ("dalle typo", "warning"),
    ]
    assert set(openai.requests) == {("GET", "/v1/models")}


async def test_diagnosis_of_a_wrong_key(openai: OpenAIStandIn) -> None:
    provider = build({"DALLE_BASE_URL": openai.url, "DALLE_API_KEY": "wrong"})
    [finding] = await provider.diagnose([{"model": MODEL}])
    await provider.aclose()
    assert finding.state == "failed"
    assert "DALLE_API_KEY" in finding.remedy
