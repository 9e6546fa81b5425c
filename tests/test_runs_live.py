"""Whole runs in live mode against local servers that speak the wire formats of Ollama and ComfyUI."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from PIL import Image

from graph.inputs import RunInput
from graph.runlog import run_log
from providers.errors import (
    InputError,
    ModelNotFoundError,
    RejectedError,
    RunBusyError,
    ServerError,
    UnknownNameError,
    UnreachableError,
    UsageError,
)
from routing import attempts
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.standins.server import free_port
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("live")
NODES = {"brand", "brief", "strategist", "copywriter", "reviewer", "vision"}
REJECTED = {
    "approved": False,
    "score": 40,
    "issues": [{"section_id": "", "severity": "high", "message": "지어낸 인증", "suggestion": "빼세요"}],
    "summary": "고쳐야 합니다",
}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)


def _tasks(ollama: OllamaStandIn) -> Counter[str]:
    """Chat calls by the title of the schema that they asked for."""
    return Counter(body["format"]["title"] for body in ollama.chats)


@pytest.mark.each_place
async def test_a_whole_run(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    async with Sparklio() as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT)
    assert set(run.result) == {"brand_summary", "brief", "sections", "copy", "image", "review", "meta"}
    meta = run.result["meta"]
    assert (meta["mode"], set(meta["nodes"])) == ("live", NODES)
    assert meta["nodes"]["copywriter"]["provider"] == "ollama"
    assert meta["usage"]["total_tokens"] > 0
    assert sum(_tasks(ollama).values()) == 6
    assert len(comfyui.prompts) == 1
    picture = Path(unquote(urlparse(run.result["image"]["url"]).path))
    with Image.open(picture) as image:
        assert image.size == (1344, 768), "16:9 in SDXL's own buckets"
    assert run.page_path.read_text(encoding="utf-8").startswith("<!")


async def test_copywriter_and_reviewer_do_not_wait_for_the_image(
    ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    order = []
    comfyui.seconds_per_image = 1.0
    async with Sparklio() as studio:
        async for event in studio.stream(brand=BRAND, product=PRODUCT):
            if event["type"] == "node_finished":
                order.append(event["node"])
    assert order == ["brand", "brief", "strategist", "copywriter", "reviewer", "vision"]


async def test_events_tell_the_whole_story(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        events = [event async for event in studio.stream(brand=BRAND, product=PRODUCT)]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert (events[0]["type"], events[-1]["type"]) == ("run_started", "run_finished")
    types = Counter(event["type"] for event in events)
    assert (types["node_started"], types["node_finished"]) == (6, 6)
    assert types["token"] > 6
    assert types["image_progress"] > 0
    finished = [event for event in events if event["type"] == "node_finished"]
    assert all({"provider", "model", "usage", "cached", "checkpoint_id"} <= set(event["data"]) for event in finished)
    assert Path(events[-1]["data"]["page"]).is_file()
    text = "".join(e["data"]["text"] for e in events if e["type"] == "token" and e["node"] == "brief")
    assert '"positioning"' in text


@pytest.mark.each_place
async def test_checkpoints_of_events_stand_in_the_history() -> None:
    async with Sparklio() as studio:
        events = [event async for event in studio.stream(brand=BRAND, product=PRODUCT)]
        points = await studio.history(events[0]["run_id"])
    known = {point.checkpoint_id for point in points}
    assert all(e["data"]["checkpoint_id"] in known for e in events if e["type"] == "node_finished")
    assert points[-1].next == ()
    assert not any("copy_desk" in point.next or "settle" in point.next for point in points)
    assert ("reviewer",) in [point.next for point in points]


@pytest.mark.each_place
async def test_a_failed_review_sends_the_copy_back_once(ollama: OllamaStandIn) -> None:
    ollama.answers_for["StyleReview"].extend([REJECTED, REJECTED | {"score": 60}])
    async with Sparklio() as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT)
    assert _tasks(ollama)["ProductDetail"] == 2
    assert (run.result["review"]["revisions"], run.result["review"]["stopped_because"]) == (1, "revision_limit")
    assert run.result["review"]["score"] == 60
    revision = next(body for body in reversed(ollama.chats) if body["format"]["title"] == "ProductDetail")
    assert "지어낸 인증" in revision["messages"][-1]["content"]
    assert run.result["meta"]["nodes"]["copywriter"]["attempts"] == 2


async def test_the_better_version_is_kept(ollama: OllamaStandIn) -> None:
    ollama.answers_for["StyleReview"].extend([REJECTED, REJECTED | {"score": 10}])
    async with Sparklio() as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT)
    assert (run.result["review"]["score"], run.result["review"]["stopped_because"]) == (40, "revision_not_better")


@pytest.mark.each_place
async def test_rerun_from_copywriter_keeps_everything_beside_it(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    async with Sparklio() as studio:
        first = await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        ollama.chats.clear()
        again = await studio.rerun("page", start_at="copywriter", changes={"brief": {"target": "캠핑족"}})
        assert _tasks(ollama) == {"ProductDetail": 1, "StyleReview": 1}
        assert len(comfyui.prompts) == 1
        assert "캠핑족" in ollama.chats[0]["messages"][-1]["content"]
        assert again.id == "page.2"
        assert again.result["meta"]["parent"] == {"run_id": "page", "start_at": "copywriter"}
        assert again.result["image"]["image_id"] == first.result["image"]["image_id"]
        assert again.result["brief"]["target"] == "캠핑족"
        cached = {name: entry["cached"] for name, entry in again.result["meta"]["nodes"].items()}
        assert cached == {name: name not in ("copywriter", "reviewer") for name in NODES}
        third = await studio.rerun("page.2", start_at="vision")
        assert (third.id, len(comfyui.prompts)) == ("page.3", 2)
        assert third.result["brief"]["target"] == "캠핑족"
        assert {point.run_id for point in await studio.history("page.3")} == {"page", "page.2", "page.3"}


async def test_rerun_of_a_change_alone_runs_what_reads_it(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    async with Sparklio() as studio:
        await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        ollama.chats.clear()
        await studio.rerun("page", changes={"image_input.kind": "hero"})
        assert _tasks(ollama) == {"ImagePrompt": 1}
        ollama.chats.clear()
        await studio.rerun("page", changes={"brief.target": "캠핑족"})
        assert _tasks(ollama) == {"ContentPlan": 1, "ProductDetail": 1, "StyleReview": 1, "ImagePrompt": 1}
        ollama.chats.clear()
        edited = await studio.rerun("page", changes={"review.summary": "제가 봤습니다"})
        assert not ollama.chats
        assert edited.result["review"]["summary"] == "제가 봤습니다"


async def test_a_user_s_own_copy_is_reviewed_and_never_rewritten(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        ollama.chats.clear()
        ollama.answers_for["StyleReview"].append(REJECTED)
        edited = await studio.rerun("page", changes={"copy.headline": "제 문장"})
    assert _tasks(ollama) == {"StyleReview": 1}
    assert edited.result["copy"]["headline"] == "제 문장"
    assert edited.result["review"]["stopped_because"] == "copy_given"


@pytest.mark.each_place
async def test_resume_after_a_failure_repeats_no_finished_node(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    ollama.fail_always("status_400", task="StyleReview")
    comfyui.seconds_per_image = 0.0
    async with Sparklio() as studio:
        with pytest.raises(RejectedError) as caught:
            await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        assert caught.value.run_id == "page"
        before = _tasks(ollama)
        ollama.fail_always(None)
        run = await studio.resume("page")
    new = _tasks(ollama) - before
    assert new["StyleReview"] == 1
    assert set(new) <= {"StyleReview", "ImagePrompt"}, "vision may have been cut short by the failure beside it"
    assert set(run.result["meta"]["nodes"]) == NODES
    assert len(comfyui.prompts) == 1


@pytest.mark.each_place
async def test_resume_of_a_rerun_that_failed(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        ollama.fail_always("status_400", task="ProductDetail")
        with pytest.raises(RejectedError):
            await studio.rerun("page", start_at="copywriter", changes={"brief.target": "캠핑족"})
        ollama.fail_always(None)
        ollama.chats.clear()
        run = await studio.resume("page.2")
    assert _tasks(ollama) == {"ProductDetail": 1, "StyleReview": 1}
    assert run.result["brief"]["target"] == "캠핑족"


@pytest.mark.each_place
async def test_resume_of_a_finished_run_makes_no_call(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        first = await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        ollama.chats.clear()
        again = await studio.resume("page")
    assert not ollama.chats
    assert again.result == first.result


@pytest.mark.each_place
async def test_cancelled_run_is_resumable(ollama: OllamaStandIn, comfyui: ComfyUIStandIn) -> None:
    words = [{"prompt": f"earbuds, take {n}", "negative_prompt": "text"} for n in (1, 2)]
    ollama.answers_for["ImagePrompt"].extend(words)  # a model never writes the same twice
    comfyui.seconds_per_image = 5.0
    async with Sparklio() as studio:
        events = studio.stream(brand=BRAND, product=PRODUCT, run_id="page")
        async for event in events:
            if event["type"] == "node_finished" and event["node"] == "reviewer":
                break
        await events.aclose()
        assert studio.runs.store.load("page").status == "interrupted"
        ollama.chats.clear()
        comfyui.seconds_per_image = 0.0
        run = await studio.resume("page")
    assert not ollama.chats, "every answer was recorded, vision's words too"
    assert len(comfyui.prompts) == 1, "the image job went on without us and was found again by its id"
    assert run.result["image"]["prompt_used"] == "earbuds, take 1", "the words that made this very image"


@pytest.mark.each_place
async def test_a_loop_that_was_left_can_be_resumed_at_once(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        async for event in studio.stream(brand=BRAND, product=PRODUCT, run_id="page"):
            if event["type"] == "node_finished" and event["node"] == "brief":
                break
        ollama.forget()
        run = await studio.resume("page")
    assert _tasks(ollama)["BrandSummary"] == 0
    assert set(run.result["meta"]["nodes"]) == NODES


@pytest.mark.each_place
async def test_a_resumed_run_tells_what_is_done_already(ollama: OllamaStandIn) -> None:
    ollama.fail_always("status_400", task="StyleReview")
    async with Sparklio() as studio:
        with pytest.raises(RejectedError):
            await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        ollama.fail_always(None)
        events = [event async for event in studio.runs.drive(studio.runs.resumable("page"))]
    assert events[0]["data"]["resumed"]
    done = set(events[0]["data"]["done"])
    assert {"brand", "brief", "strategist", "copywriter"} <= done
    assert {event["node"] for event in events if event["type"] == "node_started"} == NODES - done


async def test_a_fresh_run_and_its_rerun_start_without_old_checkpoints(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
        await studio.rerun("page", start_at="vision")
        shutil.rmtree(studio.runs.store.folder("page.2"))
        again = await studio.rerun("page", start_at="vision", changes={"image_input.kind": "hero"})
    assert (again.id, again.result["image"]["kind"]) == ("page.2", "hero")


async def test_errors_of_python_callers_are_typed(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        with pytest.raises(UnknownNameError, match="draft, final"):
            await studio.run(brand=BRAND, product=PRODUCT, stage="best")  # type: ignore[arg-type]  # a caller's mistake
        with pytest.raises(UnknownNameError, match="ascii, mermaid, svg"):
            studio.draw("png")  # type: ignore[arg-type]  # a caller's mistake
        with pytest.raises(InputError, match="key_features"):
            await studio.run(brand=BRAND, product={"name": "x"})
    with pytest.raises(UnknownNameError, match="OLLAMA_URL"):
        Sparklio(settings={"OLLAMA_URL": "x"})
    assert not ollama.chats


@pytest.mark.each_place
async def test_one_run_id_has_one_owner(ollama: OllamaStandIn) -> None:
    async with Sparklio() as one, Sparklio() as two:
        first = one.stream(brand=BRAND, product=PRODUCT, run_id="page")
        await anext(first)
        with pytest.raises(RunBusyError):
            await two.resume("page")
        await first.aclose()
        await two.resume("page")


async def test_a_run_is_resumed_in_its_own_mode(ollama: OllamaStandIn) -> None:
    ollama.fail_always("status_400", task="BrandSummary")
    async with Sparklio() as studio:
        with pytest.raises(RejectedError):
            await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
    async with Sparklio(mode="mock") as studio:
        with pytest.raises(UsageError, match="started in live"):
            await studio.resume("page")


async def test_many_runs_at_once_share_one_studio(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        runs = await asyncio.gather(
            *(studio.run(brand=BRAND, product=PRODUCT | {"name": f"제품 {n}"}, run_id=f"r{n}") for n in range(5))
        )
    for n, run in enumerate(runs):
        assert run.state["product_input"]["name"] == f"제품 {n}"
        log = (run.page_path.parent / "run.log").read_text(encoding="utf-8")
        assert log.count("node_finished") == 6, "each log holds its own run alone"


@pytest.mark.each_place
async def test_ids_drawn_twice_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = iter(["aaaa", "aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("graph.store.token_hex", lambda size: next(digits))
    monkeypatch.setattr("graph.store._now", lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    inputs = RunInput.parse({"brand": BRAND, "product": PRODUCT})
    async with Sparklio() as studio:
        ids = [(await studio.runs.start(inputs)).run_id for _ in range(2)]
    assert ids == ["20260102-030405-aaaa", "20260102-030405-bbbb"]


async def test_connections_are_pooled_and_closed(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        await studio.run(brand=BRAND, product=PRODUCT)
        await studio.run(brand=BRAND, product=PRODUCT)
        assert 1 <= ollama.open_connections <= 3
    await until(lambda: ollama.open_connections == 0)


async def test_model_that_is_not_pulled(ollama: OllamaStandIn) -> None:
    ollama.models.clear()
    async with Sparklio() as studio:
        with pytest.raises(ModelNotFoundError) as caught:
            await studio.run(brand=BRAND, product=PRODUCT)
    assert "ollama pull" in caught.value.hint


async def test_a_500_once_is_healed(ollama: OllamaStandIn) -> None:
    ollama.fail("status_500")
    async with Sparklio() as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT)
    assert run.result["meta"]["nodes"]["brand"]["attempts"] == 2


@pytest.mark.each_place
async def test_a_500_for_ever_is_a_typed_error(ollama: OllamaStandIn) -> None:
    ollama.fail_always("status_500", task="BrandSummary")
    async with Sparklio() as studio:
        events = []
        with pytest.raises(ServerError):
            async for event in studio.stream(brand=BRAND, product=PRODUCT):
                events.append(event)
    assert [event["type"] for event in events][-2:] == ["node_failed", "run_failed"]
    assert events[-1]["data"]["hint"]


async def test_port_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_BASE_URL", f"http://127.0.0.1:{free_port()}")
    async with Sparklio() as studio:
        with pytest.raises(UnreachableError) as caught:
            await studio.run(brand=BRAND, product=PRODUCT)
    assert "OLLAMA_BASE_URL" in caught.value.hint


async def test_english_in_english_out(ollama: OllamaStandIn) -> None:
    async with Sparklio() as studio:
        await studio.run(brand=BRAND, product=PRODUCT, language="en")
    system: list[Any] = [body["messages"][0]["content"] for body in ollama.chats]
    assert not any("가" <= char <= "힣" for text in system for char in text)


async def test_a_line_of_no_run_is_in_no_run_s_log(tmp_path: Path) -> None:
    with run_log(tmp_path / "run.log", "None", ()):  # an id like any other
        logging.getLogger("routing").info("of nobody")
        logging.getLogger("routing").info("of the run", extra={"run_id": "None"})
    written = (tmp_path / "run.log").read_text(encoding="utf-8")
    assert "of the run" in written
    assert "of nobody" not in written


async def test_a_run_log_is_whole_though_another_run_ends_and_handlers_are_replaced(tmp_path: Path) -> None:
    with run_log(tmp_path / "a.log", "a", ()):
        logging.getLogger("routing").handlers = [logging.NullHandler()]  # as the command line does when it starts
        with run_log(tmp_path / "b.log", "b", ()):
            logging.getLogger("routing").info("of b", extra={"run_id": "b"})
        logging.getLogger("routing").info("of a", extra={"run_id": "a"})
    assert "of b" in (tmp_path / "b.log").read_text(encoding="utf-8")
    assert "of a" in (tmp_path / "a.log").read_text(encoding="utf-8")
