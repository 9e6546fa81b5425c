"""The Anthropic provider against a stand-in that speaks Anthropic's wire format."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from providers.base import LLMChunk, LLMProviderResponse, ProviderConfig, Usage
from providers.errors import (
    AuthenticationError,
    ConfigError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
    ProviderError,
    RefusedError,
    RejectedError,
    ServerError,
    SparklioError,
    TruncatedAnswerError,
)
from providers.llm.anthropic import AnthropicProvider
from routing import artifacts
from tests.standins.anthropic import AnthropicStandIn
from tests.standins.chat import Body, Fault
from tests.standins.rented import Refusal, Reply, sse
from tests.standins.server import free_port

ROOT = Path(__file__).parents[1]
MODEL = "test-large"
SCHEMA = artifacts.Summary.model_json_schema()
FREE_FORM = {"title": "Facts", "type": "object", "properties": {"facts": {"type": "object"}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "looks a fact up",
        "parameters": {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]},
    },
}


class Odd(AnthropicStandIn):
    """Ends its answers with these events instead of its own, breaks them off so, or refuses so."""

    ends: tuple[Body, ...] = ()
    breaks: Body | None = None
    refusing: Refusal | None = None

    def closing(self, reply: Reply) -> Iterator[bytes]:
        yield from (sse(event, event["type"]) for event in self.ends)

    def error_event(self) -> bytes:
        return sse(self.breaks, "error")

    def refusals(self, fault: Fault) -> Refusal | None:
        return self.refusing


@pytest.fixture
def odd() -> Iterator[Odd]:
    with Odd() as server:
        yield server


@pytest.fixture
async def provider(anthropic: AnthropicStandIn) -> AsyncIterator[AnthropicProvider]:
    async with aclosing(make_provider(anthropic.url, anthropic.key)) as provider:
        yield provider


@pytest.fixture
async def at_odd(odd: Odd) -> AsyncIterator[AnthropicProvider]:
    async with aclosing(make_provider(odd.url, odd.key)) as provider:
        yield provider


def make_provider(
    url: str, key: str | None, *, timeout: float = 10, models: Mapping[str, Any] | None = None
) -> AnthropicProvider:
    values = {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": key, "ANTHROPIC_TIMEOUT": str(timeout)}
    return AnthropicProvider(ProviderConfig("rented", values, {MODEL: models} if models is not None else {}))


async def ask(
    provider: AnthropicProvider, mode: str = "chat", prompt: str = "안녕?", **options: Any
) -> LLMProviderResponse:
    return await provider.generate(prompt, "editor", "rewrite", mode, {"model": MODEL, **options})


async def pieces(provider: AnthropicProvider, mode: str = "chat", **options: Any) -> list[LLMChunk]:
    stream = provider.stream("안녕?", "editor", "rewrite", mode, {"model": MODEL, **options})
    async with aclosing(stream) as chunks:
        return [chunk async for chunk in chunks]


async def refused(provider: AnthropicProvider, kind: type[SparklioError], **asked: Any) -> Any:
    """The error of a call, which is of exactly this kind and tells what to do."""
    with pytest.raises(SparklioError) as caught:
        await ask(provider, **asked)
    assert type(caught.value) is kind, caught.value
    assert caught.value.message
    assert caught.value.hint
    return caught.value


async def asked_of(server: AnthropicStandIn, own: Mapping[str, Any] | None, mode: str = "chat", **options: Any) -> Body:
    """The body of a call of a model with these options of its ``own`` in the YAML."""
    async with aclosing(make_provider(server.url, server.key, models=own)) as provider:
        await ask(provider, mode, **options)
    return server.chats[-1]


# -- what goes out -----------------------------------------------------------------------------------------------------


async def test_a_chat_says_what_is_needed_and_no_more(provider: AnthropicProvider, anthropic: AnthropicStandIn) -> None:
    anthropic.answers.append("반갑습니다.")
    response = await ask(provider, system="간결하게.", temperature=0.3, seed=7, base_url="http://elsewhere")
    assert (response.output.type, response.output.content) == ("text", "반갑습니다.")
    assert (response.provider, response.model, response.meta) == ("rented", MODEL, {"done_reason": "end_turn"})
    assert anthropic.chats == [
        {
            "model": MODEL,
            "max_tokens": 4096,
            "temperature": 0.3,
            "system": "간결하게.",
            "messages": [{"role": "user", "content": "안녕?"}],
            "stream": True,
        }
    ]
    [headers] = anthropic.headers
    assert headers["x-api-key"] == anthropic.key
    assert headers["anthropic-version"] == "2023-06-01"
    assert "authorization" not in headers


async def test_options_of_the_model_go_along_and_null_ones_never_do(anthropic: AnthropicStandIn) -> None:
    own = {"max_tokens": 300, "temperature": None, "top_p": 0.9, "structured": None, "thinking": None}
    body = await asked_of(anthropic, own, temperature=0.3, system=" ")
    assert {key: body[key] for key in body.keys() - {"messages", "model", "stream"}} == {
        "max_tokens": 300,
        "top_p": 0.9,
    }
    assert (await asked_of(anthropic, own, max_tokens=77))["max_tokens"] == 77
    assert (await asked_of(anthropic, {"max_tokens": None}, max_tokens=77))["max_tokens"] == 4096


async def test_betas_are_a_header(anthropic: AnthropicStandIn) -> None:
    body = await asked_of(anthropic, {"betas": ["something-2026-11-01"]})
    assert "betas" not in body
    assert anthropic.headers[-1]["anthropic-beta"] == "something-2026-11-01"


async def test_an_effort_of_the_model_stands_beside_the_form(anthropic: AnthropicStandIn) -> None:
    body = await asked_of(anthropic, {"output_config": {"effort": "low"}}, "json", json_schema=SCHEMA)
    assert body["output_config"]["effort"] == "low"
    assert body["output_config"]["format"]["schema"]["additionalProperties"] is False


async def test_json_without_a_schema_is_a_matter_of_words(
    provider: AnthropicProvider, anthropic: AnthropicStandIn
) -> None:
    anthropic.answers.append({"a": 1})
    response = await ask(provider, "json")
    assert (response.output.type, json.loads(response.output.content)) == ("json", {"a": 1})
    assert anthropic.chats[-1].keys() == {"model", "max_tokens", "messages", "stream"}


@pytest.mark.parametrize(("own", "schema"), [({"structured": "tool"}, SCHEMA), (None, FREE_FORM)])
async def test_arguments_of_a_forced_tool_are_the_answer(
    anthropic: AnthropicStandIn, own: Mapping[str, Any] | None, schema: dict[str, Any]
) -> None:
    answer = {"summary": "한 줄로 줄인 이야기", "facts": {"무게": "5 g"}}
    anthropic.answers.append(answer)
    async with aclosing(make_provider(anthropic.url, anthropic.key, models=own)) as provider:
        *told, last = await pieces(provider, "json", json_schema=schema)
    assert len(told) > 2
    assert last.response is not None
    assert json.loads("".join(chunk.text for chunk in told)) == json.loads(last.response.output.content) == answer
    assert last.response.output.type == "json"
    [body] = anthropic.chats
    assert "output_config" not in body
    assert [tool["input_schema"] for tool in body["tools"]] == [schema]
    assert body["tool_choice"]["name"] == body["tools"][0]["name"]


async def test_tools_in_the_vendor_s_form(provider: AnthropicProvider, anthropic: AnthropicStandIn) -> None:
    anthropic.answers.append({"topic": "무게"})
    bare = {"type": "function", "function": {"name": "now"}}
    response = await ask(provider, "tools", tools=[TOOL, bare])
    calls = [{"name": "look_up", "arguments": {"topic": "무게"}}]
    assert response.output.parsed == json.loads(response.output.content) == calls
    function = TOOL["function"]
    assert isinstance(function, dict)
    assert anthropic.chats[-1]["tools"] == [
        {"name": "look_up", "description": "looks a fact up", "input_schema": function["parameters"]},
        {"name": "now", "input_schema": {"type": "object", "properties": {}}},
    ]
    assert "tools" not in await asked_of(anthropic, None, tools=[TOOL])


@pytest.mark.parametrize("wrong", [{"tools": 5}, {"tools": [{"name": "look_up"}]}, {"tools": ["look_up"]}])
async def test_misshapen_tools_are_told(
    provider: AnthropicProvider, anthropic: AnthropicStandIn, wrong: dict[str, Any]
) -> None:
    await refused(provider, RejectedError, mode="tools", **wrong)
    await refused(provider, RejectedError, mode="json", json_schema=5)
    assert anthropic.requests == []


async def test_the_environment_changes_nothing(
    provider: AnthropicProvider, anthropic: AnthropicStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = f"http://127.0.0.1:{free_port()}"
    for name in ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_URL", "ANTHROPIC_PROXY", "LANGSMITH_GATEWAY"):
        monkeypatch.setenv(name, elsewhere)
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "LANGSMITH_API_KEY", "LANGSMITH_GATEWAY_API_KEY"):
        monkeypatch.setenv(name, "another-key")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "x-strange: another-key\nx-api-key: another-key")
    monkeypatch.setenv("ANTHROPIC_PROFILE", "another")
    await ask(provider)
    assert anthropic.requests == [("POST", "/v1/messages")]
    assert "another-key" not in str(anthropic.headers)


# -- what comes back ---------------------------------------------------------------------------------------------------


async def test_an_answer_comes_in_pieces_and_leaves_the_connection_free(
    provider: AnthropicProvider, anthropic: AnthropicStandIn
) -> None:
    anthropic.answers += ["하나 둘 셋 넷 다섯 여섯"] * 2
    anthropic.chunk_chars = 3
    *told, last = await pieces(provider)
    assert len(told) > 3
    assert last.response is not None
    assert "".join(chunk.text for chunk in told) == last.response.output.content == "하나 둘 셋 넷 다섯 여섯"
    await ask(provider)
    assert anthropic.connections_made == 1


async def test_usage_of_the_first_event_and_the_last(provider: AnthropicProvider, anthropic: AnthropicStandIn) -> None:
    anthropic.chunk_chars = 2
    anthropic.answers.append("abcdef")
    usage = (await ask(provider, prompt="가" * 400)).usage
    assert usage == Usage(prompt_tokens=310, completion_tokens=3, total_tokens=313)


async def test_running_totals_are_not_added_up_and_cached_tokens_count(at_odd: AnthropicProvider, odd: Odd) -> None:
    told = {"input_tokens": 100, "cache_read_input_tokens": 30, "cache_creation_input_tokens": 4}
    odd.ends = (
        {"type": "message_delta", "delta": {"stop_reason": None}, "usage": told | {"output_tokens": 5}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
        {"type": "message_stop"},
    )
    assert (await ask(at_odd)).usage == Usage(prompt_tokens=134, completion_tokens=7, total_tokens=141)


ENDS: dict[str, type[ProviderError]] = {
    "model_context_window_exceeded": PromptTooLongError,
    "pause_turn": ServerError,
    "refusal": RefusedError,
    "max_tokens": TruncatedAnswerError,
}


@pytest.mark.parametrize("reason", ENDS)
async def test_ends_that_are_none(at_odd: AnthropicProvider, odd: Odd, reason: str) -> None:
    odd.ends = ({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 7}},)
    error = await refused(at_odd, ENDS[reason])
    assert error.usage.completion_tokens == 7
    assert "안녕" not in error.message


@pytest.mark.parametrize("reason", ["end_turn", "stop_sequence", "tool_use"])
async def test_ends_that_are_well(at_odd: AnthropicProvider, odd: Odd, reason: str) -> None:
    odd.ends = ({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 7}},)
    assert (await ask(at_odd)).meta == {"done_reason": reason}


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        (Fault.STATUS_429, OverloadedError, 429),
        (Fault.STATUS_503, OverloadedError, 529),
        (Fault.QUOTA, RejectedError, 400),
        (Fault.CONTEXT_LENGTH, PromptTooLongError, 400),
        (Fault.CONTENT_FILTER, RefusedError, 400),
        (Fault.REDIRECT, RejectedError, 307),
        (Fault.ERROR_LINE, OverloadedError, None),
    ],
)
async def test_statuses_are_anthropic_s_own(
    provider: AnthropicProvider,
    anthropic: AnthropicStandIn,
    fault: Fault,
    kind: type[ProviderError],
    status: int | None,
) -> None:
    anthropic.retry_after = "7"
    anthropic.fail(fault)
    error = await refused(provider, kind)
    assert error.status == status
    assert error.retry_after == (7 if status in (429, 529) else None)
    assert anthropic.requests == [("POST", "/v1/messages")], "the SDK's own retries are off"


@pytest.mark.parametrize("fault", [Fault.PROSE_AROUND, Fault.FENCED, Fault.THINK_TAGS, Fault.WRONG_SHAPE])
async def test_an_answer_is_handed_on_as_it_was_written(
    provider: AnthropicProvider, anthropic: AnthropicStandIn, fault: Fault
) -> None:
    anthropic.fail(fault)
    written = (await ask(provider, "json", json_schema=SCHEMA)).output.content
    assert written != (await ask(provider, "json", json_schema=SCHEMA)).output.content


IN_STREAM = {
    "overloaded_error": OverloadedError,
    "rate_limit_error": OverloadedError,
    "api_error": ServerError,
    "of tomorrow": ServerError,
    "authentication_error": AuthenticationError,
    "permission_error": AuthenticationError,
    "not_found_error": ModelNotFoundError,
    "invalid_request_error": RejectedError,
    "billing_error": RejectedError,
}


@pytest.mark.parametrize("kind", IN_STREAM)
async def test_an_error_in_a_stream_is_told_by_its_type(at_odd: AnthropicProvider, odd: Odd, kind: str) -> None:
    odd.breaks = {"type": "error", "error": {"type": kind, "message": "told in the stream"}}
    odd.fail(Fault.ERROR_LINE)
    error = await refused(at_odd, IN_STREAM[kind])
    assert "told in the stream" in error.message
    assert odd.requests == [("POST", "/v1/messages")]


async def test_an_error_in_a_stream_may_have_another_form(at_odd: AnthropicProvider, odd: Odd) -> None:
    odd.breaks = {"sorry": True}
    odd.fail(Fault.ERROR_LINE)
    await refused(at_odd, ServerError)


@pytest.mark.parametrize(
    ("status", "kind", "message", "leaf", "hint"),
    [
        (413, "request_too_large", "Request exceeds the maximum size", PromptTooLongError, "shorten"),
        (
            400,
            "invalid_request_error",
            "input length and `max_tokens` exceed context limit",
            PromptTooLongError,
            "shorten",
        ),
        (402, "billing_error", "There is an issue with your payment", RejectedError, "billing"),
        (
            400,
            "invalid_request_error",
            "temperature: Extra inputs are not permitted",
            RejectedError,
            "temperature: null",
        ),
        (400, "invalid_request_error", "tools: something is wrong", RejectedError, "ANTHROPIC_BASE_URL"),
        (504, "timeout_error", "Request timed out", ServerError, "again"),
    ],
)
async def test_refusals_of_the_service(
    at_odd: AnthropicProvider, odd: Odd, status: int, kind: str, message: str, leaf: type[ProviderError], hint: str
) -> None:
    odd.refusing = (status, {"type": "error", "error": {"type": kind, "message": message}})
    error = await refused(at_odd, leaf)
    assert error.status == status
    assert message in error.message
    assert hint in error.hint


async def test_a_refusal_without_the_vendor_s_form(at_odd: AnthropicProvider, odd: Odd) -> None:
    odd.refusing = (502, {"detail": "bad gateway"})
    assert (await refused(at_odd, ServerError)).status == 502


async def test_a_model_that_declines_says_why(provider: AnthropicProvider, anthropic: AnthropicStandIn) -> None:
    anthropic.fail(Fault.REFUSAL)
    error = await refused(provider, RefusedError)
    assert "The request was declined." in error.message


# -- key, package, probe -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "sk-ant-two\nlines", "sk-ant-둘", "sk-ant-blank "])
async def test_a_key_that_cannot_be_used_is_named_but_not_shown(anthropic: AnthropicStandIn, key: str | None) -> None:
    provider = make_provider(anthropic.url, key)
    for call in (ask(provider), provider.prepare(), provider.health_check(), provider.diagnose([MODEL])):
        with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY") as caught:
            await call
        assert "ANTHROPIC_API_KEY" in caught.value.hint
        assert "sk-ant" not in f"{caught.value!r}{caught.value.hint}{provider.config!r}"
    await provider.aclose()
    assert anthropic.requests == []


def test_the_package_is_imported_by_the_first_answer() -> None:
    code = "import sys, providers.llm.anthropic as _; print(*(name.split('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"anthropic", "langchain_anthropic", "langchain_core", "httpx2"} & set(done.stdout.split())


async def test_probes_ask_no_model(provider: AnthropicProvider, anthropic: AnthropicStandIn) -> None:
    anthropic.models = [MODEL, "test-dated-20261101"]
    await provider.prepare()
    assert anthropic.requests == []
    assert await provider.health_check() is True
    found = await provider.diagnose([MODEL, "test-dated", "test-gone"])
    assert [(finding.subject, finding.state) for finding in found] == [
        ("rented", "ok"),
        (f"rented {MODEL}", "ok"),
        ("rented test-dated", "ok"),
        ("rented test-gone", "warning"),
    ]
    assert anthropic.requests == [("GET", "/v1/models")] * 2


async def test_a_wrong_key_is_found(anthropic: AnthropicStandIn) -> None:
    async with aclosing(make_provider(anthropic.url, "sk-ant-wrong")) as provider:
        assert await provider.health_check() is False
        [finding] = await provider.diagnose([MODEL])
        assert (finding.state, "ANTHROPIC_API_KEY" in finding.remedy) == ("failed", True)
        assert "sk-ant-wrong" not in finding.message + finding.remedy
        await refused(provider, AuthenticationError)
