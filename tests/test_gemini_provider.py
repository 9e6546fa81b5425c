"""The Gemini provider against a stand-in that speaks Google's wire format."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import pytest
import respx

from providers.base import LLMProviderResponse, ProviderConfig, Usage
from providers.errors import (
    AuthenticationError,
    ConfigError,
    ModelNotFoundError,
    OverloadedError,
    ProviderError,
    RefusedError,
    RejectedError,
    ServerError,
    TruncatedAnswerError,
)
from providers.llm.gemini import GeminiProvider
from routing import artifacts
from tests.standins.google import KEY, GoogleStandIn
from tests.standins.server import free_port
from tests.waiting import NEVER_S, until

ROOT = Path(__file__).parents[1]
MODEL = "test-large"
NOWHERE = "http://127.0.0.1:9"
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "looks a fact up",
        "parameters": {"type": "object", "properties": {"topic_name": {"type": "string"}}, "required": ["topic_name"]},
    },
}
Event = dict[str, Any]


@pytest.fixture
async def provider(google: GoogleStandIn) -> AsyncIterator[GeminiProvider]:
    provider = make_provider(google.url)
    yield provider
    await provider.aclose()


def make_provider(
    url: str, *, key: str | None = KEY, timeout: float = 2 * NEVER_S, model: dict[str, Any] | None = None
) -> GeminiProvider:
    values = {"GOOGLE_API_KEY": key, "GOOGLE_BASE_URL": url, "GOOGLE_TIMEOUT": str(timeout)}
    return GeminiProvider(ProviderConfig("gemini", values, {MODEL: model} if model is not None else {}))


async def ask(
    provider: GeminiProvider, mode: str = "chat", prompt: str = "안녕?", **options: Any
) -> LLMProviderResponse:
    return await provider.generate(prompt, "editor", "rewrite", mode, {"model": MODEL, **options})


# -- an answer ---------------------------------------------------------------------------------------------------------


async def test_an_answer(provider: GeminiProvider, google: GoogleStandIn) -> None:
    google.answers.append("반가워요, 무엇을 도와드릴까요?")
    response = await ask(provider, system="너는 편집자다.", temperature=0.3, max_tokens=50, seed=7)
    assert response.output.model_dump() == {
        "type": "text",
        "content": "반가워요, 무엇을 도와드릴까요?",
        "parsed": None,
    }
    assert (response.provider, response.model, response.meta) == ("gemini", MODEL, {"done_reason": "STOP"})
    assert google.requests == [("POST", f"/v1beta/models/{MODEL}:streamGenerateContent")]
    assert google.headers[0]["x-goog-api-key"] == KEY
    body = google.chats[0]
    assert body["contents"] == [{"role": "user", "parts": [{"text": "안녕?"}]}]
    assert body["systemInstruction"]["parts"] == [{"text": "너는 편집자다."}]
    assert body["generationConfig"] == {"candidateCount": 1, "temperature": 0.3, "maxOutputTokens": 50, "seed": 7}


async def test_no_system_prompt_and_the_default_limit(provider: GeminiProvider, google: GoogleStandIn) -> None:
    await ask(provider)
    assert "systemInstruction" not in google.chats[0]
    assert google.chats[0]["generationConfig"] == {"candidateCount": 1, "maxOutputTokens": 4096}


async def test_usage_is_counted_once(provider: GeminiProvider, google: GoogleStandIn) -> None:
    """Every event tells the sum so far."""
    google.answers.append("가나다라마바사아자차카타파하" * 3)
    usage = (await ask(provider)).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (google.prompt_tokens(google.chats[0]), 6)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def test_connections_are_kept_and_closed(provider: GeminiProvider, google: GoogleStandIn) -> None:
    for _ in range(3):
        await ask(provider)
    assert google.connections_made == 1
    await provider.aclose()
    await until(lambda: google.open_connections == 0)


def test_every_event_loop_has_its_own(google: GoogleStandIn) -> None:
    provider = make_provider(google.url)

    async def once() -> None:
        await ask(provider)
        await provider.aclose()

    asyncio.run(once())
    asyncio.run(once())
    assert google.connections_made == 2


# -- json and tools ----------------------------------------------------------------------------------------------------


def keywords_of(schema: Any) -> set[str]:
    found = set(schema)
    for part in (*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())):
        found |= keywords_of(part)
    return found | (keywords_of(schema["items"]) if "items" in schema else set())


@pytest.mark.parametrize("model", [artifacts.ContentPlan, artifacts.StyleReview, artifacts.ProductDetail])
async def test_json(provider: GeminiProvider, google: GoogleStandIn, model: Any) -> None:
    response = await ask(provider, "json", json_schema=model.model_json_schema())
    model.model_validate_json(response.output.content)
    config = google.chats[0]["generationConfig"]
    schema = config["responseJsonSchema"]
    assert (response.output.type, config["responseMimeType"]) == ("json", "application/json")
    assert schema["title"] == model.__name__
    assert set(schema["properties"]) == set(schema["required"]), "what is required is not left out"
    assert not keywords_of(schema) & {"pattern", "minLength", "default", "const"}, "Gemini does not know them"


async def test_json_of_no_schema(provider: GeminiProvider, google: GoogleStandIn) -> None:
    google.answers.append({"any": "thing"})
    assert json.loads((await ask(provider, "json")).output.content) == {"any": "thing"}
    assert "responseJsonSchema" not in google.chats[0]["generationConfig"]


async def test_json_of_a_free_form(provider: GeminiProvider, google: GoogleStandIn) -> None:
    free = {
        "type": "object",
        "properties": {
            "facts": {"type": "object", "default": {}},
            "note": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "null"}]},
            "part": {"$ref": "#/$defs/Part", "description": "no word may stand beside a reference"},
        },
        "required": ["note"],
        "$defs": {"Part": {"type": "string", "pattern": "x"}},
    }
    google.answers.append({"note": "n"})
    await ask(provider, "json", json_schema=free)
    assert google.chats[0]["generationConfig"]["responseJsonSchema"] == {
        "type": "object",
        "properties": {
            "facts": {"type": "object"},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "part": {"$ref": "#/$defs/Part"},
        },
        "required": ["note"],
        "$defs": {"Part": {"type": "string"}},
    }


async def test_tools(provider: GeminiProvider, google: GoogleStandIn) -> None:
    google.answers.append({"topic_name": "배터리"})
    response = await ask(provider, "tools", tools=[TOOL])
    assert google.chats[0]["tools"] == [
        {
            "functionDeclarations": [
                {
                    "name": "look_up",
                    "description": "looks a fact up",
                    "parametersJsonSchema": TOOL["function"]["parameters"],  # type: ignore[index]
                }
            ]
        }
    ]
    assert response.output.parsed == [{"name": "look_up", "arguments": {"topic_name": "배터리"}}]
    assert json.loads(response.output.content) == response.output.parsed
    assert len(google.chats) == 1, "nobody runs the function by himself"


async def test_tools_that_are_not_called(provider: GeminiProvider, google: GoogleStandIn) -> None:
    google.answers.append("도구가 필요 없어요.")
    response = await ask(provider, "tools")
    assert response.output.model_dump() == {"type": "tools", "content": "도구가 필요 없어요.", "parsed": []}


@pytest.mark.parametrize("tools", [[{"function": 3}], [{"name": "look_up"}], [5], 5])
async def test_unusable_tools_are_rejected(provider: GeminiProvider, google: GoogleStandIn, tools: Any) -> None:
    with pytest.raises(RejectedError) as caught:
        await ask(provider, "tools", tools=tools)
    assert caught.value.hint
    assert google.requests == []


async def test_tools_only_in_their_mode(provider: GeminiProvider, google: GoogleStandIn) -> None:
    await ask(provider, tools=[TOOL], json_schema=artifacts.Summary.model_json_schema())
    assert "tools" not in google.chats[0]
    assert "responseMimeType" not in google.chats[0]["generationConfig"]


# -- the model's own options -------------------------------------------------------------------------------------------


async def test_options_of_the_model_go_into_the_request(google: GoogleStandIn) -> None:
    harm = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_ONLY_HIGH"}]
    own = {"thinkingConfig": {"thinkingBudget": 0}, "maxOutputTokens": 900, "topK": 3, "safetySettings": harm}
    provider = make_provider(google.url, model=own)
    await ask(provider)
    await ask(provider, max_tokens=77)
    await provider.aclose()
    first, second = google.chats
    assert first["safetySettings"] == harm
    assert first["generationConfig"] == {
        "candidateCount": 1,
        "thinkingConfig": {"thinkingBudget": 0},
        "maxOutputTokens": 900,
        "topK": 3,
    }
    assert second["generationConfig"]["maxOutputTokens"] == 77


async def test_null_is_never_sent(google: GoogleStandIn) -> None:
    provider = make_provider(google.url, model={"temperature": None, "seed": None, "maxOutputTokens": None})
    await ask(provider, temperature=0.5, seed=3, max_tokens=9)
    await provider.aclose()
    assert google.chats[0]["generationConfig"] == {"candidateCount": 1}


async def test_a_seed_fits_the_api(provider: GeminiProvider, google: GoogleStandIn) -> None:
    await ask(provider, seed=2**40 + 5)
    assert google.chats[0]["generationConfig"]["seed"] == 5


# -- faults ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "leaf", "status"),
    [
        ("status_401", AuthenticationError, 400),  # Google's status for a wrong key
        ("quota", RejectedError, 429),
        ("error_line", OverloadedError, None),  # the stream had begun with 200
        ("refusal_prompt", RefusedError, None),
    ],
)
async def test_what_google_says_in_its_own_way(
    provider: GeminiProvider,
    google: GoogleStandIn,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    leaf: type[ProviderError],
    status: int | None,
) -> None:
    google.fail(fault)
    with pytest.raises(ProviderError) as caught:
        await ask(provider)
    assert (type(caught.value), caught.value.status) == (leaf, status)
    assert len(google.chats) == 1, "one attempt is one request"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_google_tells_how_long_to_wait(provider: GeminiProvider, google: GoogleStandIn) -> None:
    google.retry_after = "34.5"
    google.fail("status_429")
    with pytest.raises(OverloadedError) as caught:
        await ask(provider)
    assert (caught.value.retry_after, caught.value.status) == (34.5, 429)


async def test_usage_of_a_failed_answer(provider: GeminiProvider, google: GoogleStandIn) -> None:
    for fault in ("length", "content_filter", "refusal_prompt"):
        google.fail(fault)
        with pytest.raises(ProviderError) as caught:
            await ask(provider)
        assert caught.value.usage is not None
        assert caught.value.usage.prompt_tokens > 0


async def test_the_limit_is_named_as_google_names_it(provider: GeminiProvider, google: GoogleStandIn) -> None:
    google.fail("length")
    with pytest.raises(TruncatedAnswerError) as caught:
        await ask(provider)
    assert f"models.gemini.{MODEL}.maxOutputTokens" in caught.value.hint


async def test_an_unknown_model(provider: GeminiProvider) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        await ask(provider, model="test-unheard-of")
    assert "test-unheard-of" in caught.value.message


# -- answers that the stand-in does not write --------------------------------------------------------------------------


def event(*parts: Event, end: str | None = None, **more: Any) -> Event:
    candidate: Event = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    return {"candidates": [candidate | ({"finishReason": end} if end else {})], "modelVersion": MODEL, **more}


def tokens(prompt: int, answer: int = 0, thoughts: int = 0) -> Event:
    told = {"promptTokenCount": prompt, "candidatesTokenCount": answer, "thoughtsTokenCount": thoughts}
    return {key: value for key, value in told.items() if value} | {"totalTokenCount": prompt + answer + thoughts}


async def answered(*events: Event, mode: str = "chat") -> LLMProviderResponse:
    """What the provider makes of these events."""
    provider = make_provider(NOWHERE)
    body = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\r\n\r\n" for event in events)
    with respx.mock(assert_all_called=True) as router:
        route = router.post(f"{NOWHERE}/v1beta/models/{MODEL}:streamGenerateContent?alt=sse")
        route.respond(content=body.encode(), content_type="text/event-stream")
        try:
            return await ask(provider, mode)
        finally:
            await provider.aclose()
            assert route.call_count == 1, "one attempt is one request"


async def test_thinking_is_counted_as_output_and_not_told() -> None:
    response = await answered(
        event({"text": "음, 생각해 보자.", "thought": True}, usageMetadata=tokens(7, 0, 20)),
        event({"text": "안녕"}, usageMetadata=tokens(7, 2, 20)),
        event({"text": "하세요", "thoughtSignature": "AAAA"}, end="STOP", usageMetadata=tokens(7, 4, 20)),
    )
    assert response.output.content == "안녕하세요"
    assert response.usage == Usage(prompt_tokens=7, completion_tokens=24, total_tokens=31)


async def test_usage_that_comes_by_itself() -> None:
    response = await answered(event({"text": "네"}, end="STOP"), {"usageMetadata": tokens(7, 4)})
    assert response.usage == Usage(prompt_tokens=7, completion_tokens=4, total_tokens=11)


async def test_several_calls() -> None:
    calls = [{"functionCall": {"name": "look_up", "args": {"topic_name": name, "most": 2.0}}} for name in ("가", "나")]
    response = await answered(event(calls[0]), event(calls[1], end="STOP"), mode="tools")
    assert response.output.parsed == [
        {"name": "look_up", "arguments": {"topic_name": name, "most": 2}} for name in ("가", "나")
    ]


@pytest.mark.parametrize(
    ("end", "leaf"),
    [
        ("SAFETY", RefusedError),
        ("RECITATION", RefusedError),
        ("BLOCKLIST", RefusedError),
        ("SPII", RefusedError),
        ("LANGUAGE", RefusedError),
        ("MALFORMED_FUNCTION_CALL", ServerError),
        ("CONTINUATION", ServerError),
        ("OTHER", ServerError),
        ("A_REASON_OF_TOMORROW", ServerError),
    ],
)
async def test_every_other_end_is_an_error(end: str, leaf: type[ProviderError]) -> None:
    with pytest.raises(ProviderError, match=end) as caught:
        await answered(
            event({"text": "반쯤"}, end=end, usageMetadata=tokens(7, 2)) | {"continuationToken": "AAAA"},
        )
    assert type(caught.value) is leaf
    assert caught.value.hint
    assert caught.value.usage == Usage(prompt_tokens=7, completion_tokens=2, total_tokens=9)


async def test_a_prompt_blocked_for_a_reason_of_tomorrow() -> None:
    with pytest.raises(RefusedError, match="A_REASON_OF_TOMORROW"):
        await answered({"promptFeedback": {"blockReason": "A_REASON_OF_TOMORROW"}, "usageMetadata": tokens(7)})


@pytest.mark.parametrize(
    ("code", "leaf", "told", "waits"),
    [
        (503, OverloadedError, 3, 3),
        (429, OverloadedError, 90_000, 3600),
        (500, ServerError, 3, 3),
        (400, ServerError, 3, 3),
    ],
)
async def test_an_error_inside_a_stream(code: int, leaf: type[ProviderError], told: int, waits: int) -> None:
    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{told}s"}
    error = {"code": code, "message": "somewhere something broke", "status": "X", "details": [wait]}
    with pytest.raises(ProviderError, match="in the middle of an answer: somewhere something broke") as caught:
        await answered(event({"text": "반쯤"}), {"error": error})
    assert type(caught.value) is leaf
    assert caught.value.retry_after == waits


@pytest.mark.parametrize(
    "body",
    [
        "<html>Bad gateway</html>",
        '[{"error": {"message": "Bad gateway"}}]',
        '{"error": "Bad gateway"}',
        '"Bad gateway"',
    ],
)
async def test_errors_in_other_forms(body: str) -> None:
    """Servers between us and Google have their own."""
    provider = make_provider(NOWHERE)
    with respx.mock:
        respx.route(url__startswith=NOWHERE).respond(502, text=body)
        with pytest.raises(ServerError, match="Bad gateway"):
            await ask(provider)
        [finding] = await provider.diagnose([MODEL])
    await provider.aclose()
    assert "Bad gateway" in finding.message


async def test_our_own_limits_hold_for_every_request() -> None:
    """The SDK would send each without any."""
    provider = make_provider(NOWHERE, timeout=33)
    with respx.mock:
        route = respx.post(url__startswith=NOWHERE).respond(500)
        with pytest.raises(ServerError):
            await ask(provider)
    await provider.aclose()
    limits = route.calls[0].request.extensions["timeout"]
    assert (limits["connect"], limits["read"]) == (5.0, 33.0)


# -- what is missing ---------------------------------------------------------------------------------------------------


async def test_the_package_beneath_is_needed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "providers.llm.gemini.chat", raising=False)
    monkeypatch.setitem(sys.modules, "google.genai", None)
    with pytest.raises(ConfigError) as caught:
        await make_provider(NOWHERE).prepare()
    assert caught.value.hint == "pip install 'sparklio[gemini]'"


def test_it_costs_nothing_until_it_is_used() -> None:
    code = (
        "import sys, providers.llm.gemini, providers.media.nanobanana\n"
        "assert not {'google.genai', 'langchain_google_genai', 'langchain_core'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


# -- cancellation ------------------------------------------------------------------------------------------------------


async def test_an_abandoned_stream_closes_its_response(provider: GeminiProvider, google: GoogleStandIn) -> None:
    google.token_delay_s = 0.05
    google.answers.append("가나다라마바사" * 1000)  # it would take longer than is waited for
    async with aclosing(provider.stream("안녕?", "editor", "rewrite", "chat", {"model": MODEL})) as chunks:
        async for _ in chunks:
            break
    await until(lambda: google.active == 0)
    gc.collect()  # what the SDK left open must not complain when it goes
    await asyncio.sleep(0)


# -- the environment ---------------------------------------------------------------------------------------------------


async def test_nothing_of_the_environment_leaks_in(
    google: GoogleStandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {
        "GOOGLE_API_KEY": "of-the-environment",
        "GEMINI_API_KEY": "of-the-environment",
        "GOOGLE_GENAI_USE_VERTEXAI": "true",
        "GOOGLE_GENAI_USE_ENTERPRISE": "true",
        "GOOGLE_CLOUD_PROJECT": "of-the-environment",
        "GOOGLE_CLOUD_LOCATION": "of-the-environment",
        "GOOGLE_GEMINI_BASE_URL": NOWHERE,
        "GOOGLE_GENAI_CLIENT_MODE": "replay",
        "LANGSMITH_GATEWAY": NOWHERE,
        "LANGSMITH_GATEWAY_API_KEY": "of-the-environment",
    }.items():
        monkeypatch.setenv(name, value)
    provider = make_provider(google.url)
    await ask(provider, seed=1)
    await provider.aclose()
    assert google.requests == [("POST", f"/v1beta/models/{MODEL}:streamGenerateContent")]
    assert google.headers[0]["x-goog-api-key"] == KEY
    assert "authorization" not in google.headers[0]
    assert "of-the-environment" not in f"{google.headers}{google.chats}"
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# -- health ------------------------------------------------------------------------------------------------------------


async def test_prepare_asks_for_nothing(provider: GeminiProvider, google: GoogleStandIn) -> None:
    await provider.prepare()
    assert google.requests == []


async def test_a_dead_service_is_not_healthy() -> None:
    provider = make_provider(f"http://127.0.0.1:{free_port()}")
    assert not await provider.health_check()
    [finding] = await provider.diagnose([MODEL])
    await provider.aclose()
    assert finding.state == "failed"
    assert "GOOGLE_BASE_URL" in finding.remedy


async def test_diagnosis(provider: GeminiProvider, google: GoogleStandIn) -> None:
    found = await provider.diagnose([MODEL, "test-unheard-of"])
    assert [(finding.subject, finding.state) for finding in found] == [
        ("gemini", "ok"),
        (f"gemini {MODEL}", "ok"),
        ("gemini test-unheard-of", "warning"),
    ]
    assert google.requests == [("GET", "/v1beta/models")]


async def test_diagnosis_of_a_wrong_key(google: GoogleStandIn) -> None:
    provider = make_provider(google.url, key="AIza-somebody-else")
    [finding] = await provider.diagnose([MODEL])
    await provider.aclose()
    assert finding.state == "failed"
    assert "GOOGLE_API_KEY" in finding.remedy


async def test_diagnosis_of_another_server() -> None:
    provider = make_provider(NOWHERE)
    with respx.mock:
        respx.get(url__startswith=NOWHERE).respond(404, text="<html>nothing here</html>")
        [finding] = await provider.diagnose([MODEL])
    await provider.aclose()
    assert finding.state == "failed"
    assert "nothing here" in finding.message


def test_settings_are_declared() -> None:
    assert [setting.name for setting in GeminiProvider.settings] == [
        "GOOGLE_API_KEY",
        "GOOGLE_BASE_URL",
        "GOOGLE_DEFAULT_MODEL",
        "GOOGLE_TIMEOUT",
    ]
    assert httpx.URL(str(GeminiProvider.settings[1].default)).scheme == "https"
