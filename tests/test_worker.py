"""Real workers over a real broker and a real database, against stand-ins that count: what is finished is made once."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from routing.settings import load_settings
from sparklio.worker.app import EXECUTE_NODE, EXECUTE_RUN, TEXTS, make_celery
from tests.conftest import BRAND
from tests.postgres_server import PostgresServer, postgres_server
from tests.redis_server import RedisServer, free_port
from tests.standins.comfyui import ComfyUIStandIn
from tests.standins.ollama import OllamaStandIn
from tests.workers import ROOT, Office, office, until, worker_process

pytestmark = pytest.mark.no_cover  # tests/test_worker_tasks.py runs the same lines in this process

CHATS = 6
"""Calls of a chat model that one run makes."""


@pytest.fixture
def shared(tmp_path: Path, database_url: str, redis: RedisServer, live: None) -> dict[str, str]:
    return settings_of(tmp_path, database_url, redis)


def settings_of(tmp_path: Path, database_url: str, redis: RedisServer) -> dict[str, str]:
    return {
        "SPARKLIO_DATABASE_URL": database_url,
        "SPARKLIO_BROKER_URL": redis.url,
        "SPARKLIO_ARTIFACTS_URL": f"file://{tmp_path}/shared",
        "SPARKLIO_MAX_DELIVERIES": "3",
    }


@pytest.fixture
async def boss(tmp_path: Path, shared: dict[str, str]) -> AsyncIterator[Office]:
    async with office(tmp_path / "boss", **shared) as opened:
        yield opened


def command(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT), **settings}
    return subprocess.run(
        [sys.executable, "-m", "sparklio", *words], env=environ, capture_output=True, text=True, timeout=60, check=False
    )


class Sender:
    """Sends tasks as anybody may."""

    def __init__(self, settings: dict[str, str]) -> None:
        self.app = make_celery(load_settings(settings))

    def run(self, run_id: str) -> None:
        self.app.send_task(EXECUTE_RUN, args=[run_id], queue=TEXTS)

    async def node(self, *words: Any) -> Any:
        result = self.app.send_task(EXECUTE_NODE, args=list(words), queue=TEXTS)
        return await asyncio.to_thread(result.get, timeout=60)


@contextmanager
def sending(settings: dict[str, str]) -> Iterator[Sender]:
    sender = Sender(settings)
    try:
        yield sender
    finally:
        sender.app.close()


async def test_runs_agents_and_images_of_one_office(
    tmp_path: Path, shared: dict[str, str], boss: Office, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    most_at_once = 0

    def images_at_once() -> int:
        return len(comfyui.pending) + (comfyui.running is not None)

    with worker_process(tmp_path / "worker", "--concurrency", "2", **shared) as worker, sending(shared) as sender:
        runs = [await boss.book() for _ in range(4)]
        for run_id in runs * 2:
            sender.run(run_id)  # beside what the feeder sends
        ended = asyncio.create_task(boss.ended(*runs))
        while not ended.done():
            most_at_once = max(most_at_once, images_at_once())
            await asyncio.sleep(0.01)
        await ended
        assert (len(ollama.chats), len(comfyui.prompts)) == (CHATS * len(runs), len(runs))
        assert most_at_once == 1
        assert [boss.queue.deliveries(run_id) for run_id in runs] == [1] * len(runs)
        steps = [event["type"] for event in boss.store.events(runs[0])]
        assert "image_progress" in steps
        assert (await boss.studio.load(runs[0])).state["image"]["provider"] == "comfyui"

        said, again = await asyncio.gather(*(sender.node("n-1", "brand", {"brand_input": BRAND}) for _ in range(2)))
        assert set(said) == {"brand"}
        assert said == again == await sender.node("n-1", "brand", {"brand_input": BRAND})
        assert len(ollama.chats) == CHATS * len(runs) + 1
        wrong = await sender.node("n-2", "painter", {})
        assert wrong["error"]["code"] == "unknown_name"
        lacking = await sender.node("n-3", "brief", {"brand": {}})
        assert lacking["error"]["message"] == "agent 'brief' needs product_input"

        comfyui.hold()
        held = await boss.book()
        await until(lambda: comfyui.running)
        assert worker.stop() == 0
        assert boss.statuses(held) == ["queued"]
        assert boss.queue.deliveries(held) == 0
        assert "Traceback" not in worker.log
    comfyui.release()
    with worker_process(tmp_path / "worker", **shared):
        await boss.ended(held)
    assert len(comfyui.prompts) == len(runs) + 1


async def test_a_run_is_stopped_limited_and_given_up(
    tmp_path: Path, shared: dict[str, str], boss: Office, ollama: OllamaStandIn
) -> None:
    words = ("--queues", "text,image", "--concurrency", "1", "--time-limit", "10")
    settings = {**shared, "SPARKLIO_MAX_DELIVERIES": "2", "OLLAMA_TIMEOUT": "100"}
    ollama.delay_s = 60.0
    with worker_process(tmp_path / "worker", *words, **settings):
        unwanted = await boss.book()
        await boss.ended(unwanted, status="running")
        assert boss.store.request_cancel(unwanted)
        await boss.ended(unwanted, status="cancelled")

        slow = await boss.book()
        await boss.ended(slow, status="failed")
        error = boss.store.read(slow).error
        assert error is not None
        assert error["code"] == "time_limit"
        assert "9 s" in error["message"]
        assert [event["type"] for event in boss.store.events(slow)][-1] == "run_failed"

        ollama.delay_s = 0.0
        ollama.leave()
        unlucky = await boss.book()
        await until(lambda: boss.statuses(unlucky) == ["failed"] and boss.queue.deliveries(unlucky) == 2)
        told = command("dead-letters", "--json", SPARKLIO_HOME=str(tmp_path / "other"), **shared)
        reasons = {letter["run_id"]: letter["error"]["code"] for letter in json.loads(told.stdout)["dead_letters"]}
        assert reasons == {slow: "time_limit", unlucky: "provider_unreachable"}
        ollama.come_back()
        again = command("retry", "--all", "--json", SPARKLIO_HOME=str(tmp_path / "other"), **shared)
        assert set(json.loads(again.stdout)["queued"]) == {slow, unlucky}
        await boss.ended(slow, unlucky)
    told = command("dead-letters", SPARKLIO_HOME=str(tmp_path / "other"), **shared)
    assert (told.returncode, told.stdout) == (0, "no dead letters\n")


async def test_killed_workers_cost_no_finished_call_and_no_second_image(
    tmp_path: Path, shared: dict[str, str], boss: Office, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    comfyui.hold()

    def reviewed() -> bool:
        told = [(event["type"], event["node"]) for event in boss.store.events("run")]
        return ("node_finished", "reviewer") in told and comfyui.running is not None

    with worker_process(tmp_path / "images", "--queues", "image", **shared) as images:
        with worker_process(tmp_path / "texts", "--queues", "text", "--concurrency", "1", **shared) as texts:
            await boss.book("run")
            await until(reviewed)
            [child] = texts.children()
            os.kill(child, signal.SIGKILL)
            await until(lambda: boss.queue.deliveries("run") == 2, lambda: texts.log)
            texts.kill()
            images.kill()
        with worker_process(tmp_path / "both", **shared) as both:
            await until(lambda: boss.queue.deliveries("run") == 3, lambda: both.log)
            comfyui.release()
            await boss.ended("run")
    assert (len(ollama.chats), len(comfyui.prompts), len(comfyui.executed)) == (CHATS, 1, 1)


async def test_a_broker_that_forgets_and_a_database_that_pauses_lose_nothing(
    tmp_path: Path, redis: RedisServer, live: None, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    with postgres_server() as database:
        shared = settings_of(tmp_path, database.new_database(), redis)
        async with office(tmp_path / "boss", **shared) as boss:
            with worker_process(tmp_path / "worker", **shared):
                await _survive(boss, redis, database, ollama, comfyui)


async def _survive(
    boss: Office, redis: RedisServer, database: PostgresServer, ollama: OllamaStandIn, comfyui: ComfyUIStandIn
) -> None:
    comfyui.hold()
    first = await boss.book()
    await until(lambda: comfyui.running)
    others = [await boss.book() for _ in range(4)]
    await asyncio.to_thread(redis.restart, forget=True, after_s=1)
    comfyui.release()
    await boss.ended(first, *others)
    assert (len(ollama.chats), len(comfyui.prompts)) == (CHATS * 5, 5)

    ollama.delay_s = 0.3
    begun = len(ollama.chats)
    more = [await boss.book() for _ in range(2)]
    await until(lambda: len(ollama.chats) > begun)
    await asyncio.to_thread(database.restart, after_s=5)
    await boss.ended(*more)
    assert (len(ollama.chats), len(comfyui.prompts)) == (CHATS * 7, 7)
    assert [boss.queue.deliveries(run_id) for run_id in more] == [1, 1]


def test_a_worker_says_what_it_lacks(tmp_path: Path, database_url: str, redis: RedisServer) -> None:
    told = command("worker", SPARKLIO_HOME=str(tmp_path))
    assert told.returncode == 2
    assert "SPARKLIO_BROKER_URL" in told.stderr
    nobody = f"redis://:s3cret-word@127.0.0.1:{free_port()}/0"
    there = {"SPARKLIO_HOME": str(tmp_path), "SPARKLIO_DATABASE_URL": database_url}
    told = command("worker", **there, SPARKLIO_BROKER_URL=redis.url)
    assert told.returncode == 2
    assert "SPARKLIO_ARTIFACTS_URL" in told.stderr
    there["SPARKLIO_ARTIFACTS_URL"] = tmp_path.as_uri()
    told = command("worker", **there, SPARKLIO_BROKER_URL=nobody)
    assert told.returncode == 1
    assert "redis-server" in told.stderr
    assert "s3cret-word" not in told.stderr
    told = command("worker", "--queues", "text,films", **there, SPARKLIO_BROKER_URL=redis.url)
    assert told.returncode == 2
    assert "films" in told.stderr
    told = command("retry", **there, SPARKLIO_BROKER_URL=redis.url)
    assert told.returncode == 2
