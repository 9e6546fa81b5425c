"""The queue of runs: who is next, what was lost, what is given up; against a real database and a real broker."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from graph.database import reseal_database
from graph.leases import LEASE_S
from graph.postgres import sync_pool
from graph.vault import Vault
from providers.errors import BrokerError, ConfigError, NoWorkerError, UsageError
from routing.contracts import ImageOptions, ImageRequest
from routing.media_gateway import MediaGateway, _options
from routing.settings import load_settings
from sparklio import Sparklio
from sparklio.worker.app import EXECUTE_RUN, TEXTS, make_celery
from sparklio.worker.broker import PREFIX, broker_errors, connect, needed_broker, queue_prefix, waiting_tasks
from sparklio.worker.feeder import Feeder
from sparklio.worker.images import QueuedImages, gateways_of_workers
from sparklio.worker.orders import Orders, Standing, TakenOverError
from sparklio.worker.queue import Queue, delay_s
from sparklio.worker.registry import Worker, announce, live_workers, takes, withdraw
from tests.homes import KEY
from tests.redis_server import RedisServer, free_port
from tests.workers import Office, office, until


@pytest.fixture
def shared(tmp_path: Path, database_url: str, redis: RedisServer) -> dict[str, str]:
    return {
        "SPARKLIO_DATABASE_URL": database_url,
        "SPARKLIO_BROKER_URL": redis.url,
        "SPARKLIO_ARTIFACTS_URL": tmp_path.as_uri(),
        "SPARKLIO_MAX_DELIVERIES": "3",
    }


@pytest.fixture
async def boss(tmp_path: Path, shared: dict[str, str]) -> AsyncIterator[Office]:
    async with office(tmp_path, **shared) as opened:
        yield opened


def feeder(boss: Office, redis: RedisServer, clock: list[float]) -> Feeder:
    settings = boss.studio.settings
    return Feeder(boss.queue, make_celery(settings), connect(redis.url), settings, clock=lambda: clock[0])


async def test_batches_take_turns_and_the_one_with_fewest_under_way_is_first(boss: Office) -> None:
    many = [await boss.book(f"a-{number:02}", batch="a") for number in range(12)]
    few = [await boss.book(f"b-{number}", batch="b") for number in range(2)]
    alone = await boss.book("alone")

    chosen = boss.queue.choose(6)
    assert set(chosen) == {*few, alone, *many[:3]}
    assert chosen.index(many[1]) > chosen.index(few[0])
    assert boss.queue.choose(2, on_way=["a-00", "a-01", "alone"]) == ["b-0", "b-1"]
    assert boss.queue.position("alone") in (1, 2, 3)
    assert boss.queue.position("a-11") == 15
    assert boss.queue.position("b-1") in (4, 5)


async def test_a_feeder_keeps_few_messages_under_way_and_sends_lost_ones_again(
    boss: Office, redis: RedisServer
) -> None:
    runs = [await boss.book(f"run-{number}") for number in range(6)]
    clock, client = [0.0], connect(redis.url)
    feeding = feeder(boss, redis, clock)
    feeding.look()
    feeding.look()
    sent = [task.partition(":")[0] for task in waiting_tasks(client, TEXTS, "mock")]
    assert sorted(sent) == runs[:4]

    message = json.loads(client.lrange(queue_prefix("mock") + TEXTS, 0, 0)[0])
    assert message["headers"]["task"] == EXECUTE_RUN
    assert message["content-type"] == "application/json"

    redis.restart(forget=True)
    boss.queue.unsent(runs)
    feeding.look()
    assert sorted(task.partition(":")[0] for task in waiting_tasks(client, TEXTS, "mock")) == runs[:4]
    announce(client, Worker(host="h", pid=1, queues=[TEXTS], concurrency=5, mode="mock", version="1"))
    feeding.look()
    assert len(waiting_tasks(client, TEXTS, "mock")) == 6


async def test_a_broker_that_is_away_is_an_error_and_the_runs_stay_to_be_sent(boss: Office, redis: RedisServer) -> None:
    await boss.book("run")
    feeding = feeder(boss, redis, [0.0])
    redis.kill()
    with pytest.raises(BrokerError, match="cannot use the broker") as told:
        feeding.look()
    assert "redis-server" in told.value.hint
    assert boss.queue.choose(1) == ["run"]


async def lose(boss: Office, run_id: str) -> None:
    """As a worker does that is killed."""
    record = boss.store.read(run_id)
    with boss.store.lock(run_id):
        record.status = "running"
        boss.store.save(record)
    boss.queue.begun(run_id)


async def test_a_lost_run_is_taken_back_at_the_second_look_and_given_up_in_the_end(
    boss: Office, redis: RedisServer
) -> None:
    await boss.book("run")
    clock = [0.0]
    feeding = feeder(boss, redis, clock)
    for delivery in (1, 2, 3):
        await lose(boss, "run")
        clock[0] += 5
        feeding.look()
        assert boss.statuses("run") == ["interrupted"], delivery
        clock[0] += 5
        feeding.look()
    record = boss.store.read("run")
    assert (record.status, record.error and record.error["code"]) == ("failed", "worker_lost")
    assert [event["type"] for event in boss.store.events("run")] == ["run_failed"]

    [letter] = [boss.queue.letter(letter) for letter in boss.queue.dead_letters()]
    assert (letter["run_id"], letter["deliveries"], letter["error"]["code"]) == ("run", 3, "worker_lost")
    assert boss.queue.retry("run").status == "queued"
    assert boss.queue.deliveries("run") == 0
    with pytest.raises(UsageError, match="no dead letter"):
        boss.queue.retry("run")


async def test_a_damaged_record_keeps_nobody_else_waiting(
    boss: Office, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await boss.book("damaged")
    await lose(boss, "damaged")
    with boss.store.pool.connection() as connection:
        connection.execute("UPDATE runs SET record = '{}'")
    clock = [0.0]
    feeding = feeder(boss, redis, clock)
    feeding.look()
    await boss.book("next")
    for _ in range(2):
        clock[0] += 5
        feeding.look()
    assert _waiting(redis, TEXTS)[0].startswith("next:")
    assert caplog.text.count("a lost run cannot be taken back") == 1


async def test_a_feeder_outlives_what_it_does_not_understand(
    boss: Office, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparklio.worker.feeder._LOOKS_EVERY_S", 0.05)
    await boss.book("run")
    client = connect(redis.url)
    client.sadd(f"{PREFIX}workers", "h:1")
    client.set(f"{PREFIX}workers:h:1", '{"told": "by another version"}')
    with feeder(boss, redis, [0.0]) as feeding:
        await until(lambda: feeding._troubled)
        client.delete(f"{PREFIX}workers:h:1")
        await until(lambda: _waiting(redis, TEXTS))


async def test_a_lost_run_that_somebody_wanted_stopped_is_cancelled(boss: Office, redis: RedisServer) -> None:
    await boss.book("run")
    await lose(boss, "run")
    assert boss.store.request_cancel("run")
    clock = [0.0]
    feeding = feeder(boss, redis, clock)
    feeding.look()
    clock[0] += 5
    feeding.look()
    assert boss.statuses("run") == ["cancelled"]


async def test_what_is_tried_again_waits_for_a_while(boss: Office) -> None:
    await boss.book("run")
    await lose(boss, "run")
    assert boss.queue.requeue("run", delay_s=60)
    assert boss.queue.choose(1) == []
    assert not boss.queue.requeue("run")
    assert [delay_s(times) for times in (1, 2, 3, 20)] == [10, 60, 300, 900]


def test_who_lives_is_seen_until_it_leaves(redis: RedisServer) -> None:
    client = connect(redis.url)
    one, two = (Worker(host="h", pid=pid, queues=[TEXTS], concurrency=2, mode="mock", version="1") for pid in (1, 2))
    announce(client, one)
    announce(client, two)
    assert live_workers(client) == [one, two]
    assert takes(live_workers(client), TEXTS) == 4
    assert takes(live_workers(client), "image") == 0
    withdraw(client, one)
    assert live_workers(client) == [two]
    assert client.ttl(f"{PREFIX}workers:{two.name}") in range(1, 11)


def test_workers_need_a_broker_and_a_database() -> None:
    with pytest.raises(ConfigError, match="workers need a broker"):
        needed_broker(load_settings())


async def test_a_queue_is_none_of_files(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path) as studio:
        with pytest.raises(ConfigError, match="workers keep their runs in PostgreSQL"):
            Queue(studio.runs.store)


def test_what_the_broker_says_is_told_without_its_password(shared: dict[str, str]) -> None:
    url = f"redis://:s3cret-word@127.0.0.1:{free_port()}/0"
    settings = load_settings({**shared, "SPARKLIO_BROKER_URL": url})
    with pytest.raises(BrokerError) as told, broker_errors(settings), connect(url) as client:
        client.ping()
    assert "s3cret-word" not in str(told.value)


def test_only_json_travels(shared: dict[str, str]) -> None:
    conf = make_celery(load_settings(shared)).conf
    assert (conf.accept_content, conf.result_accept_content) == (["json"], ["json"])
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost, conf.worker_prefetch_multiplier) == (True, True, 1)
    assert (conf.task_time_limit, conf.task_soft_time_limit) == (600, 540)
    assert conf.broker_transport_options["visibility_timeout"] > conf.task_time_limit
    assert conf.task_time_limit > LEASE_S


# images


async def queued_images(shared: dict[str, str], home: Path, **words: Any) -> QueuedImages:
    settings = load_settings({**shared, "SPARKLIO_HOME": str(home)})
    local = gateways_of_workers(orders_images=False)(settings).media
    assert isinstance(local, MediaGateway)
    return QueuedImages(local, settings, **words)


ORDER = ImageRequest(prompt="a bottle", options=ImageOptions(idempotency_key="key-1"))


async def test_without_a_worker_an_image_fails_after_a_while(
    tmp_path: Path, shared: dict[str, str], boss: Office
) -> None:
    images = await queued_images(shared, tmp_path, no_worker_s=0.3)
    try:
        with pytest.raises(NoWorkerError, match="no worker has taken images") as told:
            await images.generate_image(ORDER)
        assert told.value.hint == "start one: sparklio worker --queues image"
    finally:
        await images.aclose()


async def test_an_order_outlives_the_broker_and_an_answer_is_kept(
    tmp_path: Path, shared: dict[str, str], boss: Office, redis: RedisServer
) -> None:
    images = await queued_images(shared, tmp_path)
    orders, local = Orders(boss.store.pool), gateways_of_workers(orders_images=False)(boss.studio.settings).media
    asking = asyncio.create_task(images.generate_image(ORDER))
    try:
        await _until_waiting(redis, "image")
        redis.restart(forget=True)
        await _until_waiting(redis, "image")  # it is sent again
        request = orders.take("key-1")
        assert request is not None
        assert Orders(boss.store.pool).take("key-1") is None  # somebody is at it
        answer = await local.generate_image(ImageRequest.model_validate_json(request))
        orders.answered("key-1", answer.model_dump_json())
        assert (await asking).images[0].id == answer.images[0].id
        again = await images.generate_image(ORDER.model_copy(update={"request_id": "another"}))
        assert (again.images[0].id, again.meta.request_id) == (answer.images[0].id, "another")
    finally:
        asking.cancel()
        await images.aclose()


async def _until_waiting(redis: RedisServer, queue: str) -> None:
    await until(lambda: _waiting(redis, queue))


def _waiting(redis: RedisServer, queue: str) -> list[str]:
    with connect(redis.url) as client:
        return waiting_tasks(client, queue, "mock")


async def test_a_cancelled_order_is_not_begun_and_one_that_failed_is_ordered_anew(boss: Office) -> None:
    orders = Orders(boss.store.pool)
    orders.place("key", "{}")
    orders.cancel("key")
    assert orders.take("key") is None
    orders.place("key", "{}")
    assert orders.take("key") == "{}"
    assert orders.beat("key")
    orders.cancel("key")
    assert not orders.beat("key")
    orders.failed("key", {"code": "image_job_failed", "message": "no"})
    assert orders.look("key").error == {"code": "image_job_failed", "message": "no"}
    orders.forget_old()
    assert orders.look("key").error is not None


async def test_with_a_key_nobody_reads_what_is_ordered_and_answered(boss: Office) -> None:
    orders = Orders(boss.store.pool, Vault(KEY))
    orders.place("key", '{"prompt": "a bottle"}')
    assert orders.take("key") == '{"prompt": "a bottle"}'
    orders.answered("key", '{"answer": "소리결"}')
    assert orders.look("key").answer == '{"answer": "소리결"}'
    with boss.store.pool.connection() as connection:
        [kept] = connection.execute("SELECT request, answer FROM worker_orders").fetchall()
    assert [text.partition(":")[0] for text in kept] == ["zlib-aes256gcm"] * 2
    with pytest.raises(ConfigError):
        Orders(boss.store.pool).look("key")
    url = str(boss.studio.settings.database_url)
    await boss.studio.__aexit__()
    await reseal_database(url, old_key=None, key=KEY)
    with sync_pool(url) as pool:
        assert Orders(pool).look("key") == Standing()


async def test_whoever_was_not_heard_of_for_too_long_has_no_say_any_more(boss: Office) -> None:
    slow, other = Orders(boss.store.pool), Orders(boss.store.pool)
    slow.place("key", "{}")
    assert slow.take("key")
    with boss.store.pool.connection() as connection:
        connection.execute("UPDATE worker_orders SET beat_at = now() - interval '1 minute'")
    assert other.take("key")
    with pytest.raises(TakenOverError):
        slow.beat("key")
    slow.failed("key", {"code": "image_job_failed", "message": "no"})
    assert (other.look("key").error, other.look("key").alive) == (None, True)


def test_the_device_chooses_a_queue_and_reaches_no_provider(tmp_path: Path, shared: dict[str, str]) -> None:
    routing = tmp_path / "routing.yaml"
    routing.write_text(
        "providers: {media: {active: [comfyui]}}\n"
        "media_routing: {image: [{kind: [hero], provider: comfyui, workflow: w, device: gpu-a}]}\n"
    )
    settings = load_settings({**shared, "SPARKLIO_CONFIG": str(routing)})
    local = gateways_of_workers(orders_images=False)(settings).media
    assert isinstance(local, MediaGateway)
    images = QueuedImages(local, settings)
    asked = ImageRequest(prompt="a", options=ImageOptions(device="gpu-b"))
    [route] = images._router.image_routes(asked)
    assert "device" not in _options(route, asked, None)
    named = Counter(images._queue_of(order) for order in (asked, ImageRequest(prompt="a", kind="hero"), ORDER))
    assert named == {"image.gpu-b": 1, "image.gpu-a": 1, "image": 1}
