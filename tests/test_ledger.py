"""The effect ledger: no call is made twice whose answer is recorded, and every other one is made."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from graph.database import Database, open_database
from graph.ledger import Effect, Ledger
from providers.base import LLMOutput, Usage
from providers.errors import JobError, StorageError, TruncatedAnswerError
from routing.contracts import AnswerMeta, ImageRequest, LLMAnswer, LLMRequest
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES, SCHEMAS, one_image_route, routed, whole_run
from tests.places import KINDS, place_of
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.comfyui import Fault as ComfyUIFault
from tests.standins.ollama import Fault, OllamaStandIn
from tests.waiting import until

REQUEST = LLMRequest(role="brief", task="marketing_brief", payload={"words": "초코 \ud83d"})
FINGERPRINT = {"input": "1", "prompt": "2"}


def answer(text: str) -> LLMAnswer:
    return LLMAnswer(
        provider="home",
        model="small",
        usage=Usage(),
        output=LLMOutput(type="text", content=text),
        meta=AnswerMeta(
            request_id="r", role="brief", task="t", mode="chat", generator_mode="mock", latency_ms=1, cost_usd=0.5,
            attempts=[], provider={},
        ),
    )  # fmt: skip


class Calls:
    """Answers that count how often they were asked for."""

    def __init__(self) -> None:
        self.made = 0

    async def __call__(self) -> LLMAnswer:
        self.made += 1
        return answer(f"answer {self.made}")


@pytest.fixture(params=KINDS)
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(place_of(request, tmp_path)) as database:
        yield database


async def test_the_same_call_is_made_once_after_a_restart_too(database: Database) -> None:
    ledger, calls = Ledger(database), Calls()
    effects = await ledger.open("run")
    first = await effects.once("brief", 2, 0, FINGERPRINT, REQUEST, calls)
    assert await effects.once("brief", 2, 0, FINGERPRINT, REQUEST, calls) == first
    later = await ledger.open("run")
    assert await later.once("brief", 2, 0, FINGERPRINT, REQUEST, calls) == first
    assert calls.made == 1


@pytest.mark.parametrize(
    "other",
    [
        ("brand", 2, 0, FINGERPRINT),
        ("brief", 3, 0, FINGERPRINT),
        ("brief", 2, 1, FINGERPRINT),
        ("brief", 2, 0, {**FINGERPRINT, "prompt": "3"}),
    ],
    ids=["agent", "step", "ordinal", "prompt"],
)
async def test_another_call_is_made(database: Database, other: tuple[str, int, int, dict[str, str]]) -> None:
    ledger, calls = Ledger(database), Calls()
    await (await ledger.open("run")).once("brief", 2, 0, FINGERPRINT, REQUEST, calls)
    await (await ledger.open("run")).once(*other, REQUEST, calls)
    await (await ledger.open("run.2")).once("brief", 2, 0, FINGERPRINT, REQUEST, calls)
    assert calls.made == 3


async def test_a_failed_call_leaves_nothing_but_an_image_s_order_stands(database: Database) -> None:
    async def fails() -> Any:
        raise ConnectionError("no")

    ledger = Ledger(database)
    effects = await ledger.open("run")
    picture = ImageRequest(kind="hero", prompt="한 병")
    for request in (REQUEST, picture):
        with pytest.raises(ConnectionError):
            await effects.once("vision", 3, 0, FINGERPRINT, request, fails)
    assert [(effect.request, effect.answer) for effect in await ledger.load("run")] == [(picture, None)]


async def test_who_is_cancelled_while_an_answer_is_recorded_has_it_recorded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, calls, writing = Ledger(database), Calls(), asyncio.Event()
    save = ledger.save

    async def slowly(*what: Any) -> None:
        writing.set()
        await asyncio.sleep(0.02)
        await save(*what)

    monkeypatch.setattr(ledger, "save", slowly)
    effects = await ledger.open("run")
    task = asyncio.create_task(effects.once("brief", 2, 0, FINGERPRINT, REQUEST, calls))
    await writing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    [effect] = await ledger.load("run")
    assert isinstance(effect.answer, LLMAnswer)
    assert effect.answer.output.content == "answer 1"


async def test_what_is_adopted_is_nobody_s_cost_twice_and_what_is_forgotten_is_gone(database: Database) -> None:
    ledger, calls = Ledger(database), Calls()
    effects = await ledger.open("run")
    for step in (1, 2):
        await effects.once("brief", step, 0, FINGERPRINT, REQUEST, calls)
    [kept, _] = effects
    await ledger.adopt("run.2", "run", {kept.key})
    assert await ledger.load("run.2") == [kept]
    await database.forget("run")
    assert await ledger.load("run") == []
    assert [effect.run_id for effect in await ledger.load("run.2")] == ["run"]


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b"\xff", b'{"kind": "song"}'])
async def test_a_row_that_cannot_be_read_is_told(database: Database, body: bytes) -> None:
    form, sealed = database.vault.encrypt(body)
    sql = "INSERT INTO effects VALUES ('run', 'brief', 0, 'x', ?, ?)"
    await database.write((sql, (form, sealed)))
    with pytest.raises(StorageError, match="ledger of run 'run'"):
        await Ledger(database).load("run")


def test_an_effect_survives_its_json() -> None:
    effect = Effect("run", "brief", 3, 1, FINGERPRINT, REQUEST, answer("x"))
    assert Effect.from_plain("brief", 1, json.loads(json.dumps(effect.to_plain()))) == effect


# whole runs


@pytest.mark.usefixtures("live")
async def test_a_run_records_all_its_calls(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        run = await whole_run(studio)
        effects = await studio.runs.ledger.load("page")
        calls = run.state["calls"]
    kinds = Counter((effect.node, type(effect.request).__name__) for effect in effects)
    assert kinds == {**{(node, "LLMRequest"): 1 for node in NODES}, ("vision", "ImageRequest"): 1}
    assert all(effect.answer for effect in effects)
    assert {effect.key for effect in effects} == {key for call in calls for key in call["effects"]}


@pytest.mark.usefixtures("live")
async def test_a_failed_image_does_not_cost_its_words_again(
    ollama: OllamaStandIn, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    comfyui.inject(ComfyUIFault.EXECUTION_ERROR)
    async with Sparklio(config=routed(tmp_path, media_routing=one_image_route)) as studio:
        with pytest.raises(JobError):
            await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        before = Counter(ollama.by_task)
        await studio.resume("page")
    assert SCHEMAS["vision"] not in ollama.by_task - before


@pytest.mark.usefixtures("live")
async def test_a_revision_that_is_asked_in_the_same_words_is_asked_all_the_same(ollama: OllamaStandIn) -> None:
    issue = {"severity": "high", "where": "headline", "message": "밋밋합니다", "suggestion": "구체적으로"}
    ollama.answers_for["StyleReview"].extend(
        {"score": score, "approved": False, "summary": "다시", "issues": [issue]} for score in (40, 60)
    )
    async with Sparklio() as studio:
        run = await whole_run(studio)
    assert ollama.by_task["StyleReview"] == 2
    assert run.result["review"]["score"] == 60


@pytest.mark.usefixtures("live")
async def test_a_call_whose_prompt_changed_meanwhile_is_made_again(
    ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    ollama.fail(Fault.STATUS_400, task=SCHEMAS["brief"])
    async with Sparklio() as studio:
        with pytest.raises(Exception, match="400"):
            await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        first = (await studio.runs.ledger.load("page"))[0]
        request = first.request
        assert isinstance(request, LLMRequest)
        now = await studio.runs._context.llm.fingerprint(request)  # type: ignore[union-attr]
        assert now == first.fingerprint
        for change in ({"language": "en"}, {"seed": 5}, {"temperature": 0.01}, {"num_predict": 3}):
            options = request.options.model_copy(update=change)
            changed = await studio.runs._context.llm.fingerprint(  # type: ignore[union-attr]
                request.model_copy(update={"options": options})
            )
            assert changed != now, change


@pytest.mark.usefixtures("live")
async def test_an_image_that_is_ordered_otherwise_now_is_ordered_anew(
    ollama: OllamaStandIn, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    """A run was stopped in the middle of its image, and its workflow changed before it went on."""

    def with_steps(steps: int) -> Callable[[Any], Any]:
        return lambda routing: {
            "image": [{**rule, "options": {**rule.get("options", {}), "steps": steps}} for rule in routing["image"]]
        }

    comfyui.hold()
    async with Sparklio(config=routed(tmp_path, media_routing=with_steps(7))) as studio:
        running = asyncio.create_task(studio.run(brand=BRAND, product=PRODUCT, run_id="page"))
        await until(lambda: comfyui.running)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert await studio.runs.open_jobs("page") == 1
    comfyui.release()
    async with Sparklio(config=routed(tmp_path, media_routing=with_steps(9))) as studio:
        await studio.resume("page")
        asked = [json.dumps(body) for body in comfyui.prompts]
        assert ['"steps": 7' in asked[0], '"steps": 9' in asked[1], len(asked)] == [True, True, 2]
        assert (await studio.preview_rerun("page")).nodes == ()
        assert await studio.runs.open_jobs("page") == 0


@pytest.mark.usefixtures("live")
async def test_what_failed_calls_cost_stays_counted_beside_what_the_ledger_knows(
    ollama: OllamaStandIn, tmp_path: Path
) -> None:
    price = {"input": 1.0, "output": 1.0}
    prices = {"comfyui": "free", "ollama": {"qwen2.5:7b": price, "qwen2.5:14b": price}}
    ollama.fail_always(Fault.LENGTH, task=SCHEMAS["brief"])
    async with Sparklio(config=routed(tmp_path, prices=lambda _: prices)) as studio:
        with pytest.raises(TruncatedAnswerError):
            await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        record = studio.runs.store.load("page")
        failed, spent = record.failed_usd, record.spent_usd
        assert failed is not None
        assert spent is not None
        assert 0 < failed < spent
        ollama.fail_always(None)
        run = await studio.resume("page")
        answers = [effect.answer for effect in await studio.runs.ledger.load("page")]
    answered = sum(answer.meta.cost_usd or 0 for answer in answers if answer)
    assert run.result["meta"]["cost_usd"] == pytest.approx(answered + failed)
