"""OpenAI's own SDK vouches for the wire format of its stand-in: answers, streams, schemas, tools, images and faults."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai as openai_sdk
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.standins.chat import Fault
from tests.standins.openai import DECLINED, OpenAIStandIn
from tests.standins.pictures import drawn, mean_colour, picture_format, picture_size
from tests.standins.rented import IMAGES
from tests.waiting import NEVER_S, until

SCHEMA: dict[str, Any] = {
    "title": "Brief",
    "type": "object",
    "properties": {"target": {"type": "string"}, "ages": {"type": "array", "items": {"$ref": "#/$defs/Age"}}},
    "required": ["target", "ages"],
    "additionalProperties": False,
    "$defs": {"Age": {"type": "integer", "minimum": 10}},
}
ANSWER = {"target": "출퇴근하는 직장인", "ages": [30, 40]}
ASKED: list[Any] = [{"role": "user", "content": 'JSON, please: {"name": "컵"}'}]
WRITTEN = {"target": "target 예시 1", "ages": [10]}
"""What the stand-ins make up for SCHEMA."""
RED = drawn(64, 48, colour=(220, 20, 20))
"""A photo that can be told from what the stand-ins draw by themselves."""

BROKEN_SCHEMAS = {
    "an open object": {"additionalProperties": True},
    "a property that may be left out": {"required": ["target"]},
    "a length": {"properties": {"target": {"type": "string", "minLength": 1}, "ages": {"type": "null"}}},
    "a default": {"properties": {"target": {"type": "string", "default": ""}, "ages": {"type": "null"}}},
    "no object": {"type": "array", "items": {"type": "string"}},
}


@pytest.fixture
def client(openai: OpenAIStandIn) -> Iterator[OpenAI]:
    with OpenAI(base_url=openai.url, api_key=openai.key, max_retries=0, timeout=NEVER_S) as client:
        yield client


def strict(**changes: Any) -> Any:
    asked = {"name": "Brief", "strict": True, "schema": SCHEMA | changes}
    return {"type": "json_schema", "json_schema": asked}


def read(client: OpenAI, **more: Any) -> tuple[str, str | None, Any]:
    """Text, reason of the end and usage of a stream that was read to its end."""
    options: Any = {"include_usage": True}
    text, reason, usage = "", None, None
    with client.chat.completions.create(
        model="test-large", messages=ASKED, stream=True, stream_options=options, **more
    ) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or choice.delta.refusal or ""
                reason = choice.finish_reason or reason
    return text, reason, usage


def test_answers_as_a_whole(openai: OpenAIStandIn, client: OpenAI) -> None:
    openai.answers.append("반갑습니다.")
    made = client.chat.completions.create(model="test-large", messages=ASKED)
    assert made.choices[0].message.content == "반갑습니다."
    assert made.choices[0].finish_reason == "stop"
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens > 0
    assert made._request_id is not None
    assert openai.by_model == {"test-large": 1}
    assert openai.headers[0]["authorization"] == f"Bearer {openai.key}"


def test_streams(openai: OpenAIStandIn, client: OpenAI) -> None:
    openai.answers.append("반갑습니다. 오래 기다리셨습니다.")
    text, reason, usage = read(client)
    assert (text, reason) == ("반갑습니다. 오래 기다리셨습니다.", "stop")
    assert usage.completion_tokens > 1


def test_keeps_to_a_schema(openai: OpenAIStandIn, client: OpenAI) -> None:
    openai.answers_for["Brief"].append(ANSWER)
    text, _, _ = read(client, response_format=strict())
    assert json.loads(text) == ANSWER
    text, _, _ = read(client, response_format=strict())
    assert json.loads(text) == WRITTEN
    assert openai.by_task == {"Brief": 2}


@pytest.mark.parametrize("changes", BROKEN_SCHEMAS.values(), ids=BROKEN_SCHEMAS)
def test_refuses_a_schema_that_is_not_strict(client: OpenAI, changes: dict[str, Any]) -> None:
    with pytest.raises(openai_sdk.BadRequestError, match="Invalid schema for response_format 'Brief'"):
        read(client, response_format=strict(**changes))


def tools(**changes: Any) -> Any:
    return [{"type": "function", "function": {"name": "brief", "strict": True, "parameters": SCHEMA | changes}}]


def test_calls_a_tool(openai: OpenAIStandIn, client: OpenAI) -> None:
    openai.answers_for["Brief"].append(ANSWER)
    with client.chat.completions.stream(model="test-large", messages=ASKED, tools=tools()) as stream:
        made = stream.get_final_completion()
    whole = client.chat.completions.create(model="test-large", messages=ASKED, tools=tools())
    for completion, written in ((made, ANSWER), (whole, WRITTEN)):
        choice: Any = completion.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls[0].function.name == "brief"
        assert json.loads(choice.message.tool_calls[0].function.arguments) == written


def test_refuses_a_tool_that_is_not_strict(client: OpenAI) -> None:
    with pytest.raises(openai_sdk.BadRequestError, match="Invalid schema for function 'brief'"):
        read(client, tools=tools(additionalProperties=True))


ERRORS: dict[Fault, tuple[type[openai_sdk.APIError], str | None]] = {
    Fault.STATUS_400: (openai_sdk.BadRequestError, "invalid_value"),
    Fault.STATUS_401: (openai_sdk.AuthenticationError, "invalid_api_key"),
    Fault.STATUS_403: (openai_sdk.PermissionDeniedError, "unsupported_country_region_territory"),
    Fault.STATUS_404: (openai_sdk.NotFoundError, "model_not_found"),
    Fault.STATUS_429: (openai_sdk.RateLimitError, "rate_limit_exceeded"),
    Fault.STATUS_500: (openai_sdk.InternalServerError, None),
    Fault.STATUS_503: (openai_sdk.InternalServerError, None),
    Fault.QUOTA: (openai_sdk.RateLimitError, "insufficient_quota"),
    Fault.CONTEXT_LENGTH: (openai_sdk.BadRequestError, "context_length_exceeded"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ERRORS)
def test_errors(openai: OpenAIStandIn, client: OpenAI, fault: Fault, stream: bool) -> None:
    kind, code = ERRORS[fault]
    openai.retry_after = "7"
    openai.fail(fault)
    with pytest.raises(kind) as raised:
        client.chat.completions.create(model="test-large", messages=ASKED, stream=stream)
    assert raised.value.code == code
    assert isinstance(raised.value, openai_sdk.APIStatusError)
    limited = fault in (Fault.STATUS_429, Fault.STATUS_503, Fault.QUOTA)
    assert raised.value.response.headers.get("retry-after") == ("7" if limited else None)


BROKEN: dict[Fault, type[Exception]] = {
    Fault.ERROR_LINE: openai_sdk.APIError,
    Fault.HALF_JSON: json.JSONDecodeError,
    Fault.CUT: openai_sdk.APIConnectionError,
    Fault.REDIRECT: openai_sdk.NotFoundError,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_streams_that_fail(openai: OpenAIStandIn, client: OpenAI, fault: Fault) -> None:
    openai.fail(fault)
    with pytest.raises(BROKEN[fault]):
        read(client)
    assert (("POST", "/elsewhere") in openai.requests) == (fault is Fault.REDIRECT), "this SDK follows it"


def test_texts_that_are_no_answer(openai: OpenAIStandIn, client: OpenAI) -> None:
    openai.answers.extend(["{}"] * len(TEXTS))
    openai.fail(*TEXTS)
    assert all(word in read(client)[0] for word in TEXTS.values())


def test_every_fault_is_in_a_table(openai: OpenAIStandIn) -> None:
    assert {*ERRORS, *BROKEN, *ENDS, *SILENT, *TEXTS, *OF_IMAGES, Fault.NONE} == openai.faults
    with pytest.raises(ValueError, match="knows no fault 'refusal_prompt'"):
        openai.fail(Fault.REFUSAL_PROMPT)


SILENT = [Fault.HANG, Fault.STALL]
TEXTS = {  # fault -> a word of its text
    Fault.PROSE_AROUND: "물론입니다",
    Fault.FENCED: "```json",
    Fault.THINK_TAGS: "<think>",
    Fault.WRONG_SHAPE: "unexpected",
}
OF_IMAGES = {Fault.IMAGE_REFUSED, Fault.IMAGE_PROHIBITED, Fault.NO_IMAGE, Fault.BROKEN_IMAGE}
ENDS = {
    Fault.LENGTH: ("ab", "length"),
    Fault.CONTENT_FILTER: ("ab", "content_filter"),
    Fault.NO_DONE: ("abcd", None),
    Fault.REFUSAL: (DECLINED, "stop"),
    Fault.EMPTY: ("", "stop"),
    Fault.MALFORMED: ("", None),
}


@pytest.mark.parametrize("fault", ENDS)
def test_ends(openai: OpenAIStandIn, client: OpenAI, fault: Fault) -> None:
    openai.chunk_chars = 1
    openai.answers.append("abcd")
    openai.fail(fault)
    assert read(client)[:2] == ENDS[fault]


@pytest.mark.parametrize("fault", SILENT)
@pytest.mark.parametrize("stream", [True, False])
def test_silence(openai: OpenAIStandIn, client: OpenAI, fault: Fault, stream: bool) -> None:
    openai.fail(fault)
    hasty = client.with_options(timeout=0.2)
    with pytest.raises(openai_sdk.APITimeoutError):
        list(hasty.chat.completions.create(model="test-large", messages=ASKED, stream=stream))


def test_models(openai: OpenAIStandIn, client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == openai.models
    assert client.models.retrieve("test-small").id == "test-small"
    with pytest.raises(openai_sdk.NotFoundError) as raised:
        client.models.retrieve("unheard-of")
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai_sdk.AuthenticationError):
        client.with_options(api_key="sk-wrong").models.list()


def test_draws(openai: OpenAIStandIn, client: OpenAI) -> None:
    made = client.images.generate(model="test-image", prompt="컵", size="1536x1024", output_format="jpeg")
    assert made.data is not None
    assert made.usage is not None
    picture = base64.b64decode(made.data[0].b64_json or "")
    assert (picture_format(picture), picture_size(picture), made.size) == ("JPEG", (1536, 1024), "1536x1024")
    assert openai.images == [{"model": "test-image", "prompt": "컵", "size": "1536x1024", "output_format": "jpeg"}]


def test_edits_a_photo(openai: OpenAIStandIn, client: OpenAI) -> None:
    made = client.images.edit(model="test-image", prompt="컵", image=[("cup.png", RED, "image/png")])
    assert made.data is not None
    assert openai.photos == [RED]
    red, green, _ = mean_colour(base64.b64decode(made.data[0].b64_json or ""))
    assert red > 2 * green, "drawn from the photo"


BAD_IMAGE_CALLS: dict[str, dict[str, Any]] = {
    "invalid_value": {"size": "999x999"},
    "unknown_parameter": {"response_format": "b64_json"},
}


@pytest.mark.parametrize("code", BAD_IMAGE_CALLS)
def test_refuses_what_an_image_model_does_not_know(client: OpenAI, code: str) -> None:
    with pytest.raises(openai_sdk.BadRequestError) as raised:
        client.images.generate(model="test-image", prompt="컵", **BAD_IMAGE_CALLS[code])
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("photo", "kind", "code"),
    [
        (RED, "application/octet-stream", "unsupported_file_mimetype"),
        (b"no picture", "image/png", "invalid_image_file"),
    ],
)
def test_refuses_a_file_that_is_no_photo(client: OpenAI, photo: bytes, kind: str, code: str) -> None:
    with pytest.raises(openai_sdk.BadRequestError) as raised:
        client.images.edit(model="test-image", prompt="컵", image=("cup.png", photo, kind))
    assert raised.value.code == code


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault.IMAGE_REFUSED, "moderation_blocked"), (Fault.IMAGE_PROHIBITED, "content_policy_violation")],
)
def test_declines_to_draw(openai: OpenAIStandIn, client: OpenAI, fault: Fault, code: str) -> None:
    openai.fail(fault, task=IMAGES)
    with pytest.raises(openai_sdk.BadRequestError) as raised:
        client.images.generate(model="test-image", prompt="컵")
    assert raised.value.code == code


def test_images_that_are_none(openai: OpenAIStandIn, client: OpenAI) -> None:
    openai.fail(Fault.NO_IMAGE, Fault.BROKEN_IMAGE, Fault.STATUS_429, Fault.CUT, Fault.HALF_JSON, task=IMAGES)
    assert client.images.generate(model="test-image", prompt="컵").data == []
    broken = client.images.generate(model="test-image", prompt="컵").data
    assert broken is not None
    assert picture_format(base64.b64decode(broken[0].b64_json or "")) is None
    for kind in (openai_sdk.RateLimitError, openai_sdk.APIConnectionError, json.JSONDecodeError):
        with pytest.raises(kind):
            client.images.generate(model="test-image", prompt="컵")


def test_images_by_url(openai: OpenAIStandIn, client: OpenAI) -> None:
    openai.images_always_b64 = False
    openai.image_sizes = None
    by_url = client.images.generate(model="test-image", prompt="컵", size="64x32")
    in_line = client.images.generate(model="test-image", prompt="컵", response_format="b64_json", size="64x32")
    assert by_url.data is not None
    assert in_line.data is not None
    fetched = httpx.get(by_url.data[0].url or "").content
    assert fetched == base64.b64decode(in_line.data[0].b64_json or "")
    assert picture_size(fetched) == (64, 32)


async def test_a_client_that_leaves_is_let_go(openai: OpenAIStandIn) -> None:
    openai.fail(Fault.HANG)
    async with AsyncOpenAI(base_url=openai.url, api_key=openai.key, max_retries=0) as client:
        call = asyncio.create_task(client.chat.completions.create(model="test-large", messages=ASKED))
        await until(lambda: openai.active == 1)
        assert openai.open_connections == 1
        call.cancel()
        await until(lambda: openai.active == openai.open_connections == 0)
    assert openai.most_active == 1
