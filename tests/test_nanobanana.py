"""The Nano Banana provider against a stand-in that speaks Google's wire format."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import respx

from providers.base import GeneratedImage, ImageProviderResponse, Photo, ProviderConfig, Usage
from providers.errors import (
    AuthenticationError,
    ConfigError,
    EmptyAnswerError,
    OverloadedError,
    ProviderError,
    RefusedError,
    RejectedError,
)
from providers.llm.gemini import GeminiProvider
from providers.media.nanobanana import NanoBananaProvider
from tests.standins.google import KEY, RATIOS, GoogleStandIn
from tests.standins.pictures import drawn, mean_colour, picture_format, picture_size
from tests.standins.rented import IMAGES
from tests.waiting import until

MODEL = "test-image"
NOWHERE = "http://127.0.0.1:9"
BLUE = (40, 60, 180)


@pytest.fixture
async def provider(google: GoogleStandIn) -> AsyncIterator[NanoBananaProvider]:
    provider = make_provider(google.url)
    yield provider
    await provider.aclose()


def make_provider(
    url: str,
    *,
    key: str | None = KEY,
    spare_key: str | None = None,
    timeout: float = 10,
    model: dict[str, Any] | None = None,
) -> NanoBananaProvider:
    values = {
        "NANOBANANA_API_KEY": key,
        "NANOBANANA_BASE_URL": url,
        "NANOBANANA_TIMEOUT": str(timeout),
        "GOOGLE_API_KEY": spare_key,
    }
    return NanoBananaProvider(ProviderConfig("nanobanana", values, {MODEL: model} if model is not None else {}))


async def draw(
    provider: NanoBananaProvider, prompt: str = "이어폰 한 쌍, 흰 배경", **options: Any
) -> ImageProviderResponse:
    return await provider.generate(prompt, "product_shot", {"model": MODEL, **options})


async def one(provider: NanoBananaProvider, **options: Any) -> GeneratedImage:
    [image] = (await draw(provider, **options)).images
    return image


# -- an image ----------------------------------------------------------------------------------------------------------


async def test_an_image(provider: NanoBananaProvider, google: GoogleStandIn) -> None:
    response = await draw(provider, seed=11)
    [image] = response.images
    assert google.requests == [("POST", f"/v1beta/models/{MODEL}:generateContent")]
    assert google.headers[0]["x-goog-api-key"] == KEY
    body = google.images[0]
    assert body["contents"] == [{"role": "user", "parts": [{"text": "이어폰 한 쌍, 흰 배경"}]}]
    assert body["generationConfig"] == {"responseModalities": ["IMAGE"], "seed": 11}
    assert (image.width, image.height, image.media_type) == (1024, 1024, "image/png")
    assert picture_format(image.content) == "PNG"
    assert (response.provider, image.seed) == ("nanobanana", 11)
    assert image.meta["model"] == MODEL
    assert image.meta["prompt"] == "이어폰 한 쌍, 흰 배경"
    assert image.meta["seed_binds"] is False
    assert response.usage.prompt_tokens > 0


async def test_a_seed_is_drawn_and_fits_the_api(provider: NanoBananaProvider, google: GoogleStandIn) -> None:
    first, second = await one(provider), await one(provider)
    third = await one(provider, seed=2**40 + 5)
    assert first.seed != second.seed
    assert third.seed == 2**40 + 5
    sent = [body["generationConfig"]["seed"] for body in google.images]
    assert sent == [first.seed % 2**31, second.seed % 2**31, 5]


async def test_what_is_to_be_avoided_is_said_in_words(provider: NanoBananaProvider, google: GoogleStandIn) -> None:
    image = await one(provider, negative_prompt="글자, 손")
    text = google.images[0]["contents"][0]["parts"][-1]["text"]
    assert text.startswith("이어폰 한 쌍, 흰 배경\n")
    assert text.endswith("글자, 손")
    assert (image.meta["prompt"], image.meta["negative_prompt"]) == ("이어폰 한 쌍, 흰 배경", "글자, 손")


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
async def test_a_photo_goes_before_the_words(provider: NanoBananaProvider, google: GoogleStandIn, form: str) -> None:
    photo = Photo(drawn(600, 800, colour=BLUE, form=form), f"image/{form.lower()}")
    image = await one(provider, photo=photo)
    parts = google.images[0]["contents"][0]["parts"]
    assert [sorted(part) for part in parts] == [["inlineData"], ["text"]]
    assert parts[0]["inlineData"]["mime_type"] == photo.media_type  # so the SDK spells it; Google reads both
    assert google.photos == [photo.content]
    assert (image.width, image.height) == RATIOS["3:4"], "it follows the photo where no form is asked"
    assert all(abs(ours - asked) < 20 for ours, asked in zip(mean_colour(image.content), BLUE, strict=True))


# -- sizes -------------------------------------------------------------------------------------------------------------

SIZES: list[tuple[dict[str, Any], str]] = [
    *(({"aspect_ratio": name}, name) for name in RATIOS),
    *(({"width": width, "height": height}, name) for name, (width, height) in RATIOS.items()),
    ({"width": 1024, "height": 1024, "aspect_ratio": "16:9"}, "1:1"),
    ({"width": 860, "height": 1200}, "3:4"),
    ({"width": 1600, "height": 300}, "21:9"),
    ({"width": 300, "height": 1600}, "9:16"),
    ({"aspect_ratio": "2:1"}, "16:9"),
    ({"aspect_ratio": "1:2"}, "9:16"),
    ({"width": 1024, "aspect_ratio": "3:2"}, "3:2"),
    ({"height": 1024, "aspect_ratio": "2:3"}, "2:3"),
    ({"width": 1000}, "1:1"),
    ({"height": 1000}, "1:1"),
]


@pytest.mark.parametrize(("asked", "ratio"), SIZES)
async def test_the_nearest_ratio(
    provider: NanoBananaProvider, google: GoogleStandIn, asked: dict[str, Any], ratio: str
) -> None:
    image = await one(provider, **asked)
    assert google.images[0]["generationConfig"]["imageConfig"] == {"aspectRatio": ratio}
    assert (image.width, image.height) == RATIOS[ratio] == picture_size(image.content)
    assert image.meta["aspect_ratio"] == ratio


# -- the model and its own options -------------------------------------------------------------------------------------


async def test_options_of_the_model_go_into_the_request(google: GoogleStandIn) -> None:
    harm = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}]
    own = {"imageConfig": {"imageSize": "2K"}, "temperature": 0.4, "safetySettings": harm, "seed": None}
    provider = make_provider(google.url, model=own)
    image = await one(provider, aspect_ratio="16:9", seed=3)
    await provider.aclose()
    body = google.images[0]
    assert body["safetySettings"] == harm
    assert body["generationConfig"] == {
        "responseModalities": ["IMAGE"],
        "imageConfig": {"imageSize": "2K", "aspectRatio": "16:9"},
        "temperature": 0.4,
    }
    assert (image.width, image.height) == (2 * 1344, 2 * 768)


@pytest.mark.parametrize("own", [{"imageConfig": None}, {"imageConfig": {"aspectRatio": None}}])
async def test_null_is_never_sent(google: GoogleStandIn, own: dict[str, Any]) -> None:
    provider = make_provider(google.url, model=own)
    image = await one(provider, aspect_ratio="16:9", seed=3)
    await provider.aclose()
    assert google.images[0]["generationConfig"] == {"responseModalities": ["IMAGE"], "seed": 3}
    assert "aspect_ratio" not in image.meta


async def test_an_image_config_that_is_none() -> None:
    provider = make_provider(NOWHERE, model={"imageConfig": "2K"})
    with pytest.raises(ConfigError, match=rf"models\.nanobanana\.{MODEL}\.imageConfig"):
        await provider.check("hero", {"model": MODEL})


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "leaf", "status"),
    [
        ("status_401", AuthenticationError, 400),  # Google's status for a wrong key
        ("status_403", AuthenticationError, 403),
        ("quota", RejectedError, 429),
        ("refusal", RefusedError, None),
        ("refusal_prompt", RefusedError, None),
    ],
)
async def test_what_google_says_in_its_own_way(
    provider: NanoBananaProvider,
    google: GoogleStandIn,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    leaf: type[ProviderError],
    status: int | None,
) -> None:
    google.fail(fault, task=IMAGES)
    with pytest.raises(ProviderError) as caught:
        await draw(provider)
    assert (type(caught.value), caught.value.status) == (leaf, status)
    assert len(google.images) == 1, "one attempt is one request"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_google_tells_how_long_to_wait(provider: NanoBananaProvider, google: GoogleStandIn) -> None:
    google.retry_after = "34"
    google.fail("status_429", task=IMAGES)
    with pytest.raises(OverloadedError) as caught:
        await draw(provider)
    assert (caught.value.retry_after, caught.value.status) == (34.0, 429)


async def test_words_instead_of_an_image_are_told(provider: NanoBananaProvider, google: GoogleStandIn) -> None:
    google.fail("no_image", task=IMAGES)
    with pytest.raises(EmptyAnswerError, match="Here is how the picture might look") as caught:
        await draw(provider)
    assert caught.value.usage is not None
    assert caught.value.usage.prompt_tokens > 0


async def test_a_model_s_name_that_cannot_be_sent(provider: NanoBananaProvider, google: GoogleStandIn) -> None:
    with pytest.raises(RejectedError):
        await draw(provider, model="../files?x")
    assert google.requests == []


# -- answers that the stand-in does not write --------------------------------------------------------------------------


async def answered(answer: dict[str, Any]) -> ImageProviderResponse:
    """What the provider makes of this answer."""
    provider = make_provider(NOWHERE, timeout=33)
    with respx.mock(assert_all_called=True) as router:
        route = router.post(f"{NOWHERE}/v1beta/models/{MODEL}:generateContent").respond(json=answer)
        try:
            return await draw(provider)
        finally:
            await provider.aclose()
            assert route.call_count == 1, "one attempt is one request"
            limits = route.calls[0].request.extensions["timeout"]
            assert (limits["connect"], limits["read"]) == (5.0, 33.0), "not what the SDK would have set"


def picture(colour: tuple[int, int, int], **more: Any) -> dict[str, Any]:
    data = base64.b64encode(drawn(64, 32, colour=colour)).decode()
    return {"inlineData": {"mimeType": "image/png", "data": data}, **more}


def candidate(*parts: dict[str, Any], end: str = "STOP", **more: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, "finishReason": end, **more}]}


async def test_pictures_of_the_thinking_are_none() -> None:
    told = {"promptTokenCount": 9, "candidatesTokenCount": 1290, "thoughtsTokenCount": 100, "totalTokenCount": 1399}
    parts = [picture((0, 0, 0), thought=True), {"text": "자, 여기요."}, picture(BLUE)]
    response = await answered(candidate(*parts) | {"usageMetadata": told})
    assert [mean_colour(image.content)[2] > 100 for image in response.images] == [True]
    assert response.usage == Usage(prompt_tokens=9, completion_tokens=1390, total_tokens=1399)


@pytest.mark.parametrize(
    ("end", "leaf"),
    [
        ("IMAGE_SAFETY", RefusedError),
        ("IMAGE_PROHIBITED_CONTENT", RefusedError),
        ("IMAGE_RECITATION", RefusedError),
        ("PROHIBITED_CONTENT", RefusedError),
        ("NO_IMAGE", EmptyAnswerError),
        ("MAX_TOKENS", EmptyAnswerError),
        ("CONTINUATION", EmptyAnswerError),
        ("A_REASON_OF_TOMORROW", EmptyAnswerError),
    ],
)
async def test_every_end_without_an_image(end: str, leaf: type[ProviderError]) -> None:
    with pytest.raises(ProviderError, match=end) as caught:
        await answered(candidate(end=end, continuationToken="AAAA"))
    assert type(caught.value) is leaf
    assert caught.value.hint


async def test_a_prompt_blocked_for_a_reason_of_tomorrow() -> None:
    with pytest.raises(RefusedError, match="A_REASON_OF_TOMORROW"):
        await answered({"promptFeedback": {"blockReason": "A_REASON_OF_TOMORROW"}})


async def test_an_answer_of_nothing() -> None:
    with pytest.raises(EmptyAnswerError):
        await answered({})


# -- keys and packages -------------------------------------------------------------------------------------------------


async def test_the_key_of_the_chat_models_serves_too(google: GoogleStandIn) -> None:
    provider = make_provider(google.url, key=None, spare_key=KEY)
    await draw(provider)
    await provider.aclose()
    assert google.headers[0]["x-goog-api-key"] == KEY


async def test_its_own_key_comes_first(google: GoogleStandIn) -> None:
    provider = make_provider(google.url, key="AIza-somebody-else", spare_key=KEY)
    with pytest.raises(AuthenticationError) as caught:
        await draw(provider)
    await provider.aclose()
    assert "NANOBANANA_API_KEY" in caught.value.hint
    assert "AIza-somebody-else" not in f"{caught.value!r}{caught.value.hint}{provider.config!r}"


async def test_nothing_of_the_environment_leaks_in(
    google: GoogleStandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {
        "GOOGLE_API_KEY": "of-the-environment",
        "GEMINI_API_KEY": "of-the-environment",
        "GOOGLE_GENAI_USE_VERTEXAI": "true",
        "GOOGLE_CLOUD_PROJECT": "of-the-environment",
        "GOOGLE_GEMINI_BASE_URL": NOWHERE,
        "GOOGLE_GENAI_CLIENT_MODE": "replay",
    }.items():
        monkeypatch.setenv(name, value)
    provider = make_provider(google.url)
    await draw(provider)
    await provider.aclose()
    assert google.headers[0]["x-goog-api-key"] == KEY
    assert "of-the-environment" not in f"{google.headers}{google.images}"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_settings_are_declared_and_the_spare_key_is_the_chat_provider_s() -> None:
    assert [setting.name for setting in NanoBananaProvider.settings] == [
        "NANOBANANA_API_KEY",
        "NANOBANANA_BASE_URL",
        "NANOBANANA_DEFAULT_MODEL",
        "NANOBANANA_TIMEOUT",
        "GOOGLE_API_KEY",
    ]
    assert NanoBananaProvider.settings[-1] in GeminiProvider.settings


# -- connections -------------------------------------------------------------------------------------------------------


async def test_connections_are_kept_and_closed(provider: NanoBananaProvider, google: GoogleStandIn) -> None:
    await draw(provider)
    await draw(provider)
    assert google.connections_made == 1
    await provider.aclose()
    await until(lambda: google.open_connections == 0)


async def test_health_asks_for_the_list_alone(provider: NanoBananaProvider, google: GoogleStandIn) -> None:
    assert await provider.health_check()
    assert google.requests == [("GET", "/v1beta/models")]


async def test_prepare_asks_for_nothing(provider: NanoBananaProvider, google: GoogleStandIn) -> None:
    await provider.prepare()
    assert google.requests == []


async def test_diagnosis(provider: NanoBananaProvider, google: GoogleStandIn) -> None:
    found = await provider.diagnose([{"model": MODEL}, {"model": "test-unheard-of"}, {}])
    assert [(finding.subject, finding.state) for finding in found] == [
        ("nanobanana", "ok"),
        (f"nanobanana {MODEL}", "ok"),
        ("nanobanana test-unheard-of", "warning"),
    ]
    assert google.requests == [("GET", "/v1beta/models")]


async def test_diagnosis_of_a_wrong_key(google: GoogleStandIn) -> None:
    provider = make_provider(google.url, key=None, spare_key="AIza-somebody-else")
    [finding] = await provider.diagnose([{"model": MODEL}])
    assert not await provider.health_check()
    await provider.aclose()
    assert finding.state == "failed"
    assert "GOOGLE_API_KEY" in finding.remedy
