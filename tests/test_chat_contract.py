"""One contract for all chat providers, each against a local server that speaks its vendor's wire format.

A new provider joins by a row in ``VENDORS`` and a stand-in; nothing else here knows a vendor.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import traceback
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from providers.base import LLMChunk, LLMProvider, LLMProviderResponse
from providers.errors import (
    AttemptTimeoutError,
    AuthenticationError,
    ConfigError,
    EmptyAnswerError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
    ProviderError,
    RefusedError,
    RejectedError,
    ServerError,
    TruncatedAnswerError,
    UnreachableError,
)
from providers.registry import known_providers, llm_provider
from routing.contracts import LLMRequest
from routing.prompt_builder import build_prompt
from routing.settings import load_settings
from routing.tasks import TASKS, find_task
from tests.conftest import BRAND, PRODUCT
from tests.standins.anthropic import AnthropicStandIn
from tests.standins.chat import ChatStandIn
from tests.standins.google import GoogleStandIn
from tests.standins.ollama import OllamaStandIn
from tests.standins.openai import OpenAIStandIn
from tests.standins.server import free_port
from tests.waiting import until

HOME_KEY = "home-key-0123456789abcdef"


@dataclass(frozen=True)
class Vendor:
    """How a provider is pointed at its stand-in."""

    name: str
    prefix: str
    stand_in: type[Any]
    model: str
    extra: str | None = None


VENDORS = (
    Vendor("ollama", "OLLAMA", OllamaStandIn, "qwen2.5:7b"),
    Vendor("openai", "OPENAI", OpenAIStandIn, "test-large", "openai"),
    Vendor("anthropic", "ANTHROPIC", AnthropicStandIn, "test-large", "anthropic"),
    Vendor("gemini", "GOOGLE", GoogleStandIn, "test-large", "gemini"),
)
RENTED = [vendor for vendor in VENDORS if vendor.extra]

FAULTS: Mapping[str, tuple[type[ProviderError], ...]] = {
    "status_400": (RejectedError,),
    "status_401": (AuthenticationError,),
    "status_403": (AuthenticationError,),
    "status_404": (ModelNotFoundError,),
    "status_429": (OverloadedError,),
    "status_500": (ServerError,),
    "status_503": (OverloadedError,),
    "quota": (RejectedError,),
    "context_length": (PromptTooLongError,),
    "redirect": (RejectedError,),
    "malformed": (ServerError,),
    "hang": (AttemptTimeoutError,),
    "stall": (AttemptTimeoutError,),
    "cut": (UnreachableError,),
    "half_json": (ServerError,),
    "error_line": (ServerError, OverloadedError),
    "no_done": (ServerError,),
    "length": (TruncatedAnswerError,),
    "refusal": (RefusedError,),
    "refusal_prompt": (RefusedError,),
    "content_filter": (RefusedError,),
    "empty": (EmptyAnswerError,),
    "load": (EmptyAnswerError,),
}
"""Each fault of the stand-ins, and the error that it becomes whoever the vendor is; an event may tell of overload."""


@dataclass
class Place:
    """A vendor's stand-in and the provider that is pointed at it."""

    vendor: Vendor
    server: ChatStandIn
    provider: LLMProvider

    @property
    def key(self) -> str:
        return str(getattr(self.server, "key", HOME_KEY))

    def stream(self, request: LLMRequest | None = None, **options: Any) -> AsyncGenerator[LLMChunk, None]:
        request = request or brief()
        prompt = build_prompt(request, find_task(request.role, request.task))
        told: dict[str, Any] = {"model": self.vendor.model, "system": prompt.system, "timeout_s": 10.0, **options}
        if prompt.schema is not None:
            told["json_schema"] = prompt.schema
        if request.options.tools:
            told["tools"] = request.options.tools
        return self.provider.stream(prompt.user, request.role, request.task, request.mode, told)

    async def ask(self, request: LLMRequest | None = None, **options: Any) -> tuple[list[str], LLMProviderResponse]:
        """The pieces as they came, and the response."""
        texts = []
        async with aclosing(self.stream(request, **options)) as chunks:
            async for chunk in chunks:
                if chunk.text:
                    texts.append(chunk.text)
                if chunk.response is not None:
                    return texts, chunk.response
        raise AssertionError("no response")


def brief(**changes: Any) -> LLMRequest:
    payload = {"brand": BRAND, "product_input": PRODUCT}
    asked = {"role": "brief", "task": "marketing_brief", "mode": "json", "payload": payload, **changes}
    return LLMRequest.model_validate(asked)


def build(vendor: Vendor, url: str, folder: Path, **environ: str) -> LLMProvider:
    """The provider as a process would build it: from a routing file and the environment."""
    (folder / "provider_config.yaml").write_text(f"providers: {{llm: {{active: [{vendor.name}]}}}}")
    settings = load_settings(environ={f"{vendor.prefix}_BASE_URL": url, **environ}, folder=folder)
    return llm_provider(vendor.name)(settings.provider_config("llm", vendor.name))


@pytest.fixture(params=VENDORS, ids=lambda vendor: vendor.name)
def server(request: pytest.FixtureRequest) -> Iterator[tuple[Vendor, ChatStandIn]]:
    with request.param.stand_in() as stand_in:
        yield request.param, stand_in


@pytest.fixture
async def place(server: tuple[Vendor, ChatStandIn], tmp_path: Path) -> AsyncGenerator[Place, None]:
    vendor, stand_in = server
    key = str(getattr(stand_in, "key", HOME_KEY))
    place = Place(vendor, stand_in, build(vendor, stand_in.url, tmp_path, **{f"{vendor.prefix}_API_KEY": key}))
    yield place
    await place.provider.aclose()
    await until(lambda: stand_in.open_connections == stand_in.active == 0)


def each_vendor_s(faults: Iterable[str]) -> pytest.MarkDecorator:
    """Each vendor with each of these faults that it knows."""
    pairs = [(vendor, fault) for vendor in VENDORS for fault in faults if fault in vendor.stand_in.faults]
    ids = [f"{vendor.name}-{fault}" for vendor, fault in pairs]
    return pytest.mark.parametrize(("server", "fault"), pairs, indirect=["server"], ids=ids)


def test_every_chat_provider_of_ours_is_held_to_the_contract() -> None:
    assert {vendor.name for vendor in VENDORS} == known_providers("llm")


class TestAnswers:
    @pytest.mark.parametrize("task", sorted(TASKS))
    async def test_each_task_s_schema_is_taken_and_answered(self, place: Place, task: str) -> None:
        role = (TASKS[task].roles or ("brief",))[0]
        request = brief(role=role, task=task)
        _, response = await place.ask(request)
        output = TASKS[task].output
        assert output is not None
        output.model_validate(json.loads(response.output.content), context=request.payload)
        assert response.output.type == "json"

    async def test_text_comes_in_pieces_that_add_up(self, place: Place) -> None:
        place.server.token_delay_s = 0.03  # Ollama's text of one moment is read as one piece
        place.server.answers.append("가나다라마바사아자차카타파하 " * 4)
        texts, response = await place.ask(brief(mode="chat", task="free words"))
        assert len(texts) > 2
        assert "".join(texts) == response.output.content
        assert response.output.type == "text"
        assert response.output.parsed is None

    async def test_the_answer_names_provider_model_and_tokens(self, place: Place) -> None:
        _, response = await place.ask()
        assert (response.provider, response.model) == (place.vendor.name, place.vendor.model)
        usage = response.usage
        assert usage.prompt_tokens > 50
        assert 0 < usage.completion_tokens < usage.prompt_tokens * 10
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert response.meta["done_reason"]

    async def test_generate_is_the_stream_s_end(self, place: Place) -> None:
        place.server.answers.append("한 번에")
        options = {"model": place.vendor.model, "timeout_s": 10.0}
        response = await place.provider.generate("말해 줘", "brief", "free words", "chat", options)
        assert response.output.content == "한 번에"

    async def test_tools_come_back_as_calls(self, place: Place) -> None:
        parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        tool = {
            "type": "function",
            "function": {"name": "weather", "description": "Tells the weather.", "parameters": parameters},
        }
        _, response = await place.ask(brief(mode="tools", task="free words", options={"tools": [tool]}))
        assert response.output.type == "tools"
        [call] = response.output.parsed
        assert call["name"] == "weather"
        assert isinstance(call["arguments"]["city"], str)

    async def test_a_prompt_with_half_a_character_is_sent(self, place: Place) -> None:
        place.server.answers.append("괜찮습니다")
        options = {"model": place.vendor.model, "system": "sys\ud800", "timeout_s": 10.0}
        response = await place.provider.generate("half \ud83d", "brief", "free words", "chat", options)
        assert response.output.content == "괜찮습니다"

    async def test_unknown_options_are_let_alone(self, place: Place) -> None:
        _, response = await place.ask(brief(), base_url="http://evil.example", api_key="stolen", n=99, stream=False)
        assert response.output.content
        assert "evil" not in json.dumps(place.server.chats[-1])

    async def test_what_a_role_wants_is_asked(self, place: Place) -> None:
        await place.ask(temperature=0.35, max_tokens=777, seed=11)
        sent = json.dumps(place.server.chats[-1])
        assert "0.35" in sent
        assert "777" in sent


class TestFaults:
    @each_vendor_s(FAULTS)
    async def test_a_fault_is_one_typed_error_and_the_next_call_is_well(self, place: Place, fault: str) -> None:
        place.server.retry_after = "7"
        place.server.fail(fault)
        with pytest.raises(ProviderError) as caught:
            await place.ask(timeout_s=0.5 if fault in ("hang", "stall") else 10.0)
        error = caught.value
        assert type(error) in FAULTS[fault], error
        assert error.provider == place.vendor.name
        assert error.message
        assert error.hint
        assert error.retry_after == 7 if fault == "status_429" else error.retry_after in (None, 7)
        assert len(place.server.chats) == 1, "retries are the gateway's"
        _, response = await place.ask()
        assert response.output.content

    async def test_what_a_cut_answer_cost_is_told(self, place: Place) -> None:
        place.server.fail("length")
        with pytest.raises(TruncatedAnswerError) as caught:
            await place.ask()
        assert caught.value.usage is not None
        assert caught.value.usage.completion_tokens > 0
        assert "max_tokens" in caught.value.hint

    async def test_nobody_listens(self, place: Place, tmp_path: Path) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        provider = build(place.vendor, url, tmp_path, **{f"{place.vendor.prefix}_API_KEY": place.key})
        with pytest.raises(UnreachableError) as caught:
            await provider.generate("hi", "brief", "free words", "chat", {"model": place.vendor.model})
        assert f"{place.vendor.prefix}_BASE_URL" in caught.value.hint
        assert url in caught.value.hint
        assert not await provider.health_check()
        await provider.aclose()

    async def test_an_empty_prompt_is_never_sent(self, place: Place) -> None:
        with pytest.raises(RejectedError):
            await place.provider.generate(" \n", "brief", "free words", "chat", {"model": place.vendor.model})
        assert not place.server.chats

    async def test_the_provider_s_own_timeout_holds_whatever_a_request_asks(
        self, server: tuple[Vendor, ChatStandIn], tmp_path: Path
    ) -> None:
        vendor, stand_in = server
        names = {f"{vendor.prefix}_API_KEY": str(getattr(stand_in, "key", HOME_KEY)), f"{vendor.prefix}_TIMEOUT": "0.3"}
        provider = build(vendor, stand_in.url, tmp_path, **names)
        stand_in.fail("hang")
        with pytest.raises(AttemptTimeoutError) as caught:
            await provider.generate("hi", "brief", "free words", "chat", {"model": vendor.model, "timeout_s": 999})
        assert f"{vendor.prefix}_TIMEOUT" in caught.value.hint
        await provider.aclose()


class TestLeaving:
    async def test_a_cancelled_answer_closes_its_connection(self, place: Place) -> None:
        place.server.fail("stall")
        asking = asyncio.create_task(place.ask())
        await until(lambda: place.server.chats)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until(lambda: place.server.active == 0)
        _, response = await place.ask()
        assert response.output.content

    async def test_a_stream_that_nobody_reads_on_closes_its_connection(self, place: Place) -> None:
        place.server.token_delay_s = 0.02
        async with aclosing(place.stream()) as chunks:
            async for _ in chunks:
                break
        await until(lambda: place.server.active == 0)

    async def test_a_storm_of_cancellations_leaves_nothing_open(self, place: Place) -> None:
        await place.ask()  # the imports are no part of the storm
        place.server.token_delay_s = 0.1
        asking = [asyncio.create_task(place.ask()) for _ in range(30)]
        for number, task in enumerate(asking):
            await asyncio.sleep(0.002 * (number % 5))
            task.cancel()
        ended = await asyncio.gather(*asking, return_exceptions=True)
        assert [end for end in ended if not isinstance(end, asyncio.CancelledError)] == []
        await until(lambda: place.server.active == 0)
        place.server.token_delay_s = 0.0
        _, response = await place.ask()
        assert response.output.content


class TestKeys:
    @each_vendor_s(["none", "status_401", "status_500", "cut", "redirect", "malformed"])
    async def test_a_key_travels_to_the_vendor_and_is_told_to_nobody(
        self, place: Place, fault: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        place.server.fail(fault)
        shown = [repr(place.provider), repr(place.provider.config), repr(vars(place.provider))]
        try:
            _, response = await place.ask()
            shown.append(response.model_dump_json())
        except ProviderError as exc:
            shown += [repr(exc), str(exc.to_dict()), *traceback.format_exception(exc)]
        await place.provider.health_check()
        assert all(place.key in str(headers) for headers in place.server.headers), "chats and probes carry it"
        shown += [record.getMessage() for record in caplog.records if record.name != "asyncio"]
        assert not [text for text in shown if place.key in text]

    async def test_a_key_does_not_follow_a_redirect(self, place: Place) -> None:
        place.server.fail("redirect")
        with pytest.raises(RejectedError):
            await place.ask()
        assert [path for _, path in place.server.requests if path == "/elsewhere"] == []

    async def test_probes_ask_no_model(self, place: Place) -> None:
        assert await place.provider.health_check()
        findings = await place.provider.diagnose([place.vendor.model, "no-such-model"])
        assert findings[0].state == "ok"
        assert "no-such-model" in str([finding for finding in findings if finding.state != "ok"])
        assert "failed" not in {finding.state for finding in findings if "no-such-model" not in finding.subject}
        assert not place.server.chats

    @pytest.mark.parametrize("vendor", RENTED, ids=lambda vendor: vendor.name)
    async def test_a_missing_key_names_its_variable(self, vendor: Vendor, tmp_path: Path) -> None:
        (tmp_path / "provider_config.yaml").write_text(f"providers: {{llm: {{active: [{vendor.name}]}}}}")
        settings = load_settings(environ={}, folder=tmp_path)
        provider = llm_provider(vendor.name)(settings.provider_config("llm", vendor.name))
        with pytest.raises(ConfigError, match=f"{vendor.prefix}_API_KEY") as caught:
            await provider.prepare()
        assert f"{vendor.prefix}_API_KEY" in caught.value.hint
        with pytest.raises(ConfigError, match=f"{vendor.prefix}_API_KEY"):
            await provider.generate("hi", "brief", "free words", "chat", {"model": vendor.model})

    @pytest.mark.parametrize("vendor", RENTED, ids=lambda vendor: vendor.name)
    async def test_a_missing_package_names_the_command(
        self, vendor: Vendor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider = build(vendor, "http://127.0.0.1:9", tmp_path, **{f"{vendor.prefix}_API_KEY": "key-0123456789"})
        for name in list(sys.modules):
            if name.startswith(f"providers.llm.{vendor.name}."):
                monkeypatch.delitem(sys.modules, name)
        for package in ("langchain_openai", "langchain_anthropic", "langchain_google_genai"):
            monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ConfigError, match="needs the package") as caught:
            await provider.prepare()
        assert caught.value.hint == f"pip install 'sparklio[{vendor.extra}]'"
