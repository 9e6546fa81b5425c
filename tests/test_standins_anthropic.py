"""Anthropic's own SDK vouches for the wire format of its stand-in: answers, streams, schemas, tools and faults."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic as anthropic_sdk
import httpx2
import pytest
from anthropic import Anthropic

from tests.standins.anthropic import AnthropicStandIn
from tests.standins.chat import Fault
from tests.waiting import NEVER_S

SCHEMA: dict[str, Any] = {
    "title": "Brief",
    "type": "object",
    "properties": {"target": {"type": "string"}, "ages": {"type": "array", "items": {"$ref": "#/$defs/Age"}}},
    "required": ["target", "ages"],
    "additionalProperties": False,
    "$defs": {"Age": {"type": "integer"}},
}
ANSWER = {"target": "출퇴근하는 직장인", "ages": [30, 40]}
WRITTEN = {"target": "target 예시 1", "ages": [1]}
"""What the stand-in makes up for SCHEMA."""
ASKED: dict[str, Any] = {
    "model": "test-large",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": '{"name": "컵"}'}],
}


@pytest.fixture
def client(anthropic: AnthropicStandIn) -> Iterator[Anthropic]:
    with Anthropic(base_url=anthropic.url, api_key=anthropic.key, max_retries=0, timeout=NEVER_S) as made:
        yield made


def formatted(**changes: Any) -> dict[str, Any]:
    return ASKED | {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA | changes}}}


def forced(**changes: Any) -> dict[str, Any]:
    tool = {"name": "brief", "strict": True, "input_schema": SCHEMA | changes}
    return ASKED | {"tools": [tool], "tool_choice": {"type": "tool", "name": "brief"}}


def read(client: Anthropic, asked: dict[str, Any] = ASKED) -> Any:
    """The message of a stream that was read to its end."""
    with client.messages.stream(**asked) as stream:
        return stream.get_final_message()


def test_answers_as_a_whole(anthropic: AnthropicStandIn, client: Anthropic) -> None:
    anthropic.answers.append("반갑습니다.")
    made: Any = client.messages.create(**ASKED)
    assert [block.text for block in made.content] == ["반갑습니다."]
    assert made.stop_reason == "end_turn"
    assert made.usage.input_tokens > 0 < made.usage.output_tokens
    assert made._request_id is not None
    assert anthropic.chats == [ASKED]
    assert anthropic.headers[0]["authorization"] == f"Bearer {anthropic.key}"


def test_streams(anthropic: AnthropicStandIn, client: Anthropic) -> None:
    anthropic.answers.append("반갑습니다. 오래 기다리셨습니다.")
    made = read(client)
    assert made.content[0].text == "반갑습니다. 오래 기다리셨습니다."
    assert made.stop_reason == "end_turn"
    assert made.usage.output_tokens > 1


def test_keeps_to_a_schema(anthropic: AnthropicStandIn, client: Anthropic) -> None:
    anthropic.answers_for["Brief"].append(ANSWER)
    assert [json.loads(read(client, formatted()).content[0].text) for _ in range(2)] == [ANSWER, WRITTEN]
    assert anthropic.by_task == {"Brief": 2}


def test_calls_a_tool(anthropic: AnthropicStandIn, client: Anthropic) -> None:
    anthropic.answers_for["Brief"].append(ANSWER)
    whole: Any = client.messages.create(**forced())
    for made, written in ((whole, ANSWER), (read(client, forced()), WRITTEN)):
        assert made.stop_reason == "tool_use"
        assert (made.content[0].name, made.content[0].input) == ("brief", written)
    assert anthropic.by_task == {"Brief": 2}


BROKEN_SCHEMAS: dict[str, dict[str, Any]] = {
    "'additionalProperties' must be explicitly set to false": {"additionalProperties": True},
    "For 'string' type, property 'minLength' is not supported": {
        "properties": {"a": {"type": "string", "minLength": 1}}
    },
    "properties maximum, minimum are not supported": {"$defs": {"A": {"type": "number", "minimum": 1, "maximum": 2}}},
    "'minItems' values other than 0 or 1": {"properties": {"a": {"type": "array", "minItems": 3}}},
    "property 'oneOf' is not supported": {"oneOf": [{"type": "null"}]},
}


@pytest.mark.parametrize("asked", [formatted, forced])
@pytest.mark.parametrize("words", BROKEN_SCHEMAS)
def test_refuses_a_schema_that_is_not_strict(client: Anthropic, words: str, asked: Any) -> None:
    with pytest.raises(anthropic_sdk.BadRequestError, match=words):
        read(client, asked(**BROKEN_SCHEMAS[words]))


BAD_REQUESTS: dict[str, dict[str, Any]] = {
    "seed: Extra inputs are not permitted": {"extra_body": {"seed": 1}},
    'Unexpected role "system"': {"messages": [{"role": "system", "content": "be brief"}]},
    "at least one message is required": {"messages": []},
    "text content blocks must be non-empty": {"messages": [{"role": "user", "content": ""}]},
    "prompt is too long: [0-9]+ tokens > 200000 maximum": {"messages": [{"role": "user", "content": "a" * 900_000}]},
}


@pytest.mark.parametrize("words", BAD_REQUESTS)
def test_refuses_what_messages_do_not_know(client: Anthropic, words: str) -> None:
    with pytest.raises(anthropic_sdk.BadRequestError, match=words):
        client.messages.create(**ASKED | BAD_REQUESTS[words])


def test_wants_a_limit_and_a_version(anthropic: AnthropicStandIn) -> None:
    headers = {"x-api-key": anthropic.key}
    versioned = headers | {"anthropic-version": "2023-06-01"}
    url = f"{anthropic.url}/v1/messages"
    assert "anthropic-version" in httpx2.post(url, headers=headers, json=ASKED).json()["error"]["message"]
    unlimited = httpx2.post(url, headers=versioned, json={"model": "test-large", "messages": []})
    assert (unlimited.status_code, unlimited.json()["error"]["message"]) == (400, "max_tokens: Field required")


def test_models(anthropic: AnthropicStandIn, client: Anthropic) -> None:
    assert [model.id for model in client.models.list()] == anthropic.models
    assert client.models.retrieve("test-small").id == "test-small"
    with pytest.raises(anthropic_sdk.NotFoundError):
        client.models.retrieve("unheard-of")
    with pytest.raises(anthropic_sdk.NotFoundError, match="unheard-of"):
        read(client, ASKED | {"model": "unheard-of"})
    with pytest.raises(anthropic_sdk.AuthenticationError):
        client.with_options(api_key="sk-wrong").models.list()


ERRORS: dict[Fault, tuple[type[anthropic_sdk.APIStatusError], int, str]] = {
    Fault.STATUS_400: (anthropic_sdk.BadRequestError, 400, "invalid_request_error"),
    Fault.STATUS_401: (anthropic_sdk.AuthenticationError, 401, "authentication_error"),
    Fault.STATUS_403: (anthropic_sdk.PermissionDeniedError, 403, "permission_error"),
    Fault.STATUS_404: (anthropic_sdk.NotFoundError, 404, "not_found_error"),
    Fault.STATUS_429: (anthropic_sdk.RateLimitError, 429, "rate_limit_error"),
    Fault.STATUS_500: (anthropic_sdk.InternalServerError, 500, "api_error"),
    Fault.STATUS_503: (anthropic_sdk.InternalServerError, 529, "overloaded_error"),
    Fault.QUOTA: (anthropic_sdk.BadRequestError, 400, "invalid_request_error"),
    Fault.CONTEXT_LENGTH: (anthropic_sdk.BadRequestError, 400, "invalid_request_error"),
    Fault.CONTENT_FILTER: (anthropic_sdk.BadRequestError, 400, "invalid_request_error"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ERRORS)
def test_errors(anthropic: AnthropicStandIn, client: Anthropic, fault: Fault, stream: bool) -> None:
    kind, status, name = ERRORS[fault]
    anthropic.retry_after = "7"
    anthropic.fail(fault)
    with pytest.raises(kind) as raised:
        client.messages.create(**ASKED, stream=stream)
    body: Any = raised.value.body
    assert (raised.value.status_code, body["type"], body["error"]["type"]) == (status, "error", name)
    assert raised.value.response.headers.get("retry-after") == ("7" if status in (429, 529) else None)


BROKEN: dict[Fault, type[Exception]] = {
    Fault.ERROR_LINE: anthropic_sdk.APIStatusError,
    Fault.HALF_JSON: json.JSONDecodeError,
    Fault.CUT: httpx2.RemoteProtocolError,
    Fault.REDIRECT: anthropic_sdk.NotFoundError,
}


@pytest.mark.parametrize("fault", BROKEN)
def test_streams_that_fail(anthropic: AnthropicStandIn, client: Anthropic, fault: Fault) -> None:
    anthropic.fail(fault)
    with pytest.raises(BROKEN[fault]):
        read(client)
    assert (("POST", "/elsewhere") in anthropic.requests) == (fault is Fault.REDIRECT), "this SDK follows it"


def test_texts_that_are_no_answer(anthropic: AnthropicStandIn, client: Anthropic) -> None:
    anthropic.answers.extend(["{}"] * len(TEXTS))
    anthropic.fail(*TEXTS)
    assert all(word in read(client).content[0].text for word in TEXTS.values())


def test_every_fault_is_in_a_table() -> None:
    assert {*ERRORS, *BROKEN, *ENDS, *SILENT, *TEXTS, Fault.MALFORMED, Fault.NONE} == AnthropicStandIn.faults


SILENT = [Fault.HANG, Fault.STALL]
TEXTS = {  # fault -> a word of its text
    Fault.PROSE_AROUND: "물론입니다",
    Fault.FENCED: "```json",
    Fault.THINK_TAGS: "<think>",
    Fault.WRONG_SHAPE: "unexpected",
}
ENDS: dict[Fault, tuple[str, str | None]] = {
    Fault.LENGTH: ("ab", "max_tokens"),
    Fault.NO_DONE: ("abcd", None),
    Fault.REFUSAL: ("", "refusal"),
    Fault.EMPTY: ("", "end_turn"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", ENDS)
def test_ends(anthropic: AnthropicStandIn, client: Anthropic, fault: Fault, stream: bool) -> None:
    anthropic.chunk_chars = 1
    anthropic.answers.append("abcd")
    anthropic.fail(fault)
    made: Any = read(client) if stream else client.messages.create(**ASKED)
    assert ("".join(block.text for block in made.content), made.stop_reason) == ENDS[fault]
    assert (made.stop_details is not None) == (fault is Fault.REFUSAL)


@pytest.mark.parametrize("fault", SILENT)
@pytest.mark.parametrize("stream", [True, False])
def test_silence(anthropic: AnthropicStandIn, client: Anthropic, fault: Fault, stream: bool) -> None:
    anthropic.fail(fault)
    kind = httpx2.ReadTimeout if stream and fault is Fault.STALL else anthropic_sdk.APITimeoutError
    with pytest.raises(kind):
        list(client.with_options(timeout=0.2).messages.create(**ASKED, stream=stream))


def test_a_page_of_html(anthropic: AnthropicStandIn, client: Anthropic) -> None:
    anthropic.fail(Fault.MALFORMED)
    with client.messages.create(**ASKED, stream=True) as stream:
        assert list(stream) == []
