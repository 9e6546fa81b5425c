"""Stopping one image at ComfyUI: our own, wherever it stands, and nobody else's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from providers.base import ImageProviderResponse, ProviderConfig
from providers.errors import (
    AuthenticationError,
    JobError,
    OverloadedError,
    ProviderError,
    ServerError,
    UnreachableError,
)
from providers.media.comfyui import ComfyUIProvider
from providers.media.comfyui.client import ComfyUIClient
from providers.media.comfyui.watch import Patience
from tests.standins.comfyui import ComfyUIStandIn, Fault
from tests.standins.server import free_port
from tests.waiting import until

KEY = "run:ours"
HERO = {"workflow": "hero_v1", "steps": 3, "idempotency_key": KEY}
OTHER_GRAPH = json.loads((Path(__file__).parent.parent / "workflows" / "hero_v1.json").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ComfyUIProvider, "patience", Patience(poll_s=0.03, idle_queue_s=5, still_queue_s=20))


@pytest.fixture
def comfyui() -> Iterator[ComfyUIStandIn]:
    with ComfyUIStandIn(history_delay=0.005) as stand_in:
        yield stand_in


@pytest.fixture
async def provider(comfyui: ComfyUIStandIn) -> AsyncIterator[ComfyUIProvider]:
    provider = make(comfyui.url)
    yield provider
    await provider.aclose()


def make(url: str) -> ComfyUIProvider:
    return ComfyUIProvider(ProviderConfig("comfyui", {"COMFYUI_BASE_URL": url, "COMFYUI_TIMEOUT": "20"}))


async def order(provider: ComfyUIProvider, comfyui: ComfyUIStandIn, *, jobs: int = 1) -> None:
    """Order our image and stop waiting for it; it is the last of so many ``jobs`` that the server was given."""
    waiting = asyncio.create_task(provider.generate("a jar", "hero", HERO))
    await until(lambda: len(comfyui.accepted) == jobs and (comfyui.running or comfyui.pending))
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting


async def image(provider: ComfyUIProvider) -> ImageProviderResponse:
    async with asyncio.timeout(20):
        return await provider.generate("a jar", "hero", HERO)


@pytest.mark.parametrize("old", [False, True], ids=["", "old server"])
async def test_a_job_that_waits_is_taken_out_of_the_queue(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider, old: bool
) -> None:
    comfyui.old_interrupt = old
    comfyui.hold()
    other = comfyui.submit(OTHER_GRAPH)
    await until(lambda: comfyui.running == other)
    await order(provider, comfyui, jobs=2)
    ours = comfyui.accepted[-1]
    await provider.cancel(KEY)
    assert (comfyui.pending, comfyui.deleted, comfyui.interrupts) == ([], [ours], [])
    comfyui.release()
    await until(lambda: comfyui.executed == [other])


async def test_a_job_that_runs_is_interrupted(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    comfyui.hold()
    await order(provider, comfyui)
    ours = comfyui.accepted[0]
    await until(lambda: comfyui.running == ours)
    other = comfyui.submit(OTHER_GRAPH)
    await provider.cancel(KEY)
    await until(lambda: ours in comfyui.finished)
    assert comfyui.finished[ours]["status"]["messages"][-1][0] == "execution_interrupted"
    comfyui.release()
    await until(lambda: comfyui.executed == [other])
    assert (comfyui.interrupts, comfyui.interrupted) == ([{"prompt_id": ours}], [ours])


async def test_a_job_that_begins_to_run_meanwhile_is_interrupted(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was pending when the queue was read, and its deletion comes too late."""
    comfyui.hold()
    comfyui.submit(OTHER_GRAPH)
    await order(provider, comfyui, jobs=2)
    ours = comfyui.accepted[-1]
    delete = ComfyUIClient.delete_from_queue

    async def late(client: ComfyUIClient, prompt_id: str) -> None:
        comfyui.release()
        await until(lambda: len(comfyui.executed) == 1)
        comfyui.hold()
        await until(lambda: comfyui.running == ours)
        await delete(client, prompt_id)

    monkeypatch.setattr(ComfyUIClient, "delete_from_queue", late)
    comfyui.seconds_per_image = 0.3  # so that ours does not slip through between release and hold
    await provider.cancel(KEY)
    await until(lambda: ours in comfyui.finished)
    assert comfyui.interrupted == [ours]


async def test_the_second_try_of_a_job_that_got_lost_is_stopped(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    comfyui.inject(Fault.VANISH)
    waiting = asyncio.create_task(provider.generate("a jar", "hero", HERO))
    await until(lambda: len(comfyui.accepted) == 1)
    comfyui.hold()
    await until(lambda: len(comfyui.accepted) == 2 and comfyui.running == comfyui.accepted[1])
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await provider.cancel(KEY)
    await until(lambda: comfyui.accepted[1] in comfyui.finished)
    assert comfyui.interrupted == [comfyui.accepted[1]]


async def test_a_finished_job_keeps_its_image(comfyui: ComfyUIStandIn, provider: ComfyUIProvider) -> None:
    first = await image(provider)
    await provider.cancel(KEY)
    again = await image(provider)
    assert (comfyui.deleted, comfyui.interrupts, len(comfyui.accepted)) == ([], [], 1)
    assert again.images[0].content == first.images[0].content


@pytest.mark.parametrize("old", [False, True], ids=["", "old server"])
async def test_an_unknown_job_is_nobody_s(comfyui: ComfyUIStandIn, provider: ComfyUIProvider, old: bool) -> None:
    comfyui.old_interrupt = old
    comfyui.hold()
    other = comfyui.submit(OTHER_GRAPH)
    await until(lambda: comfyui.running == other)
    await provider.cancel(KEY)
    assert (comfyui.deleted, comfyui.interrupts, comfyui.running) == ([], [], other)
    comfyui.release()
    await until(lambda: comfyui.executed == [other])


@pytest.mark.parametrize("waits", [False, True], ids=["running", "pending"])
async def test_the_same_key_has_its_image_after_it_was_stopped(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider, waits: bool
) -> None:
    comfyui.hold()
    if waits:
        comfyui.submit(OTHER_GRAPH)
    await order(provider, comfyui, jobs=1 + waits)
    stopped = comfyui.accepted[-1]
    await provider.cancel(KEY)
    comfyui.release()
    assert (await image(provider)).images
    assert comfyui.executed.count(stopped) == (1 if waits else 0), "one that never ran may have its id again"
    assert len(comfyui.accepted) == 2 + waits


async def test_who_still_waits_for_a_running_job_hears_of_it(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider
) -> None:
    comfyui.hold()
    waiting = asyncio.create_task(image(provider))
    await until(lambda: comfyui.running)
    await provider.cancel(KEY)
    with pytest.raises(JobError) as caught:
        await waiting
    assert caught.value.details["reason"] == "interrupted"


FAILURES: dict[str, tuple[int, type[ProviderError]]] = {
    "busy": (503, OverloadedError),
    "broken": (500, ServerError),
    "proxy": (401, AuthenticationError),
}


@pytest.mark.parametrize("path", ["/queue", "/interrupt"])
@pytest.mark.parametrize("what", FAILURES)
async def test_a_server_that_fails_is_a_typed_error(
    comfyui: ComfyUIStandIn, provider: ComfyUIProvider, what: str, path: str
) -> None:
    status, kind = FAILURES[what]
    comfyui.hold()
    await order(provider, comfyui)
    await until(lambda: comfyui.running)
    comfyui.answer_next(path, status)
    with pytest.raises(ProviderError) as caught:
        await provider.cancel(KEY)
    assert type(caught.value) is kind
    assert caught.value.hint


async def test_a_server_that_is_not_there_is_a_typed_error() -> None:
    provider = make(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UnreachableError) as caught:
        await provider.cancel(KEY)
    assert caught.value.hint
    await provider.aclose()


async def test_withdrawing_asks_no_more_of_a_server_that_fails(comfyui: ComfyUIStandIn) -> None:
    client: Any = ComfyUIClient(comfyui.url)
    comfyui.answer_next("/queue", 500)
    await client.withdraw("00000000-0000-0000-0000-000000000000")
    assert comfyui.requests == [("POST", "/queue")]
    await client.aclose()
