"""Whole runs against an Ollama that misbehaves: each fault is healed, or one typed error from which resume goes on."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import pytest

from providers.errors import (
    AttemptTimeoutError,
    AuthenticationError,
    DeadlineError,
    EmptyAnswerError,
    MalformedAnswerError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
    RejectedError,
    ServerError,
    SparklioError,
    TruncatedAnswerError,
    UnreachableError,
)
from routing import attempts
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES, SCHEMAS, failure, going_on, routed, whole_run
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import CONTEXT_ERRORS, THOUGHT, Fault, OllamaStandIn
from tests.standins.server import free_port

pytestmark = pytest.mark.usefixtures("live")

BRIEF = SCHEMAS["brief"]
FINISHED = {"brand"}
"""What stands when the brief fails."""

HEALED = {  # fault -> calls that the brief takes then
    Fault.PROSE_AROUND: 1,
    Fault.FENCED: 1,
    Fault.THINK_TAGS: 1,
    Fault.THINKS: 1,
    Fault.WRONG_SHAPE: 2,
    Fault.STATUS_429: 2,
    Fault.STATUS_500: 2,
    Fault.STATUS_503: 2,
    Fault.ERROR_LINE: 2,
    Fault.ERROR_LINE_CUT: 2,
    Fault.HALF_JSON: 2,
    Fault.CUT: 2,
    Fault.NO_DONE: 2,
    Fault.EMPTY: 2,
    Fault.THINKS_ONLY: 2,
    Fault.LOAD: 2,
}
FATAL: dict[Fault, tuple[type[SparklioError], int, str]] = {  # fault -> error, calls, a word of its hint
    Fault.STATUS_400: (RejectedError, 1, "OLLAMA_BASE_URL"),
    Fault.STATUS_401: (AuthenticationError, 1, "OLLAMA_API_KEY"),
    Fault.STATUS_403: (AuthenticationError, 1, "OLLAMA_API_KEY"),
    Fault.STATUS_404: (ModelNotFoundError, 1, "ollama pull qwen2.5:7b"),
    Fault.STATUS_429: (OverloadedError, 3, "OLLAMA_MAX_QUEUE"),
    Fault.STATUS_500: (ServerError, 3, "log"),
    Fault.STATUS_503: (OverloadedError, 3, "OLLAMA_MAX_QUEUE"),
    Fault.CONTEXT_LENGTH: (PromptTooLongError, 1, "num_ctx"),
    Fault.REDIRECT: (RejectedError, 1, "OLLAMA_BASE_URL"),
    Fault.ERROR_LINE: (ServerError, 3, "again"),
    Fault.ERROR_LINE_CUT: (ServerError, 3, "again"),
    Fault.HALF_JSON: (ServerError, 3, "again"),
    Fault.NO_DONE: (ServerError, 3, "again"),
    Fault.CUT: (UnreachableError, 3, "ollama serve"),
    Fault.EMPTY: (EmptyAnswerError, 3, "think: false"),
    Fault.THINKS_ONLY: (EmptyAnswerError, 3, "think: false"),
    Fault.LOAD: (EmptyAnswerError, 3, "think: false"),
    Fault.LENGTH: (TruncatedAnswerError, 1, "num_predict"),
    Fault.LENGTH_EMPTY: (TruncatedAnswerError, 1, "num_predict"),
    Fault.BLANKS: (TruncatedAnswerError, 1, "num_predict"),
    Fault.REPETITION: (TruncatedAnswerError, 1, "num_predict"),
    Fault.WRONG_SHAPE: (MalformedAnswerError, 2, "larger model"),
}
IN_TIME = {Fault.HANG, Fault.STALL}
"""They end with a time limit."""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, comfyui: ComfyUIStandIn) -> None:
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)
    comfyui.previews = False
    comfyui.history_delay = 0.0


def test_every_fault_of_the_standin_is_in_a_table() -> None:
    assert set(HEALED) | set(FATAL) | IN_TIME | {Fault.NONE} == set(Fault)


@pytest.mark.parametrize("fault", HEALED)
async def test_once_is_healed(ollama: OllamaStandIn, fault: Fault) -> None:
    ollama.fail(fault, task=BRIEF)
    async with Sparklio() as studio:
        run = await whole_run(studio)
    assert ollama.by_task[BRIEF] == run.result["meta"]["nodes"]["brief"]["attempts"] == HEALED[fault]
    assert ollama.by_task.total() == len(NODES) - 1 + HEALED[fault]


@pytest.mark.parametrize("fault", FATAL)
async def test_for_ever_is_one_typed_error(ollama: OllamaStandIn, fault: Fault) -> None:
    kind, calls, hint = FATAL[fault]
    ollama.fail_always(fault, task=BRIEF)
    async with Sparklio() as studio:
        failed = await failure(studio, kind)
        assert hint in failed.error.hint
        assert failed.finished == FINISHED
        assert dict(ollama.by_task) == {SCHEMAS["brand"]: 1, BRIEF: calls}, "one layer retries, and only what may pass"
        assert len(failed.error.details["attempts"]) == calls
        ollama.fail_always(None)
        await going_on(studio, ollama, FINISHED)


@pytest.mark.parametrize("agent", SCHEMAS)
async def test_whichever_agent_fails_the_others_are_kept(ollama: OllamaStandIn, agent: str) -> None:
    ollama.fail_always(Fault.STATUS_400, task=SCHEMAS[agent])
    async with Sparklio() as studio:
        failed = await failure(studio, RejectedError)
        assert agent not in failed.finished
        ollama.fail_always(None)
        await going_on(studio, ollama, failed.finished)


async def test_a_fault_of_every_call_at_once(ollama: OllamaStandIn) -> None:
    for schema in SCHEMAS.values():
        ollama.fail(Fault.STATUS_503, Fault.CUT, task=schema)
    async with Sparklio() as studio:
        run = await whole_run(studio)
    assert {node["attempts"] for name, node in run.result["meta"]["nodes"].items() if name != "vision"} == {3}
    assert set(ollama.by_task.values()) == {3}


# time limits


@pytest.mark.parametrize("fault", sorted(IN_TIME))
@pytest.mark.parametrize(
    ("variable", "kind"), [("OLLAMA_TIMEOUT", AttemptTimeoutError), ("GATEWAY_TIMEOUT_LIVE", DeadlineError)]
)
async def test_silence_ends_at_its_limit(
    ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch, fault: Fault, variable: str, kind: type[SparklioError]
) -> None:
    monkeypatch.setenv(variable, "0.9")
    ollama.fail_always(fault, task=BRIEF)
    async with Sparklio() as studio:
        failed = await failure(studio, kind)
        assert variable in failed.error.hint
        assert "0.9 s" in failed.error.message
        assert ollama.by_task[BRIEF] == 1, "who waited as long as that does not wait again"
    monkeypatch.delenv(variable)
    ollama.fail_always(None)
    async with Sparklio() as studio:
        await going_on(studio, ollama, FINISHED)


async def test_the_deadline_covers_all_attempts(ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TIMEOUT_LIVE", "0.9")
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)
    ollama.fail(Fault.STATUS_503, Fault.STALL, task=BRIEF)
    async with Sparklio() as studio:
        failed = await failure(studio, DeadlineError)
        assert [attempt["outcome"] for attempt in failed.error.details["attempts"]] == [
            OverloadedError.code,
            DeadlineError.code,
        ]
        await going_on(studio, ollama, FINISHED)


async def test_a_wait_beyond_the_deadline_is_not_begun(ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_TIMEOUT_LIVE", "15")
    ollama.retry_after = "20"
    ollama.fail_always(Fault.STATUS_503, task=BRIEF)
    async with Sparklio() as studio:
        failed = await failure(studio, OverloadedError)
        assert len(failed.error.details["attempts"]) == 1
        ollama.fail_always(None)
        await going_on(studio, ollama, FINISHED)


async def test_drops_of_an_answer_do_not_stretch_the_limit(
    ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_TIMEOUT", "0.9")
    ollama.token_delay_s = 0.3
    ollama.chunk_chars = 1
    async with Sparklio() as studio:
        failed = await failure(studio, AttemptTimeoutError)
        assert failed.finished == set()
        assert "still answering" in failed.error.message


async def test_a_server_that_accepts_and_never_speaks(ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    hole = await asyncio.start_server(mute, "127.0.0.1", 0)
    monkeypatch.setenv("OLLAMA_BASE_URL", f"http://127.0.0.1:{hole.sockets[0].getsockname()[1]}")
    monkeypatch.setenv("OLLAMA_TIMEOUT", "0.3")
    monkeypatch.setattr("providers.llm.ollama._PROBE_TIMEOUT_S", 0.3)
    async with Sparklio() as studio:
        failed = await failure(studio, AttemptTimeoutError)
    hole.close()
    await hole.wait_closed()
    assert failed.finished == set()
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama.url)
    monkeypatch.delenv("OLLAMA_TIMEOUT")
    async with Sparklio() as studio:
        await going_on(studio, ollama, set())


async def test_the_words_of_an_error_are_told_though_the_connection_broke_after_them(ollama: OllamaStandIn) -> None:
    ollama.fail_always(Fault.ERROR_LINE_CUT, task=BRIEF)
    async with Sparklio() as studio:
        failed = await failure(studio, ServerError)
    assert "CUDA error: out of memory" in failed.error.message


# waiting as asked


async def test_retry_after_is_honoured(ollama: OllamaStandIn) -> None:
    asked: list[float] = []
    ollama.retry_after = "1"
    ollama.fail(Fault.STATUS_503, task=BRIEF)
    async with Sparklio() as studio:
        async for event in studio.stream(brand=BRAND, product={"name": "컵", "key_features": ["가볍다"]}):
            if event["node"] == "brief" and event["type"] in ("node_started", "node_finished"):
                asked.append(time.monotonic())
    assert asked[1] - asked[0] >= 1.0
    assert ollama.by_task[BRIEF] == 2


async def test_a_server_that_asks_for_minutes_is_not_waited_for(ollama: OllamaStandIn) -> None:
    ollama.retry_after = "600"
    ollama.fail_always(Fault.STATUS_503, task=BRIEF)
    async with Sparklio() as studio:
        await failure(studio, OverloadedError)
        assert ollama.by_task[BRIEF] == 1
        ollama.fail_always(None)
        await going_on(studio, ollama, FINISHED)


# JSON


async def test_a_repair_call_carries_the_answer_and_its_error(ollama: OllamaStandIn) -> None:
    ollama.fail(Fault.WRONG_SHAPE, task=BRIEF)
    async with Sparklio() as studio:
        await whole_run(studio)
    first, repair = [body for body in ollama.chats if body["format"]["title"] == BRIEF]
    said = str(repair["messages"])
    assert "unexpected" in said
    assert "positioning" in said
    assert "Field required" in said
    assert "Field required" not in str(first["messages"])


async def test_the_schema_stands_in_format_and_in_the_prompt(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        await whole_run(studio)
    for body in ollama.chats:
        assert all(key in str(body["messages"]) for key in body["format"]["properties"])


async def test_a_model_that_cannot_write_json_has_the_next_route(ollama: OllamaStandIn, tmp_path: Path) -> None:
    rule = {"role": ["brief"], "provider": "ollama", "model": "llama3.2", "priority": 1}
    config = routed(tmp_path, llm_routing=lambda routing: {"rules": [rule, *routing["rules"]]})
    ollama.fail(Fault.WRONG_SHAPE, Fault.WRONG_SHAPE, task=BRIEF)
    async with Sparklio(config=config) as studio:
        run = await whole_run(studio)
    brief = run.result["meta"]["nodes"]["brief"]
    assert (brief["model"], brief["attempts"]) == ("qwen2.5:7b", 3)
    assert ollama.by_model["llama3.2"] == 2


@pytest.mark.parametrize(
    "text",
    ["", " \n\t" * 200, "<think>끝없이", "{" * 3000, "[1, 2", '{"target": NaN}', "null", "네, 알겠습니다."],
    ids=["empty", "blanks", "open think", "nesting", "half a list", "NaN", "null", "prose"],
)
async def test_answers_that_are_none(ollama: OllamaStandIn, text: str) -> None:
    ollama.answers_for[BRIEF].append(text)
    async with Sparklio() as studio:
        await whole_run(studio)
    assert ollama.by_task[BRIEF] == 2


# the context


async def test_each_call_is_bounded_and_each_model_loaded_once(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        await whole_run(studio)
    assert all(body["options"]["num_predict"] > 0 and body["think"] is False for body in ollama.chats)
    assert sorted(ollama.loads) == [("qwen2.5:14b", 8192), ("qwen2.5:7b", 8192)]
    assert ollama.generates == []


async def test_a_prompt_that_cannot_fit_is_never_sent(ollama: OllamaStandIn, tmp_path: Path) -> None:
    brand = BRAND | {"uploaded_materials": [{"name": "회사소개.txt", "text": "소리의 결을 살립니다. " * 1500}]}
    async with Sparklio() as studio:
        failed = await failure(studio, PromptTooLongError, brand=brand)
        assert "num_ctx" in failed.error.hint
        assert ollama.chats == []
    models = {"ollama": {"qwen2.5:7b": {"num_ctx": 65536}, "qwen2.5:14b": {"num_ctx": 65536}}}
    async with Sparklio(config=routed(tmp_path, models=lambda _: models)) as studio:
        await going_on(studio, ollama, set())


async def test_a_prompt_whose_front_was_lost_is_an_error(ollama: OllamaStandIn) -> None:
    brand = BRAND | {"uploaded_materials": [{"name": "회사소개.txt", "text": "소리의 결을 살립니다. " * 350}]}
    count, ollama.prompt_eval_count = ollama.prompt_eval_count, lambda body: 512
    async with Sparklio() as studio:
        failed = await failure(studio, PromptTooLongError, brand=brand)
        assert "front was lost" in failed.error.message
        assert len(ollama.chats) == 1
        ollama.prompt_eval_count = count
        await going_on(studio, ollama, set())


@pytest.mark.parametrize("words", CONTEXT_ERRORS, ids=["runner", "0.30", "llama-server"])
async def test_a_context_that_ollama_itself_finds_too_small(ollama: OllamaStandIn, words: str) -> None:
    ollama.context_error = words
    ollama.fail_always(Fault.CONTEXT_LENGTH, task=BRIEF)
    async with Sparklio() as studio:
        failed = await failure(studio, PromptTooLongError)
        assert re.search("exceeds the (available )?context|longer than the context", failed.error.message)
        assert "{" not in failed.error.message
        assert "num_ctx" in failed.error.hint
        assert ollama.by_task[BRIEF] == 1, "the same prompt will not fit the next time"


@pytest.mark.parametrize("fault", [Fault.BLANKS, Fault.REPETITION])
async def test_what_ends_a_loop_is_the_cap_of_its_request(ollama: OllamaStandIn, fault: Fault) -> None:
    ollama.fail_always(fault, task=BRIEF)
    async with Sparklio() as studio:
        failed = await failure(studio, TruncatedAnswerError)
        assert isinstance(failed.error, TruncatedAnswerError)
        cap = ollama.chats[-1]["options"]["num_predict"]
        assert failed.error.usage is not None
        assert failed.error.usage.completion_tokens == cap < ollama.chats[-1]["options"]["num_ctx"]
        assert f"{cap} tokens" in failed.error.message


async def test_an_absent_count_is_unknown_and_no_error(ollama: OllamaStandIn) -> None:
    brand = BRAND | {"uploaded_materials": [{"name": "회사소개.txt", "text": "소리의 결을 살립니다. " * 350}]}
    ollama.prompt_eval_count = lambda body: None
    async with Sparklio() as studio:
        await whole_run(studio, brand=brand)


# thinking


async def test_thoughts_are_no_part_of_an_answer(ollama: OllamaStandIn) -> None:
    ollama.fail_always(Fault.THINKS)
    heard = []
    async with Sparklio() as studio:
        async for event in studio.stream(brand=BRAND, product=PRODUCT, run_id="page"):
            heard.append(event)
        run = await studio.load("page")
    assert set(ollama.by_task.values()) == {1}
    assert THOUGHT not in json.dumps([run.state, run.result, heard], ensure_ascii=False)
    assert THOUGHT not in run.page_path.read_text(encoding="utf-8")


# models and machines that are not there


async def test_a_model_that_is_not_pulled(ollama: OllamaStandIn) -> None:
    ollama.models.remove("qwen2.5:14b")
    async with Sparklio() as studio:
        failed = await failure(studio, ModelNotFoundError)
        assert "ollama pull qwen2.5:14b" in failed.error.hint
        assert failed.finished == {"brand", "brief"}
        ollama.models.append("qwen2.5:14b")
        await going_on(studio, ollama, failed.finished)


async def test_ollama_is_not_running(ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_BASE_URL", f"http://127.0.0.1:{free_port()}")
    async with Sparklio() as studio:
        failed = await failure(studio, UnreachableError)
        assert "ollama serve" in failed.error.hint
    monkeypatch.setenv("OLLAMA_BASE_URL", ollama.url)
    async with Sparklio() as studio:
        await going_on(studio, ollama, set())


async def test_a_redirect_is_never_followed(ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "sk-not-for-strangers")
    ollama.fail(Fault.REDIRECT, task=BRIEF)
    made = len(ollama.chats)
    async with Sparklio() as studio:
        failed = await failure(studio, RejectedError)
    assert len(ollama.chats) - made == 2
    assert "307" in failed.error.message
    assert "sk-not-for-strangers" not in failed.shown
