"""What the tasks of a worker do, in this process: a run, one agent, an image; stopped, repeated and failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from providers.errors import DeadlineError, InputError, JobError, StorageError, UnreachableError
from routing.contracts import ImageOptions, ImageRequest
from routing.fingerprints import digest
from routing.media_gateway import MediaGateway
from sparklio.worker.agents import answer_of_agent
from sparklio.worker.broker import connect
from sparklio.worker.drive import RunDriver, is_transient
from sparklio.worker.image_maker import ImageMaker
from sparklio.worker.images import QueuedImages
from sparklio.worker.loop import WorkerLoop
from sparklio.worker.orders import Orders
from tests.conftest import BRAND
from tests.redis_server import RedisServer
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.workers import Office, office, until

ORDER = ImageRequest(prompt="a bottle", options=ImageOptions(idempotency_key="key-1"))


@pytest.fixture
async def boss(tmp_path: Path, database_url: str, redis: RedisServer, live: None) -> AsyncIterator[Office]:
    settings = {
        "SPARKLIO_DATABASE_URL": database_url,
        "SPARKLIO_BROKER_URL": redis.url,
        "SPARKLIO_ARTIFACTS_URL": tmp_path.as_uri(),
        "SPARKLIO_MAX_DELIVERIES": "3",
    }
    async with office(tmp_path, **settings) as opened:
        yield opened


def driver(boss: Office, stopping: asyncio.Event | None = None) -> RunDriver:
    return RunDriver(boss.studio.runs, boss.queue, stopping or asyncio.Event(), 2)


async def test_a_message_that_comes_again_finds_nothing_to_do(boss: Office, ollama: OllamaStandIn) -> None:
    await boss.book("run")
    became = await asyncio.gather(*(driver(boss).execute("run") for _ in range(3)))
    assert "finished" in became
    assert set(became) <= {"busy", "finished"}
    assert await driver(boss).execute("run") == "finished"
    assert await driver(boss).execute("nobody") == "deleted"
    assert (len(ollama.chats), boss.queue.deliveries("run")) == (6, 1)


async def test_a_process_that_ends_gives_its_run_back(boss: Office, comfyui: ComfyUIStandIn) -> None:
    await boss.book("run")
    comfyui.hold()
    stopping = asyncio.Event()
    driving = asyncio.create_task(driver(boss, stopping).execute("run"))
    await until(lambda: comfyui.running)
    stopping.set()
    assert await driving == "given back"
    assert (boss.statuses("run"), boss.queue.deliveries("run")) == (["queued"], 0)
    assert await driver(boss, stopping).execute("run") == "given back"


async def test_a_run_that_is_wanted_no_more_is_stopped_with_its_image(boss: Office, comfyui: ComfyUIStandIn) -> None:
    await boss.book("run")
    comfyui.hold()
    driving = asyncio.create_task(driver(boss).execute("run"))
    await until(lambda: comfyui.running)
    assert boss.store.request_cancel("run")
    assert await driving == "cancelled"
    assert len(comfyui.interrupted) == 1


async def test_a_service_that_is_away_costs_a_delivery_and_then_the_run(
    boss: Office, ollama: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routing.attempts._BACKOFF", lambda state: 0.01)
    await boss.book("run")
    ollama.leave()
    assert await driver(boss).execute("run") == "queued again"
    assert boss.statuses("run") == ["queued"]
    assert await driver(boss).execute("run") == "failed"
    ollama.come_back()
    assert [letter.run_id for letter in boss.queue.dead_letters()] == ["run"]
    assert boss.queue.retry_all() == ["run"]
    assert await driver(boss).execute("run") == "finished"


async def test_what_fails_before_a_run_has_begun_costs_a_delivery_too(
    boss: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused() -> None:
        raise StorageError("a damaged checkpoint")

    monkeypatch.setattr(boss.studio.runs._driver, "_ready", refused)
    await boss.book("run")
    assert [await driver(boss).execute("run") for _ in range(3)] == ["queued again", "failed", "failed"]
    assert boss.store.read("run").error is not None


async def test_a_run_that_ends_each_process_before_it_begins_is_given_up(boss: Office, ollama: OllamaStandIn) -> None:
    await boss.book("run")
    for _ in range(2):  # as processes do that die while its record still says that it waits
        boss.queue.begun("run")
    assert await driver(boss).execute("run") == "failed"
    [letter] = boss.queue.dead_letters()
    assert letter.error is not None
    assert (letter.error["code"], len(ollama.chats)) == ("worker_lost", 0)
    boss.queue.retry("run")
    assert await driver(boss).execute("run") == "finished"


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (UnreachableError("x", provider="p"), True),
        (DeadlineError("x"), True),
        (StorageError("x"), True),
        (InputError("x"), False),
        (JobError("x", provider="p"), False),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception, transient: bool) -> None:
    assert is_transient(error) is transient


async def test_an_agent_is_asked_once_for_each_name(boss: Office, ollama: OllamaStandIn) -> None:
    async def answer(node_id: str, agent: str, given: dict[str, Any]) -> Any:
        orders = Orders(boss.store.pool)
        return await answer_of_agent(boss.studio, orders, node_id, agent, given, asyncio.Event())

    same = await asyncio.gather(*(answer("n-1", "brand", {"brand_input": BRAND}) for _ in range(3)))
    assert set(same[0]) == {"brand"}
    assert same[0] == same[1] == same[2]
    assert len(ollama.chats) == 1
    assert (await answer("n-2", "painter", {}))["error"]["code"] == "unknown_name"
    assert (await answer("n-3", "brand", {}))["error"]["message"] == "agent 'brand' needs brand_input"
    stray = await answer("n-4", "brand", {"brand_input": BRAND, "copy": {}})
    assert stray["error"]["message"] == "agent 'brand' does not read copy"


async def test_an_agent_that_fails_elsewhere_meanwhile_is_waited_for_no_longer(boss: Office) -> None:
    first, second = Orders(boss.store.pool), Orders(boss.store.pool)
    key, given = f"node:{digest('n')}", {"brand_input": BRAND}
    first.place(key, json.dumps({"agent": "brand", "input": given}))
    assert first.take(key)
    asking = asyncio.create_task(answer_of_agent(boss.studio, second, "n", "brand", given, asyncio.Event()))
    await asyncio.sleep(0.2)
    first.failed(key, {"code": "input_error", "message": "no"})
    async with asyncio.timeout(10):
        assert (await asking)["error"]["message"] == "no"


class Images:
    """Who orders images, and who makes them."""

    def __init__(self, boss: Office, redis: RedisServer) -> None:
        settings, self.orders = boss.studio.settings, Orders(boss.store.pool)
        local = boss.studio.gateways.media
        assert isinstance(local, MediaGateway)
        self.queued = QueuedImages(local, settings)
        self.stopping, self.client = asyncio.Event(), connect(redis.url)
        self.maker = ImageMaker(local, self.orders, self.client, settings, self.stopping)


@pytest.fixture
async def images(boss: Office, redis: RedisServer) -> AsyncIterator[Images]:
    made = Images(boss, redis)
    await made.queued.prepare()
    yield made
    await made.queued.aclose()
    made.client.close()


async def test_an_image_is_made_once_and_its_steps_are_told(
    boss: Office, redis: RedisServer, images: Images, comfyui: ComfyUIStandIn
) -> None:
    steps: list[int] = []
    asking = asyncio.create_task(images.queued.generate_image(ORDER, lambda progress: steps.append(progress.step)))
    await until(lambda: not images.orders.look("key-1").alive and images.queued.is_waiting("key-1", "image"))
    others = [Images(boss, redis) for _ in range(2)]
    became = await asyncio.gather(*(other.maker.make("key-1") for other in others))
    assert sorted(became) == ["made", "nothing to do"]
    for other in others:
        other.client.close()
    assert (await asking).images[0].id
    assert steps
    assert len(comfyui.prompts) == 1


async def test_an_image_that_is_wanted_no_more_is_stopped(images: Images, comfyui: ComfyUIStandIn) -> None:
    comfyui.hold()
    asking = asyncio.create_task(images.queued.generate_image(ORDER))
    await until(lambda: images.queued.is_waiting("key-1", "image"))
    making = asyncio.create_task(images.maker.make("key-1"))
    await until(lambda: comfyui.running)
    await images.queued.cancel(ORDER)
    assert await making == "cancelled"
    with pytest.raises(JobError, match="cancelled"):
        await asking
    assert len(comfyui.interrupted) == 1


async def test_an_image_of_a_process_that_ends_goes_on_elsewhere(
    boss: Office, redis: RedisServer, images: Images, comfyui: ComfyUIStandIn
) -> None:
    comfyui.hold()
    images.orders.place("key-1", ORDER.model_dump_json())
    making = asyncio.create_task(images.maker.make("key-1"))
    await until(lambda: comfyui.running)
    images.stopping.set()
    assert await making == "given back"
    assert await images.maker.make("key-1") == "given back"
    comfyui.release()
    other = Images(boss, redis)
    assert await other.maker.make("key-1") == "made"
    other.client.close()
    assert len(comfyui.prompts) == 1


async def test_whoever_has_lost_an_image_leaves_it_to_who_has_it(
    boss: Office, redis: RedisServer, images: Images, comfyui: ComfyUIStandIn
) -> None:
    comfyui.hold()
    images.orders.place("key-1", ORDER.model_dump_json())
    slow = asyncio.create_task(images.maker.make("key-1"))
    await until(lambda: comfyui.running)
    other = Images(boss, redis)
    with boss.store.pool.connection() as connection:
        connection.execute("UPDATE worker_orders SET owner = %s", (other.orders.owner,))
    assert await slow == "taken over"
    assert (images.orders.look("key-1").error, comfyui.interrupted) == (None, [])
    comfyui.release()
    assert await other.maker.make("key-1") == "made"
    other.client.close()
    assert len(comfyui.prompts) == 1


async def test_an_image_that_failed_tells_why(images: Images) -> None:
    wrong = ORDER.model_copy(update={"options": ORDER.options.model_copy(update={"workflow": "none_such"})})
    asking = asyncio.create_task(images.queued.generate_image(wrong))
    await until(lambda: images.queued.is_waiting("key-1", "image"))
    assert await images.maker.make("key-1") == "failed"
    with pytest.raises(Exception, match="none_such"):
        await asking


def test_what_a_signal_raises_cancels_the_task_and_waits_for_its_end(boss_settings: dict[str, str]) -> None:
    from sparklio import Sparklio

    ended: list[str] = []
    loop = WorkerLoop(lambda: Sparklio(settings=boss_settings))

    async def work(studio: Sparklio) -> str:
        return studio.settings.mode

    async def broken(_: Sparklio) -> None:
        raise InputError("no")

    async def cancelled(_: Sparklio) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        finally:
            ended.append("cleaned up")

    try:
        assert loop.run(work) == "mock"
        with pytest.raises(InputError):
            loop.run(broken)
        with pytest.raises(asyncio.CancelledError):
            loop.run(cancelled)
    finally:
        loop.close()
    assert ended == ["cleaned up"]


@pytest.fixture
def boss_settings(tmp_path: Path) -> dict[str, str]:
    return {"SPARKLIO_HOME": str(tmp_path)}
