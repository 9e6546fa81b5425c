"""Google's own SDK vouches for the wire format of its stand-in: answers, streams, schemas, tools, images and faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from google.genai import Client, errors, types

from tests.standins.chat import Fault
from tests.standins.google import GoogleStandIn
from tests.standins.pictures import drawn, mean_colour, picture_format, picture_size
from tests.standins.rented import IMAGES

SCHEMA: dict[str, Any] = {
    "title": "Brief",
    "type": "object",
    "properties": {"target": {"type": "string"}, "ages": {"type": "array", "items": {"$ref": "#/$defs/Age"}}},
    "required": ["target", "ages"],
    "$defs": {"Age": {"type": "integer", "minimum": 10}},
}
OPEN_SCHEMA: dict[str, Any] = {"title": "Brief", "type": "OBJECT", "properties": {"target": {"type": "STRING"}}}
"""As Google wrote schemas before it took JSON Schema."""
ANSWER = {"target": "출퇴근하는 직장인", "ages": [30, 40]}
WRITTEN = {"target": "target 예시 1", "ages": [10]}
"""What the stand-in makes up for SCHEMA."""
ASKED = '{"name": "컵"}'
RED = drawn(64, 36, colour=(220, 20, 20))


@pytest.fixture
def client(google: GoogleStandIn) -> Iterator[Client]:
    yield from made(google, google.key, timeout_ms=5000)


def made(google: GoogleStandIn, key: str, *, timeout_ms: int) -> Iterator[Client]:
    options = types.HttpOptions(
        base_url=google.url, timeout=timeout_ms, retry_options=types.HttpRetryOptions(attempts=1)
    )
    client = Client(api_key=key, http_options=options)
    yield client
    client.close()


def whole(client: Client, model: str = "test-large", **config: Any) -> types.GenerateContentResponse:
    return client.models.generate_content(model=model, contents=ASKED, config=config or None)  # type: ignore[arg-type]


def read(client: Client, **config: Any) -> list[types.GenerateContentResponse]:
    """The chunks of a stream that was read to its end."""
    asked: Any = config or None
    return list(client.models.generate_content_stream(model="test-large", contents=ASKED, config=asked))


def said(chunks: list[types.GenerateContentResponse]) -> tuple[str, str | None]:
    """Text and reason of the end."""
    candidates = [chunk.candidates[0] for chunk in chunks if chunk.candidates]
    reasons = [candidate.finish_reason.value for candidate in candidates if candidate.finish_reason]
    parts = [part for one in candidates if one.content for part in one.content.parts or ()]
    return "".join(part.text or "" for part in parts), reasons[-1] if reasons else None


def test_answers_as_a_whole(google: GoogleStandIn, client: Client) -> None:
    google.answers.append("반갑습니다.")
    answer = whole(client)
    assert said([answer]) == ("반갑습니다.", "STOP")
    assert answer.usage_metadata is not None
    assert answer.usage_metadata.total_token_count
    assert google.by_model == {"test-large": 1}
    assert google.headers[0]["x-goog-api-key"] == google.key
    assert google.requests == [("POST", "/v1beta/models/test-large:generateContent")]


def test_streams(google: GoogleStandIn, client: Client) -> None:
    google.answers.append("반갑습니다. 오래 기다리셨습니다.")
    chunks = read(client)
    assert said(chunks) == ("반갑습니다. 오래 기다리셨습니다.", "STOP")
    assert len(chunks) > 2
    assert chunks[-1].usage_metadata is not None


async def test_streams_to_an_async_client(google: GoogleStandIn) -> None:
    google.answers.append("반갑습니다. 오래 기다리셨습니다.")
    args = {"transport": httpx.AsyncHTTPTransport()}
    client = Client(api_key=google.key, http_options=types.HttpOptions(base_url=google.url, async_client_args=args)).aio
    stream = await client.models.generate_content_stream(model="test-large", contents=ASKED)
    assert said([chunk async for chunk in stream]) == ("반갑습니다. 오래 기다리셨습니다.", "STOP")
    await client.aclose()


JSON = "application/json"


def test_keeps_to_a_schema(google: GoogleStandIn, client: Client) -> None:
    google.answers_for["Brief"].append(ANSWER)
    config = {"response_mime_type": JSON, "response_json_schema": SCHEMA}
    assert [json.loads(said(read(client, **config))[0]) for _ in range(2)] == [ANSWER, WRITTEN]
    older = whole(client, response_mime_type=JSON, response_schema=OPEN_SCHEMA)
    assert json.loads(older.text or "") == {"target": "target 예시 1"}
    assert google.by_task == {"Brief": 3}


BAD_CONFIGS: dict[str, dict[str, Any]] = {
    "response mimetype: '' is unsupported": {"response_json_schema": SCHEMA},
    "Only one of": {"response_mime_type": JSON, "response_json_schema": SCHEMA, "response_schema": OPEN_SCHEMA},
    r"no other property may be set beside \$ref": {
        "response_mime_type": JSON,
        "response_json_schema": {"$ref": "#/$defs/A", "title": "A", "$defs": {"A": {"type": "string"}}},
    },
}


@pytest.mark.parametrize("words", BAD_CONFIGS)
def test_refuses_a_schema_that_does_not_fit(client: Client, words: str) -> None:
    with pytest.raises(errors.ClientError, match=words) as raised:
        whole(client, **BAD_CONFIGS[words])
    assert (raised.value.code, raised.value.status) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "seed"),
        ({"generationConfig": {"maxTokens": 1}}, "maxTokens"),
        (
            {"generationConfig": {"responseMimeType": JSON, "responseSchema": {"additionalProperties": False}}},
            "additionalProperties",
        ),
    ],
)
def test_refuses_a_field_that_is_unknown(google: GoogleStandIn, changes: dict[str, Any], name: str) -> None:
    url = f"{google.url}/v1beta/models/test-large:generateContent"
    body = {"contents": [{"parts": [{"text": ASKED}]}], **changes}
    answer = httpx.post(url, json=body, headers={"x-goog-api-key": google.key})
    assert answer.status_code == 400
    assert f'Unknown name "{name}"' in answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_calls_a_tool(google: GoogleStandIn, client: Client, stream: bool) -> None:
    google.answers_for["brief"].append(ANSWER)
    config: dict[str, Any] = {
        "tools": [
            {"function_declarations": [{"name": "brief", "parameters_json_schema": SCHEMA | {"title": "brief"}}]}
        ],
        "tool_config": {"function_calling_config": {"mode": "ANY", "allowed_function_names": ["brief"]}},
    }
    chunks = read(client, **config) if stream else [whole(client, **config)]
    calls = [call for chunk in chunks for call in chunk.function_calls or ()]
    assert [(call.name, call.args) for call in calls] == [("brief", ANSWER)]
    assert google.by_task == {"brief": 1}


def test_models(google: GoogleStandIn, client: Client) -> None:
    assert [model.name for model in client.models.list()] == [f"models/{name}" for name in google.models]
    assert client.models.get(model="test-small").input_token_limit == 1_048_576
    with pytest.raises(errors.ClientError) as raised:
        whole(client, model="unheard-of")
    assert (raised.value.code, raised.value.status) == (404, "NOT_FOUND")


def reasons(error: errors.APIError) -> list[Any]:
    body: Any = error.details
    listed: list[Any] = body["error"].get("details", [])
    return listed


def test_a_wrong_key(google: GoogleStandIn) -> None:
    for client in made(google, "AIzaWrong", timeout_ms=5000):
        with pytest.raises(errors.ClientError) as raised:
            whole(client)
    assert raised.value.code == 400
    assert reasons(raised.value)[0]["reason"] == "API_KEY_INVALID"
    no_key = httpx.get(f"{google.url}/v1beta/models")
    assert (no_key.status_code, no_key.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


ERRORS: dict[Fault, tuple[type[errors.APIError], int, str]] = {
    Fault.STATUS_400: (errors.ClientError, 400, "INVALID_ARGUMENT"),
    Fault.STATUS_401: (errors.ClientError, 400, "INVALID_ARGUMENT"),
    Fault.STATUS_403: (errors.ClientError, 403, "PERMISSION_DENIED"),
    Fault.STATUS_404: (errors.ClientError, 404, "NOT_FOUND"),
    Fault.STATUS_429: (errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
    Fault.STATUS_500: (errors.ServerError, 500, "INTERNAL"),
    Fault.STATUS_503: (errors.ServerError, 503, "UNAVAILABLE"),
    Fault.QUOTA: (errors.ClientError, 429, "RESOURCE_EXHAUSTED"),
    Fault.CONTEXT_LENGTH: (errors.ClientError, 400, "INVALID_ARGUMENT"),
}


@pytest.mark.parametrize("ask", [read, whole])
@pytest.mark.parametrize("fault", ERRORS)
def test_errors(google: GoogleStandIn, client: Client, fault: Fault, ask: Any) -> None:
    kind, status, name = ERRORS[fault]
    google.retry_after = "7"
    google.fail(fault)
    with pytest.raises(kind) as raised:
        ask(client)
    assert (raised.value.code, raised.value.status) == (status, name)
    delays = [detail["retryDelay"] for detail in reasons(raised.value) if "retryDelay" in detail]
    assert delays == (["7s"] if fault is Fault.STATUS_429 else [])


BROKEN: dict[Fault, type[Exception]] = {
    Fault.ERROR_LINE: errors.ServerError,
    Fault.HALF_JSON: errors.UnknownApiResponseError,
    Fault.CUT: httpx.RemoteProtocolError,
    Fault.MALFORMED: errors.UnknownApiResponseError,
    Fault.REDIRECT: errors.ClientError,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_streams_that_fail(google: GoogleStandIn, client: Client, fault: Fault) -> None:
    google.fail(fault)
    with pytest.raises(BROKEN[fault]):
        read(client)
    assert (("POST", "/elsewhere") in google.requests) == (fault is Fault.REDIRECT), "this SDK follows it"


def test_texts_that_are_no_answer(google: GoogleStandIn, client: Client) -> None:
    google.answers.extend(["{}"] * len(TEXTS))
    google.fail(*TEXTS)
    assert all(word in said(read(client))[0] for word in TEXTS.values())


def test_every_fault_is_in_a_table() -> None:
    of_images = {Fault.IMAGE_REFUSED, Fault.IMAGE_PROHIBITED, Fault.NO_IMAGE, Fault.BROKEN_IMAGE}
    assert {*ERRORS, *BROKEN, *ENDS, *SILENT, *TEXTS, *of_images, Fault.NONE} == GoogleStandIn.faults


SILENT = [Fault.HANG, Fault.STALL]
TEXTS = {  # fault -> a word of its text
    Fault.PROSE_AROUND: "물론입니다",
    Fault.FENCED: "```json",
    Fault.THINK_TAGS: "<think>",
    Fault.WRONG_SHAPE: "unexpected",
}
ENDS: dict[Fault, tuple[str, str | None]] = {
    Fault.LENGTH: ("ab", "MAX_TOKENS"),
    Fault.CONTENT_FILTER: ("ab", "PROHIBITED_CONTENT"),
    Fault.NO_DONE: ("abcd", None),
    Fault.REFUSAL: ("", "SAFETY"),
    Fault.REFUSAL_PROMPT: ("", None),
    Fault.EMPTY: ("", "STOP"),
}


@pytest.mark.parametrize("ask", [read, whole])
@pytest.mark.parametrize("fault", ENDS)
def test_ends(google: GoogleStandIn, client: Client, fault: Fault, ask: Any) -> None:
    google.chunk_chars = 1
    google.answers.append("abcd")
    google.fail(fault)
    answer = ask(client)
    chunks = answer if isinstance(answer, list) else [answer]
    assert said(chunks) == ENDS[fault]
    assert (chunks[-1].prompt_feedback is not None) == (fault is Fault.REFUSAL_PROMPT)


@pytest.mark.parametrize("ask", [read, whole])
@pytest.mark.parametrize("fault", SILENT)
def test_silence(google: GoogleStandIn, fault: Fault, ask: Any) -> None:
    google.fail(fault)
    for client in made(google, google.key, timeout_ms=200):
        with pytest.raises(httpx.ReadTimeout):
            ask(client)


# -- images ------------------------------------------------------------------------------------------------------------


def draw(client: Client, *contents: Any, **config: Any) -> types.GenerateContentResponse:
    asked: Any = {"response_modalities": ["TEXT", "IMAGE"], "image_config": config or None}
    given: Any = ["컵", *contents]
    return client.models.generate_content(model="test-image", contents=given, config=asked)


def pictures(answer: types.GenerateContentResponse) -> list[bytes]:
    return [part.inline_data.data or b"" for part in answer.parts or () if part.inline_data]


def test_draws(google: GoogleStandIn, client: Client) -> None:
    (picture,) = pictures(draw(client, aspect_ratio="3:4"))
    assert (picture_format(picture), picture_size(picture)) == ("PNG", (864, 1184))
    assert google.images[0]["generationConfig"]["imageConfig"] == {"aspectRatio": "3:4"}
    assert google.chats == []
    with pytest.raises(errors.ClientError, match="aspect_ratio must be one of"):
        draw(client, aspect_ratio="7:1")


def test_draws_from_a_photo(google: GoogleStandIn, client: Client) -> None:
    (picture,) = pictures(draw(client, types.Part.from_bytes(data=RED, mime_type="image/png")))
    red, green, _ = mean_colour(picture)
    assert red > 2 * green, "drawn from the photo"
    assert picture_size(picture) == (1344, 768), "of the photo's shape"
    assert google.photos == [RED]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.IMAGE_REFUSED, "IMAGE_SAFETY"),
        (Fault.IMAGE_PROHIBITED, "PROHIBITED_CONTENT"),
        (Fault.NO_IMAGE, "STOP"),
        (Fault.REFUSAL_PROMPT, None),
    ],
)
def test_declines_to_draw(google: GoogleStandIn, client: Client, fault: Fault, reason: str | None) -> None:
    google.fail(fault, task=IMAGES)
    answer = draw(client)
    assert (pictures(answer), said([answer])[1]) == ([], reason)


def test_images_that_are_none(google: GoogleStandIn, client: Client) -> None:
    google.fail(Fault.BROKEN_IMAGE, Fault.STATUS_429, Fault.CUT, task=IMAGES)
    (broken,) = pictures(draw(client))
    assert picture_format(broken) is None
    for kind in (errors.ClientError, httpx.RemoteProtocolError):
        with pytest.raises(kind):
            draw(client)
