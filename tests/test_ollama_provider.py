"""The Ollama provider against a stand-in that speaks Ollama's wire format."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import langchain_ollama
import pytest
import respx
from pydantic import ValidationError

from providers.base import LLMChunk, LLMProviderResponse, ProviderConfig
from providers.errors import (
    AttemptTimeoutError,
    AuthenticationError,
    ConfigError,
    EmptyAnswerError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
    ProviderError,
    RejectedError,
    ServerError,
    TruncatedAnswerError,
    UnreachableError,
)
from providers.llm.ollama import OllamaProvider
from providers.tokens import estimate_tokens
from routing import artifacts
from tests.standins.ollama import Fault, OllamaStandIn, payload_of
from tests.standins.server import free_port
from tests.waiting import NEVER_S, until

ROOT = Path(__file__).parents[1]
MODEL = "qwen2.5:7b"
SCHEMA = artifacts.Summary.model_json_schema()
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "looks a fact up",
        "parameters": {"type": "object", "properties": {"topic": {"type": "string"}}, "required": ["topic"]},
    },
}


@pytest.fixture
async def provider(ollama: OllamaStandIn) -> AsyncIterator[OllamaProvider]:
    provider = make_provider(ollama.url)
    yield provider
    await provider.aclose()


def make_provider(url: str, *, timeout: float = 2 * NEVER_S, models: dict[str, Any] | None = None) -> OllamaProvider:
    values = {"OLLAMA_BASE_URL": url, "OLLAMA_DEFAULT_MODEL": None, "OLLAMA_TIMEOUT": str(timeout)}
    return OllamaProvider(ProviderConfig("home", values, {MODEL: models} if models is not None else {}))


async def ask(
    provider: OllamaProvider, mode: str = "chat", prompt: str = "안녕?", **options: Any
) -> LLMProviderResponse:
    return await provider.generate(prompt, "editor", "rewrite", mode, {"model": MODEL, **options})


def stream(provider: OllamaProvider, **options: Any) -> Any:
    return provider.stream("안녕?", "editor", "rewrite", "chat", {"model": MODEL, **options})


# -- what goes out -----------------------------------------------------------------------------------------------------


async def test_request_carries_the_options_of_its_model(ollama: OllamaStandIn) -> None:
    provider = make_provider(
        ollama.url, models={"num_ctx": 4096, "num_predict": 300, "keep_alive": "5m", "think": False, "top_p": 0.9}
    )
    await ask(provider, system="간결하게.", temperature=0.3, seed=7)
    await provider.aclose()
    [body] = ollama.chats
    assert body["model"] == MODEL
    assert body["stream"] is True
    assert body["keep_alive"] == "5m"
    assert body["think"] is False
    assert body["options"] == {"num_ctx": 4096, "num_predict": 300, "top_p": 0.9, "temperature": 0.3, "seed": 7}
    assert [(m["role"], m["content"]) for m in body["messages"]] == [("system", "간결하게."), ("user", "안녕?")]
    assert "format" not in body


async def test_defaults_where_the_yaml_says_nothing(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    await ask(provider, system=" ")
    [body] = ollama.chats
    assert body["options"] == {"num_ctx": 8192, "num_predict": 2048}
    assert body["keep_alive"] == "10m"
    assert "think" not in body
    assert [message["role"] for message in body["messages"]] == ["user"]


async def test_max_tokens_wins_and_strange_options_stay_here(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    await ask(provider, max_tokens=77, num_ctx=99, keep_alive=-1, base_url="http://elsewhere", timeout_s="soon")
    [body] = ollama.chats
    assert body["options"] == {"num_ctx": 8192, "num_predict": 77}
    assert body["keep_alive"] == "10m"


async def test_num_ctx_is_constant_so_the_model_loads_once(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    await ask(provider, max_tokens=10)
    await ask(provider, max_tokens=500, prompt="가" * 2000)
    assert ollama.loads == [(MODEL, 8192)]


@pytest.mark.parametrize(("options", "sent"), [({"json_schema": SCHEMA}, SCHEMA), ({}, "json")])
async def test_json_mode_sends_the_schema(
    provider: OllamaProvider, ollama: OllamaStandIn, options: dict[str, Any], sent: object
) -> None:
    response = await ask(provider, "json", **options)
    assert ollama.chats[0]["format"] == sent
    assert response.output.type == "json"
    assert response.output.parsed is None
    assert isinstance(json.loads(response.output.content), dict)


async def test_schema_of_a_chat_is_not_sent(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    await ask(provider, json_schema=SCHEMA, tools=[TOOL])
    assert "format" not in ollama.chats[0]
    assert not ollama.chats[0].get("tools")


async def test_tools_mode(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    response = await ask(provider, "tools", tools=[TOOL])
    assert ollama.chats[0]["tools"][0]["function"]["name"] == "look_up"
    calls = [{"name": "look_up", "arguments": {"topic": "topic 예시 1"}}]
    assert response.output.type == "tools"
    assert response.output.parsed == calls
    assert json.loads(response.output.content) == calls


async def test_a_model_that_calls_no_tool_answers_in_words(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.answers.append("도구가 필요 없어요.")
    response = await ask(provider, "tools")
    assert response.output.model_dump() == {"type": "tools", "content": "도구가 필요 없어요.", "parsed": []}


async def test_unusable_tools_are_rejected(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    with pytest.raises(RejectedError, match="Ollama's form"):
        await ask(provider, "tools", tools=[{"function": 3}])
    assert ollama.chats == []


async def test_empty_prompt_is_never_sent(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    with pytest.raises(RejectedError):
        await ask(provider, prompt=" \n")
    assert ollama.chats == []


async def test_half_a_surrogate_pair_is_replaced(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    await ask(provider, prompt="가\ud800", system="\udfff나")
    assert [message["content"] for message in ollama.chats[0]["messages"]] == ["?나", "가?"]


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("num_predict", -1, "2048: the tokens of an answer"),
        ("num_ctx", "big", "8192: the tokens of prompt and answer"),
        ("num_ctx", 0, "8192"),
        ("num_ctx", True, "8192"),
    ],
)
def test_unbounded_options_are_a_config_error_at_once(key: str, value: object, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"models\.home\.{MODEL}\.{key}") as caught:
        make_provider("http://127.0.0.1:1", models={key: value})
    assert says in caught.value.hint
    assert ("for ever" in caught.value.hint) == (key == "num_predict")


# -- what comes back ---------------------------------------------------------------------------------------------------


async def test_answer_usage_and_meta(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.answers.append("반갑습니다. 오늘도 좋은 하루!")
    ollama.prompt_eval_count = lambda _: 21
    response = await ask(provider)
    assert response.provider == "home"
    assert response.model == MODEL
    assert response.output.model_dump() == {"type": "text", "content": "반갑습니다. 오늘도 좋은 하루!", "parsed": None}
    assert response.usage.model_dump() == {"prompt_tokens": 21, "completion_tokens": 3, "total_tokens": 24}
    assert response.meta["done_reason"] == "stop"
    assert response.meta["load_duration_ms"] == 250
    assert response.meta["total_duration_ms"] >= 250
    assert response.meta["num_ctx"] == 8192


async def test_stream_yields_each_piece_and_then_the_response(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.answers.append("가나다라마바사")
    ollama.chunk_chars = 2
    ollama.token_delay_s = 0.12
    chunks: list[LLMChunk] = [chunk async for chunk in stream(provider)]
    assert [chunk.text for chunk in chunks] == ["가나", "다라", "마바", "사", ""]
    assert [chunk.response is None for chunk in chunks] == [True] * 4 + [False]
    assert chunks[-1].response.output.content == "가나다라마바사"  # type: ignore[union-attr]  # asserted above


async def test_connection_is_free_before_the_last_chunk(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    async with aclosing(stream(provider)) as chunks:
        async for chunk in chunks:
            if chunk.response is not None:
                await ask(provider)
                break
    assert ollama.connections_made == 1


async def test_thinking_stays_out_of_the_answer(ollama: OllamaStandIn) -> None:
    provider = make_provider(ollama.url, models={"think": True})
    ollama.answers.append("답")
    response = await ask(provider)
    await provider.aclose()
    assert ollama.chats[0]["think"] is True
    assert response.output.content == "답"


@pytest.mark.parametrize("fault", [Fault.THINK_TAGS, Fault.FENCED, Fault.PROSE_AROUND, Fault.WRONG_SHAPE])
async def test_the_text_is_left_to_the_gateway(provider: OllamaProvider, ollama: OllamaStandIn, fault: Fault) -> None:
    ollama.fail(fault)
    response = await ask(provider, "json", json_schema=SCHEMA)
    assert response.output.content


async def test_absent_count_says_nothing(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.prompt_eval_count = lambda _: None
    response = await ask(provider, prompt="가" * 6000)
    assert response.usage.prompt_tokens == 0


# -- faults and their typed errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        ("status_400", RejectedError, 400),
        ("status_404", ModelNotFoundError, 404),
        ("status_429", OverloadedError, 429),
        ("status_500", ServerError, 500),
        ("status_503", OverloadedError, 503),
        ("redirect", RejectedError, 307),
        ("cut", UnreachableError, None),
        ("half_json", ServerError, None),
        ("error_line", ServerError, None),
        ("no_done", ServerError, None),
        ("length", TruncatedAnswerError, None),
        ("load", EmptyAnswerError, None),
        ("empty", EmptyAnswerError, None),
    ],
)
async def test_each_fault_has_its_error(
    provider: OllamaProvider, ollama: OllamaStandIn, fault: str, error: type[ProviderError], status: int | None
) -> None:
    ollama.fail(fault)
    with pytest.raises(error) as caught:
        await ask(provider)
    assert type(caught.value) is error
    assert caught.value.provider == "home"
    assert caught.value.status == status
    assert caught.value.hint
    assert (await ask(provider)).output.content, "the fault is over"


async def test_langchains_own_warnings_stay_off_stderr(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.fail("load")
    with pytest.raises(EmptyAnswerError):
        await ask(provider)
    assert logging.getLogger("langchain_ollama").handlers


async def test_words_of_ollama_are_told(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.fail("status_500", "error_line")
    for words in ("runner process has terminated", "CUDA error: out of memory"):
        with pytest.raises(ServerError, match=words):
            await ask(provider)


async def test_missing_model_names_the_pull(provider: OllamaProvider) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        await provider.generate("안녕?", "editor", "rewrite", "chat", {"model": "exaone3.5:7.8b"})
    assert caught.value.hint.startswith("ollama pull exaone3.5:7.8b")


async def test_retry_after(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    for value, seconds in [("3", 3.0), (None, None), ("soon", None), (later, pytest.approx(60, abs=5))]:
        ollama.retry_after = value
        ollama.fail("status_503")
        with pytest.raises(OverloadedError) as caught:
            await ask(provider)
        assert caught.value.retry_after == seconds


async def test_a_host_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    provider = make_provider("http://reader:s3cret@desktop:11434")
    with pytest.raises(UnreachableError) as caught:
        await ask(provider)
    await provider.aclose()
    assert "'desktop' is known here" in caught.value.hint
    assert "OLLAMA_BASE_URL (http://desktop:11434)" in caught.value.hint
    assert "ollama serve" not in caught.value.hint


async def test_refused_connection() -> None:
    url = f"http://reader:s3cret@127.0.0.1:{free_port()}"
    provider = make_provider(url)
    with pytest.raises(UnreachableError) as caught:
        await ask(provider)
    assert await provider.health_check() is False
    await provider.aclose()
    assert "ollama serve" in caught.value.hint
    assert "OLLAMA_BASE_URL is http://127.0.0.1" in caught.value.hint
    assert caught.value.retryable


async def test_credentials_are_sent_and_never_told(ollama: OllamaStandIn) -> None:
    provider = make_provider(ollama.url.replace("//", "//reader:s3cret@"))
    ollama.fail("status_500")
    with pytest.raises(ServerError) as caught:
        await ask(provider)
    told = f"{caught.value.to_dict()} {caught.value.__cause__!r} {provider.config!r}"
    with respx.mock(base_url=ollama.url) as router:
        route = router.get("/api/version").respond(json={"version": "0"})
        await provider.health_check()
    await provider.aclose()
    assert "s3cret" not in told
    assert route.calls[0].request.headers["authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    "body", ["[1]\n", '"text"\n', '{"error": {"message": "no"}}\n', '{"done": true}\n', "<html>\n"]
)
async def test_what_is_not_ollamas_protocol_is_a_server_error(body: str) -> None:
    provider = make_provider("http://127.0.0.1:1")
    with respx.mock as router:
        router.post("http://127.0.0.1:1/api/chat").respond(200, text=body)
        with pytest.raises(ServerError):
            await ask(provider)
    await provider.aclose()


async def test_error_page_of_a_proxy() -> None:
    provider = make_provider("http://127.0.0.1:1")
    with respx.mock as router:
        router.post("http://127.0.0.1:1/api/chat").respond(502, text="<html>Bad Gateway</html>")
        with pytest.raises(ServerError, match="Bad Gateway"):
            await ask(provider)
    await provider.aclose()


async def test_connect_timeout_is_unreachable() -> None:
    provider = make_provider("http://127.0.0.1:1")
    with respx.mock as router:
        router.post("http://127.0.0.1:1/api/chat").mock(side_effect=httpx.ConnectTimeout("slow"))
        with pytest.raises(UnreachableError):
            await ask(provider)
    await provider.aclose()


# -- the size of the prompt --------------------------------------------------------------------------------------------


def test_estimate_is_on_the_safe_side_and_not_wild() -> None:
    korean = "매일 아침 한 스푼, 부담 없이 챙기는 식물성 단백질 파우더입니다. " * 20
    english = "A plant protein powder for every morning, easy to mix and light to drink. " * 20
    assert 0.65 < estimate_tokens(korean) / len(korean) < 0.9
    assert 0.23 < estimate_tokens(english) / len(english) < 0.4
    assert estimate_tokens("") == 0


async def test_prompt_that_cannot_fit_is_not_sent(ollama: OllamaStandIn) -> None:
    provider = make_provider(ollama.url, models={"num_ctx": 1024})
    with pytest.raises(PromptTooLongError) as caught:
        await ask(provider, prompt="가" * 500, max_tokens=700)
    assert ollama.chats == []
    assert caught.value.details == {"prompt_tokens_estimate": 466, "num_predict": 700, "num_ctx": 1024}
    assert "466" in caught.value.message
    assert "1024" in caught.value.message
    assert f"models.home.{MODEL}.num_ctx" in caught.value.hint


async def test_tools_count_as_prompt(ollama: OllamaStandIn) -> None:
    provider = make_provider(ollama.url, models={"num_ctx": 1024})
    tool = {"type": "function", "function": {"name": "f", "description": "설명" * 600}}
    with pytest.raises(PromptTooLongError):
        await ask(provider, "tools", tools=[tool], max_tokens=100)


async def test_silently_cut_prompt_is_an_error(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.prompt_eval_count = lambda _: 2050
    with pytest.raises(PromptTooLongError, match="front was lost"):
        await ask(provider, prompt="가" * 6000)
    await ask(provider, prompt="가" * 3000)


# -- time, cancellation, connections -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["hang", "stall"])
async def test_attempt_is_bounded(provider: OllamaProvider, ollama: OllamaStandIn, fault: str) -> None:
    ollama.fail(fault)
    with pytest.raises(AttemptTimeoutError) as caught:
        await ask(provider, timeout_s=0.2)
    assert not caught.value.retryable
    await until(lambda: ollama.open_connections == ollama.active == 0)


async def test_ollama_timeout_is_the_upper_bound(ollama: OllamaStandIn) -> None:
    provider = make_provider(ollama.url, timeout=0.2)
    ollama.fail("hang")
    with pytest.raises(AttemptTimeoutError, match="loading the model"):
        await ask(provider, timeout_s=60)
    await provider.aclose()


async def test_time_bounds_the_whole_attempt_not_a_piece(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.answers.append("가" * 400)
    ollama.token_delay_s = 0.12
    with pytest.raises(AttemptTimeoutError, match="answering"):
        await ask(provider, timeout_s=0.3)


async def test_time_limit_never_strikes_the_caller(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    """A timeout around a ``yield`` would cancel whatever the caller awaits between two pieces."""
    async with aclosing(stream(provider, timeout_s=1.0)) as chunks:
        await anext(chunks)
        await asyncio.sleep(1.2)
        with pytest.raises(AttemptTimeoutError):
            async for _ in chunks:
                pass


async def test_cancellation_leaves_no_connection(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.fail("hang", "stall")
    for _ in range(2):
        task = asyncio.create_task(ask(provider))
        await until(lambda: ollama.active == 1)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: ollama.open_connections == ollama.active == 0)


async def test_leaving_a_stream_early_closes_it_at_once(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.fail("stall")
    async with aclosing(stream(provider)) as chunks:
        async for chunk in chunks:
            assert chunk.text
            break
    assert await pooled(provider) == []
    await until(lambda: ollama.open_connections == ollama.active == 0)


async def test_storm_of_cancellations_leaks_nothing(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.token_delay_s = 0.002
    tasks = [asyncio.create_task(ask(provider)) for _ in range(40)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(0.001 * (number % 5))
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError | LLMProviderResponse) for result in results)
    await provider.aclose()  # what was not cancelled may have left an idle connection in the pool
    await until(lambda: ollama.open_connections == ollama.active == 0)
    assert (await ask(provider)).output.content


async def test_cancelling_at_any_moment_leaves_nothing_open(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    await provider.prepare()
    for number in range(30):
        task = asyncio.create_task(ask(provider))
        await asyncio.sleep(0.0005 * number)
        task.cancel()
        await asyncio.wait({task})
    await provider.aclose()
    await until(lambda: ollama.open_connections == ollama.active == 0)
    gc.collect()  # a transport that nobody closed fails the test


async def pooled(provider: OllamaProvider) -> list[Any]:
    async with provider._connections.borrow() as connection:
        transport: Any = connection._asynchronous["transport"]
        return list(transport._pool.connections)


async def test_connections_are_reused(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    for _ in range(5):
        await ask(provider)
    await provider.health_check()
    assert ollama.connections_made == 1


async def test_calls_run_side_by_side(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.delay_s = 1.0  # until the last of them has come on a busy machine too
    answers = await asyncio.gather(*(ask(provider) for _ in range(8)))
    assert len(answers) == 8
    assert ollama.most_active == 8


async def test_cancellation_spares_the_calls_beside_it(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.fail("hang")
    doomed = asyncio.create_task(ask(provider))
    await until(lambda: ollama.active == 1)
    ollama.delay_s = 1.0
    beside = asyncio.create_task(ask(provider))
    await until(lambda: ollama.active == 2)
    doomed.cancel()
    assert (await beside).output.content
    assert doomed.cancelled()


def test_one_chat_ollama_per_loop(ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []

    class Counted(langchain_ollama.ChatOllama):
        def __init__(self, **fields: Any) -> None:
            super().__init__(**fields)
            built.append(self)

    monkeypatch.setattr(langchain_ollama, "ChatOllama", Counted)
    provider = make_provider(ollama.url)

    async def run() -> None:
        await asyncio.gather(*(ask(provider) for _ in range(3)))
        await ask(provider)
        await provider.aclose()
        await until(lambda: ollama.open_connections == 0)

    for loops in (1, 2):
        asyncio.run(run())
        assert len(built) == loops


async def test_closed_provider_opens_again(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    await ask(provider)
    await provider.aclose()
    await until(lambda: ollama.open_connections == 0)
    assert (await ask(provider)).output.content


# -- probes ------------------------------------------------------------------------------------------------------------


async def test_probes(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    assert await provider.health_check() is True
    assert await provider.loaded_models() == []
    await ask(provider)
    ollama.vram_share = 0.5
    [loaded] = await provider.loaded_models()
    assert loaded["name"] == MODEL
    assert loaded["context_length"] == 8192
    assert loaded["size_vram"] < loaded["size"]
    assert [model["name"] for model in await provider.list_models()] == ollama.models


async def test_probe_of_something_else_than_ollama() -> None:
    provider = make_provider("http://127.0.0.1:1")
    with respx.mock as router:
        router.get("http://127.0.0.1:1/api/version").respond(200, text="hello")
        router.get("http://127.0.0.1:1/api/tags").respond(404, text="nothing here")
        router.get("http://127.0.0.1:1/api/ps").respond(200, json={"models": None})
        assert await provider.health_check() is False
        with pytest.raises(RejectedError, match="nothing here"):
            await provider.list_models()
        assert await provider.loaded_models() == []
    await provider.aclose()


@pytest.mark.parametrize("code", ["", "; import asyncio; asyncio.run(OllamaProvider(C).health_check())"])
def test_langchain_is_imported_by_the_first_answer_only(code: str) -> None:
    program = (
        "import sys; from providers.base import ProviderConfig; from providers.llm.ollama import OllamaProvider; "
        "C = ProviderConfig('x', {'OLLAMA_BASE_URL': 'http://127.0.0.1:1', 'OLLAMA_TIMEOUT': '1'})"
        f"{code}; sys.exit(any(name.startswith(('langchain', 'ollama')) for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, cwd=ROOT).returncode == 0


# -- the stand-in ------------------------------------------------------------------------------------------------------

PAYLOAD = {
    "brand": {"name": "온빛"},
    "product_input": {"name": "프로틴 플러스", "facts": {"note": "중괄호 } 와 { 가 든 글"}},
    "sections": [{"id": "hero", "type": "hero", "title": "첫인상"}, {"id": "why-us", "type": "story", "title": "이유"}],
}


@pytest.mark.parametrize("name", [name for name in artifacts.__all__ if name != "Artifact"])
async def test_standin_answers_fit_every_artifact(provider: OllamaProvider, name: str) -> None:
    artifact = getattr(artifacts, name)
    prompt = f"role: x\n\n<<<material 12ab\n{json.dumps(PAYLOAD, ensure_ascii=False, indent=1)}\nmaterial 12ab>>>"
    schema = artifact.schema_for(PAYLOAD)
    response = await ask(provider, "json", prompt=prompt, json_schema=schema)
    value = artifact.model_validate_json(response.output.content, context=PAYLOAD)
    if name == "ProductDetail":
        assert [section.section_id for section in value.sections] == ["hero", "why-us"]
    if name == "StyleReview":
        assert (value.approved, value.score) == (True, 90)
    if name == "ContentPlan":
        assert value.sections[0].type == "hero"


async def test_standin_queues_by_task(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    ollama.answers_for["Summary"].append({"summary": "정해 둔 답"})
    ollama.answers.append(lambda body: f"{payload_of(body)}")
    ollama.fail("status_500", task="Summary")
    assert (await ask(provider, prompt='자료: {"a": 1}')).output.content == "{'a': 1}"
    with pytest.raises(ServerError):
        await ask(provider, "json", json_schema=SCHEMA)
    assert "정해 둔 답" in (await ask(provider, "json", json_schema=SCHEMA)).output.content
    assert ollama.by_task == {"": 1, "Summary": 2}
    assert ollama.by_model == {MODEL: 3}
    ollama.forget()
    assert ollama.chats == []


async def test_standin_faults_are_named_and_may_stay(provider: OllamaProvider, ollama: OllamaStandIn) -> None:
    with pytest.raises(ValueError, match="statsu"):
        ollama.fail("statsu_500")
    ollama.fail_always("wrong_shape")
    for _ in range(2):
        response = await ask(provider, "json", json_schema=SCHEMA)
        with pytest.raises(ValidationError):
            artifacts.Summary.model_validate_json(response.output.content)
    ollama.fail_always(None)
    ollama.fail("none", "empty")
    await ask(provider)
    with pytest.raises(EmptyAnswerError):
        await ask(provider)


async def test_standin_speaks_the_other_endpoints(ollama: OllamaStandIn) -> None:
    async with httpx.AsyncClient(base_url=ollama.url) as client:
        whole = await client.post("/api/generate", json={"model": MODEL, "prompt": "안녕?", "stream": False})
        assert whole.json()["response"]
        assert whole.json()["done"] is True
        chat = {"model": "mistral-small", "messages": [{"role": "user", "content": "안녕?"}], "stream": False}
        assert (await client.post("/api/chat", json=chat)).json()["message"]["content"]
        prewarm = await client.post("/api/chat", json={"model": MODEL, "messages": [], "stream": False})
        assert prewarm.json()["done_reason"] == "load"
        gone = {"model": MODEL, "messages": [], "keep_alive": 0, "stream": False}
        assert (await client.post("/api/chat", json=gone)).json()["done_reason"] == "unload"
        assert (await client.post("/api/chat", json={})).json() == {"error": "model is required"}
        assert (await client.post("/api/chat", content="{")).status_code == 400
        names = [model["name"] for model in (await client.get("/api/ps")).json()["models"]]
        assert names == ["mistral-small:latest"]


async def test_key_travels_as_a_bearer_token_with_answers_and_probes() -> None:
    values = {"OLLAMA_BASE_URL": "http://guarded:11434", "OLLAMA_TIMEOUT": "5", "OLLAMA_API_KEY": "key-of-the-house"}
    provider = OllamaProvider(ProviderConfig("home", values))
    with respx.mock as router:
        chat = router.post("http://guarded:11434/api/chat").respond(401, json={"error": "unauthorized"})
        version = router.get("http://guarded:11434/api/version").respond(json={"version": "1"})
        with pytest.raises(AuthenticationError) as caught:
            await ask(provider)
        assert await provider.health_check()
    await provider.aclose()
    for route in (chat, version):
        assert route.calls.last.request.headers["authorization"] == "Bearer key-of-the-house"
    assert "key-of-the-house" not in f"{caught.value.to_dict()} {provider.config!r}"


async def test_prepare_makes_the_import_and_the_connection_that_an_answer_needs(ollama: OllamaStandIn) -> None:
    provider = make_provider(ollama.url)
    await provider.prepare()
    await ask(provider)
    assert ollama.connections_made == 1
    await provider.aclose()
