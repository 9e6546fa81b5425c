"""The provider: options, one image per key, and what becomes of every fault."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from providers.base import ImageChunk, ProviderConfig
from providers.errors import (
    AttemptTimeoutError,
    JobError,
    ModelNotFoundError,
    OverloadedError,
    RejectedError,
    ServerError,
    SparklioError,
    UnknownNameError,
    UnreachableError,
    WorkflowError,
)
from providers.media.comfyui import ComfyUIProvider
from providers.media.comfyui.watch import Patience
from tests.standins.comfyui import ComfyUIStandIn, Fault
from tests.standins.server import free_port
from tests.waiting import until

HERO = {"workflow": "hero_v1", "steps": 3}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Patience(poll_s=0.03, idle_queue_s=0.15, still_queue_s=20, outage_s=10)
    monkeypatch.setattr(ComfyUIProvider, "patience", quick)


@pytest.fixture
def comfyui() -> Iterator[ComfyUIStandIn]:
    with ComfyUIStandIn(history_delay=0.005) as stand_in:
        yield stand_in


@pytest.fixture
async def provider(comfyui: ComfyUIStandIn) -> AsyncIterator[ComfyUIProvider]:
    provider = make(comfyui.url)
    yield provider
    await provider.aclose()


def make(url: str, *, timeout: str = "20", folder: str | None = None) -> ComfyUIProvider:
    values = {"COMFYUI_BASE_URL": url, "COMFYUI_TIMEOUT": timeout, "COMFYUI_WORKFLOW_DIR": folder}
    return ComfyUIProvider(ProviderConfig("comfyui", values))


async def failure(provider: ComfyUIProvider, **options: Any) -> SparklioError:
    with pytest.raises(SparklioError) as caught:
        await provider.generate("a jar", "hero", {**HERO, **options})
    assert caught.value.message
    assert caught.value.hint
    return caught.value


# what is made


async def test_an_image(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    response = await provider.generate("초코 프로틴", "hero", {**HERO, "aspect_ratio": "9:16", "seed": 42})
    [image] = response.images
    assert response.provider == "comfyui"
    assert (image.width, image.height) == (768, 1344)
    assert Image.open(io.BytesIO(image.content)).size == (768, 1344)
    assert image.media_type == "image/png"
    assert image.seed == 42
    [prompt_id] = comfyui.accepted
    assert str(uuid.UUID(prompt_id)) == prompt_id
    assert image.meta == {
        "workflow": "hero_v1",
        "prompt_id": prompt_id,
        "checkpoint": "sd_xl_base_1.0.safetensors",
        "prompt": "초코 프로틴",
        "negative_prompt": comfyui.prompts[0]["prompt"]["7"]["inputs"]["text_g"],
        "filename": f"hero_v1_{prompt_id[:8]}_00001_.png",
    }
    [sent] = comfyui.prompts
    assert set(sent) == {"prompt", "prompt_id", "client_id"}
    assert sent["prompt"]["6"]["inputs"]["text_g"] == "초코 프로틴"


async def test_every_option_has_its_place_and_strangers_have_none(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    comfyui.checkpoints.append("turbo.safetensors")
    options = {
        "workflow": "product_shot_v1",
        "negative_prompt": "hands",
        "seed": 2**63 - 1,
        "width": 640,
        "height": 512,
        "aspect_ratio": "16:9",
        "checkpoint": "turbo.safetensors",
        "steps": 2,
        "base_url": "http://evil.example",
        "COMFYUI_WORKFLOW_DIR": "/etc",
    }
    response = await provider.generate("a jar", "product_shot", options)
    graph = comfyui.prompts[0]["prompt"]
    assert graph["7"]["inputs"]["text"] == "hands"
    assert graph["3"]["inputs"]["seed"] == response.images[0].seed == 2**63 - 1
    assert graph["3"]["inputs"]["steps"] == 2
    assert (response.images[0].width, response.images[0].height) == (640, 512)
    assert response.images[0].meta["checkpoint"] == "turbo.safetensors"


async def test_without_options_the_workflow_decides_but_the_seed_is_fresh(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    empty = {"negative_prompt": "", "seed": None, "width": None, "aspect_ratio": None, "steps": None}
    first = await provider.generate("a jar", "concept", {"workflow": "concept_v1", **empty})
    second = await provider.generate("a jar", "concept", {"workflow": "concept_v1"})
    assert (first.images[0].width, first.images[0].height) == (1216, 832)
    assert first.images[0].seed != second.images[0].seed
    assert comfyui.prompts[0]["prompt"]["7"]["inputs"]["text_g"].startswith("text, letters")


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"width": 800, "aspect_ratio": "16:9"}, (800, 448)),
        ({"height": 800, "aspect_ratio": "1:2"}, (400, 800)),
        ({"width": 640}, (640, 768)),
        ({"height": 641}, (1344, 640)),
        ({"width": 64, "aspect_ratio": "999:1"}, (64, 64)),
        ({"width": 333, "height": 20}, (336, 64)),
    ],
)
async def test_sizes(provider: ComfyUIProvider, options: dict[str, Any], size: tuple[int, int]) -> None:
    [image] = (await provider.generate("a jar", "hero", {**HERO, **options})).images
    assert (image.width, image.height) == size


async def test_progress_then_the_response(provider: ComfyUIProvider) -> None:
    chunks = [chunk async for chunk in provider.stream("a jar", "hero", HERO)]
    assert chunks[:-1] == [ImageChunk(1, 3), ImageChunk(2, 3), ImageChunk(3, 3)]
    assert chunks[-1].response is not None


async def test_progress_of_others_is_not_ours(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    comfyui.hold()
    first = asyncio.ensure_future(provider.generate("a jar", "hero", {**HERO, "steps": 7}))
    await until(lambda: comfyui.running)
    comfyui.release()
    chunks = [chunk async for chunk in provider.stream("a jar", "hero", HERO)]
    assert {chunk.steps for chunk in chunks[:-1]} == {3}
    await first


async def test_a_users_own_workflow(comfyui: ComfyUIStandIn, tmp_path: Path) -> None:
    graph = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 96, "height": 64, "batch_size": 1, "color": 0}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "PrimitiveNote", "inputs": {"text": ""}, "_meta": {"title": "@prompt"}},
    }
    comfyui._nodes["PrimitiveNote"] = {"input": {"required": {}}, "output": [], "output_node": False}
    (tmp_path / "mine.json").write_text(json.dumps(graph), encoding="utf-8")
    provider = make(comfyui.url, folder=str(tmp_path))
    response = await provider.generate("a jar", "hero", {"workflow": "mine", "aspect_ratio": "1:1", "seed": 3})
    assert (response.images[0].width, response.images[0].height) == (96, 64)  # an unmarked size is the workflow's own
    assert response.images[0].meta["checkpoint"] is None
    assert response.images[0].meta["prompt"] == "a jar"
    assert "negative_prompt" not in response.images[0].meta  # it has no such slot
    assert comfyui.prompts[0]["prompt"]["3"]["inputs"]["text"] == "a jar"
    await provider.aclose()


async def test_the_same_seed_twice_makes_a_file_of_its_own_each_time(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    first = await provider.generate("a jar", "hero", {**HERO, "seed": 1})
    comfyui.files.clear()
    second = await provider.generate("a jar", "hero", {**HERO, "seed": 1})
    assert second.images[0].content == first.images[0].content


async def test_health(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    assert await provider.health_check()
    comfyui.answer_next("/system_stats", 500)
    assert not await provider.health_check()
    assert {path for _, path in comfyui.requests} == {"/system_stats"}


def test_a_provider_lives_in_several_loops(comfyui: ComfyUIStandIn) -> None:
    provider = make(comfyui.url)

    async def once() -> int:
        width = (await provider.generate("a jar", "hero", HERO)).images[0].width
        await provider.aclose()
        return width

    assert [asyncio.run(once()), asyncio.run(once())] == [1344, 1344]


# what cannot be asked


async def test_a_workflow_must_be_named(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    error = await failure(provider, workflow=None)
    assert isinstance(error, WorkflowError)
    assert "media_routing" in error.hint
    assert "thumbnail_v1" in error.hint
    assert isinstance(await failure(provider, workflow="../hero_v1"), UnknownNameError)
    assert comfyui.requests == []


@pytest.mark.parametrize(
    "options",
    [{"width": "wide"}, {"seed": -1}, {"steps": 10_000}, {"aspect_ratio": "wide"}, {"checkpoint": ["x"]},
     {"workflow": 3}, {"idempotency_key": ""}],
)  # fmt: skip
async def test_options_that_cannot_be_used(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider, options: dict[str, Any]
) -> None:
    assert isinstance(await failure(provider, **options), RejectedError)
    assert comfyui.requests == []


@pytest.mark.parametrize(
    "options",
    [{"workflow": None}, {"workflow": "hero"}, {"workflow": "bad"}, {"aspect_ratio": "wide"}, {"width": "wide"}],
)
async def test_a_check_says_what_generating_would_say(
    comfyui: ComfyUIStandIn, tmp_path: Path, options: dict[str, Any]
) -> None:
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    provider = make(comfyui.url, folder=str(tmp_path))
    later = await failure(provider, **options)
    with pytest.raises(SparklioError) as caught:
        await provider.check("hero", {**HERO, **options})
    assert (type(caught.value), caught.value.to_dict()) == (type(later), later.to_dict())
    await provider.check("hero", HERO)
    assert comfyui.requests == []


async def test_a_missing_checkpoint(provider: ComfyUIProvider) -> None:
    error = await failure(provider, checkpoint="../x.safetensors")
    assert isinstance(error, ModelNotFoundError)
    assert error.hint.endswith("available there: sd_xl_base_1.0.safetensors")


async def test_nobody_is_at_home() -> None:
    provider = make(f"http://user:pw@127.0.0.1:{free_port()}")
    error = await failure(provider)
    assert isinstance(error, UnreachableError)
    assert "user" not in str(error.to_dict())
    assert not await provider.health_check()
    await provider.aclose()


# one image per key


async def test_a_finished_job_of_the_same_key_is_not_made_again(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    key = {**HERO, "idempotency_key": "run-1:vision:abc"}
    first = await provider.generate("a jar", "hero", key)
    second = await provider.generate("a jar", "hero", key)
    assert comfyui.accepted == [first.meta["prompt_id"]]
    assert second.images == first.images  # the seed too is that of the first


async def test_a_running_job_is_picked_up_after_cancellation(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    comfyui.hold()
    key = {**HERO, "idempotency_key": "run-2"}
    task = asyncio.ensure_future(provider.generate("a jar", "hero", key))
    await until(lambda: comfyui.running)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert comfyui.running
    chunks: list[ImageChunk] = []

    async def resume() -> None:
        async for chunk in provider.stream("a jar", "hero", key):
            chunks.append(chunk)  # the test looks at what has come so far

    again = asyncio.ensure_future(resume())
    await until(lambda: len([path for _, path in comfyui.requests if path == "/ws"]) == 2)
    comfyui.release()
    await again
    assert chunks[-1].response is not None
    assert chunks[-1].response.images[0].seed == comfyui.prompts[0]["prompt"]["3"]["inputs"]["seed"]
    assert len(comfyui.accepted) == 1
    assert comfyui.interrupts == []
    assert comfyui.deleted == []


async def test_meta_tells_the_words_that_ran(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    key = {**HERO, "idempotency_key": "run-8"}
    await provider.generate("a jar", "hero", {**key, "negative_prompt": "hands"})
    again = await provider.generate("a bottle", "hero", {**key, "negative_prompt": "feet"})
    assert again.images[0].meta["prompt"] == "a jar"
    assert again.images[0].meta["negative_prompt"] == "hands"


async def test_cancelling_at_any_moment_leaves_nothing_open(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    for milliseconds in range(0, 24, 3):
        task = asyncio.create_task(provider.generate("a jar", "hero", HERO))
        await asyncio.sleep(milliseconds / 1000)
        task.cancel()
        await asyncio.wait({task})
    await provider.aclose()
    await until(lambda: comfyui.open_connections == 0)
    gc.collect()  # a transport that nobody closed fails the test


async def test_a_pending_job_is_picked_up(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    comfyui.hold()
    other = asyncio.ensure_future(provider.generate("x", "hero", HERO))
    await until(lambda: comfyui.running)
    key = {**HERO, "idempotency_key": "run-3"}
    tasks = [asyncio.ensure_future(provider.generate("a jar", "hero", key))]
    await until(lambda: comfyui.pending)
    tasks.append(asyncio.ensure_future(provider.generate("a jar", "hero", key)))
    await until(lambda: len([path for _, path in comfyui.requests if path == "/ws"]) == 3)
    comfyui.release()
    first, second = await asyncio.gather(*tasks)
    assert first.images == second.images
    await other
    assert len(comfyui.accepted) == 2


async def test_a_failed_job_of_the_same_key_is_made_again_under_another_id(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    key = {"idempotency_key": "run-4"}
    for fault in (Fault.EXECUTION_ERROR, Fault.INTERRUPTED):
        comfyui.inject(fault)
        assert isinstance(await failure(provider, **key), JobError)
    await provider.generate("a jar", "hero", {**HERO, **key})
    assert len(set(comfyui.accepted)) == 3


async def test_an_image_that_is_gone_is_made_again(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    key = {**HERO, "idempotency_key": "run-5", "seed": 5}
    await provider.generate("a jar", "hero", key)
    comfyui.files.clear()
    await provider.generate("a jar", "hero", key)
    assert len(set(comfyui.accepted)) == 2


async def test_the_same_key_makes_the_same_id_and_another_key_another(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    for key in ("a", "b"):
        await provider.generate("a jar", "hero", {**HERO, "idempotency_key": key})
    before = list(comfyui.accepted)
    comfyui.restart()
    await provider.generate("a jar", "hero", {**HERO, "idempotency_key": "a"})
    assert comfyui.accepted == [*before, before[0]]
    assert before[0] != before[1]


# faults


@pytest.mark.parametrize("key", [None, "run-6"])
async def test_an_accepted_prompt_is_not_sent_again(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider, key: str | None
) -> None:
    comfyui.inject(Fault.AMBIGUOUS_POST)
    await provider.generate("a jar", "hero", {**HERO, "idempotency_key": key})
    assert len(comfyui.accepted) == 1


async def test_a_prompt_that_did_not_arrive_is_sent_once_more(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    comfyui.inject(Fault.LOST_POST)
    await provider.generate("a jar", "hero", HERO)
    assert len(comfyui.prompts) == 2
    comfyui.inject(Fault.LOST_POST, Fault.LOST_POST)
    assert isinstance(await failure(provider), UnreachableError)
    assert len(comfyui.prompts) == 4
    assert len(comfyui.accepted) == 1


@pytest.mark.parametrize("fault", [Fault.VANISH, Fault.RESTART])
async def test_a_lost_job_is_submitted_once_more(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider, fault: Fault
) -> None:
    comfyui.restart_seconds = 0.1
    comfyui.inject(fault)
    response = await provider.generate("a jar", "hero", {**HERO, "idempotency_key": "run-7"})
    assert len(set(comfyui.accepted)) == 2
    assert response.meta["prompt_id"] == comfyui.accepted[1]
    again = await provider.generate("a jar", "hero", {**HERO, "idempotency_key": "run-7"})
    assert again.images == response.images
    assert len(comfyui.accepted) == 2


async def test_a_job_lost_twice(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    comfyui.inject(Fault.VANISH, Fault.VANISH)
    error = await failure(provider)
    assert isinstance(error, JobError)
    assert error.details["reason"] == "lost"
    assert len(comfyui.accepted) == 2


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault.OVERLOADED_503, OverloadedError, "503"),
        (Fault.ERROR_500, ServerError, "500"),
        (Fault.OK_200_WITH_NODE_ERRORS, RejectedError, "Exception when validating node"),
        (Fault.EXECUTION_ERROR, JobError, "RuntimeError"),
        (Fault.OUT_OF_MEMORY, JobError, "torch.OutOfMemoryError"),
        (Fault.INTERRUPTED, JobError, "was interrupted"),
        (Fault.STALLED, JobError, "does not start"),
        (Fault.NO_IMAGES, WorkflowError, "made no image"),
        (Fault.IMAGE_404, JobError, "no longer has the image"),
    ],
)
async def test_faults_are_typed_errors(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider, fault: Fault, kind: type[SparklioError], words: str
) -> None:
    comfyui.inject(fault)
    error = await failure(provider)
    assert isinstance(error, kind)
    assert words in error.message
    shown = json.dumps(error.to_dict())
    assert "/srv" not in shown
    assert "Traceback" not in shown
    assert len(shown) < 1500


async def test_out_of_memory_has_a_hint_of_its_own(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    comfyui.inject(Fault.OUT_OF_MEMORY)
    error = await failure(provider)
    assert "out of memory" in error.hint
    assert error.details["reason"] == "out_of_memory"


@pytest.mark.parametrize("fault", [Fault.WS_REFUSED, Fault.WS_SILENT, Fault.WS_CLOSED])
async def test_the_websocket_is_a_luxury(comfyui: ComfyUIStandIn, provider: ComfyUIProvider, fault: Fault) -> None:
    comfyui.inject(fault)
    assert (await provider.generate("a jar", "hero", HERO)).images


async def test_our_own_timeout_stops_our_own_job(comfyui: ComfyUIStandIn) -> None:
    provider = make(comfyui.url, timeout="0.15")
    comfyui.inject(Fault.HANGS)
    error = await failure(provider)
    assert isinstance(error, AttemptTimeoutError)
    assert comfyui.interrupted == comfyui.accepted
    await provider.aclose()


async def test_a_file_that_is_no_image(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    comfyui._draw = lambda graph, node: b"GIF89a"  # type: ignore[method-assign]  # what a custom node might write
    error = await failure(provider)
    assert "is not a PNG, JPEG or WebP image" in error.message
