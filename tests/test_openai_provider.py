"""What is OpenAI's own; what every provider does is in tests/test_chat_contract.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from providers.base import LLMProviderResponse, ProviderConfig
from providers.errors import RefusedError, RejectedError, TruncatedAnswerError
from providers.llm._schema import strict_schema
from providers.llm.openai import OpenAIProvider
from tests.standins.openai import OpenAIStandIn
from tests.standins.openai_images import error

MODEL = "test-large"


@asynccontextmanager
async def provider_of(server: OpenAIStandIn, **own: Any) -> AsyncGenerator[OpenAIProvider, None]:
    values = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": server.key, "OPENAI_TIMEOUT": "10"}
    provider = OpenAIProvider(ProviderConfig("openai", values, {MODEL: own}))
    yield provider
    await provider.aclose()


async def ask(provider: OpenAIProvider, mode: str = "chat", **options: Any) -> LLMProviderResponse:
    return await provider.generate("Answer in JSON.", "brief", "free words", mode, {"model": MODEL, **options})


async def test_the_model_s_own_parameters_are_sent_beneath_the_asked_ones_and_null_never(openai: OpenAIStandIn) -> None:
    own: dict[str, Any] = {
        "reasoning_effort": "low",
        "temperature": None,
        "max_completion_tokens": 99,
        "service_tier": "flex",
    }
    async with provider_of(openai, **own) as provider:
        await ask(provider, temperature=0.8, seed=5)
        await ask(provider, max_tokens=7)
    first, second = openai.chats
    assert (first["reasoning_effort"], first["service_tier"], first["seed"]) == ("low", "flex", 5)
    assert (first["max_completion_tokens"], second["max_completion_tokens"]) == (99, 7)
    assert "temperature" not in first
    assert "max_tokens" not in first


async def test_an_answer_is_always_bounded(openai: OpenAIStandIn) -> None:
    async with provider_of(openai) as provider:
        await ask(provider)
        openai.fail("length")
        with pytest.raises(TruncatedAnswerError) as caught:
            await ask(provider)
    assert openai.chats[0]["max_completion_tokens"] > 0
    assert f"models.openai.{MODEL}.max_completion_tokens" in caught.value.hint


async def test_a_server_that_knows_the_older_word_for_the_limit_hears_that_alone(openai: OpenAIStandIn) -> None:
    async with provider_of(openai, max_tokens=900) as provider:
        await ask(provider)
        await ask(provider, max_tokens=70)
    assert [(body.get("max_tokens"), "max_completion_tokens" in body) for body in openai.chats] == [
        (900, False),
        (70, False),
    ]


async def test_a_parameter_that_a_model_does_not_take_is_told_with_what_leaves_it_out(
    openai: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "Unsupported value: 'temperature' does not support 0.7 with this model."
    refusal = 400, error(words, param="temperature", code="unsupported_value")
    monkeypatch.setattr(openai, "refusals", lambda _: refusal)
    openai.fail("status_400")
    async with provider_of(openai) as provider:
        with pytest.raises(RejectedError, match="does not support") as caught:
            await ask(provider, temperature=0.7)
    assert "`temperature: null` under `models.openai.test-large`" in caught.value.hint


async def test_json_without_a_schema_is_an_object(openai: OpenAIStandIn) -> None:
    async with provider_of(openai) as provider:
        await ask(provider, "json")
    assert openai.chats[0]["response_format"] == {"type": "json_object"}


async def test_a_schema_of_free_form_is_sent_without_strictness(openai: OpenAIStandIn) -> None:
    schema = {"title": "Free", "type": "object", "properties": {"more": {"type": "object"}}}
    async with provider_of(openai) as provider:
        openai.answers.append({"more": {}})
        await ask(provider, "json", json_schema=schema)
    assert openai.chats[0]["response_format"]["json_schema"] == {"name": "Free", "schema": schema, "strict": False}


async def test_the_words_of_a_refusal_are_told(openai: OpenAIStandIn) -> None:
    async with provider_of(openai) as provider:
        openai.fail("refusal")
        with pytest.raises(RefusedError, match="can't help with that request"):
            await ask(provider)


async def test_tools_that_are_none_are_refused_before_or_by_the_service(openai: OpenAIStandIn) -> None:
    async with provider_of(openai) as provider:
        openai.fail("status_400")
        with pytest.raises(RejectedError):
            await ask(provider, "tools", tools=[{"type": "function", "function": {"name": "f"}}])


async def test_nothing_of_the_environment_leaks_in(openai: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "OPENAI_API_BASE": "http://127.0.0.1:9/elsewhere",
        "OPENAI_ORG_ID": "org-leak",
        "OPENAI_PROJECT_ID": "proj-leak",
        "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer leak",
        "OPENAI_PROXY": "http://127.0.0.1:9",
        "LANGSMITH_GATEWAY": "true",
        "LANGCHAIN_OPENAI_STREAM_CHUNK_TIMEOUT_S": "0.0001",
    }.items():
        monkeypatch.setenv(name, value)
    openai.token_delay_s = 0.002
    async with provider_of(openai) as provider:
        response = await ask(provider)
    assert response.output.content
    assert "leak" not in str(openai.headers)


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {}}, None),
        ({"type": "object", "properties": {"a": {}}}, None),
        ({"type": "array", "items": {"type": "object"}}, None),
        (
            {"type": "object", "properties": {"a": {"type": "string", "minLength": 1, "default": "x"}}},
            {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "required": ["a"],
                "additionalProperties": False,
            },
        ),
        (
            {
                "type": "array",
                "items": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/A"}]},
                "$defs": {"A": {"enum": [1]}},
            },
            {
                "type": "array",
                "items": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/A"}]},
                "$defs": {"A": {"enum": [1]}},
            },
        ),
    ],
)
def test_strict_schemas_are_closed_and_hold_known_keywords_alone(
    schema: Mapping[str, Any], strict: Mapping[str, Any] | None
) -> None:
    assert strict_schema(schema, {"type", "enum", "$ref"}) == strict
