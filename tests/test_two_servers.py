"""Two servers and a worker on one database: what is booked at one is followed, read, cancelled at the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import BRAND, PRODUCT
from tests.redis_server import RedisServer
from tests.serving import serving
from tests.standins.comfyui import ComfyUIStandIn
from tests.waiting import until
from tests.workers import worker_process

RUNS = "/api/v1/runs"
INPUT = {"brand": BRAND, "product": PRODUCT}


@pytest.fixture
def shared(tmp_path: Path, database_url: str, redis: RedisServer) -> dict[str, str]:
    """Settings of all machines."""
    return {
        "SPARKLIO_DATABASE_URL": database_url,
        "SPARKLIO_BROKER_URL": redis.url,
        "SPARKLIO_ARTIFACTS_URL": (tmp_path / "shared").as_uri(),
    }


@asynccontextmanager
async def two_servers(
    folder: Path, shared: Mapping[str, str], **more: str
) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """Each with a home of its own, as on machines of their own."""
    async with serving(folder / "a", **shared, **more) as a, serving(folder / "b", **shared, **more) as b:
        yield a, b


async def booked(client: httpx.AsyncClient, run_id: str | None = None, **headers: str) -> str:
    body = INPUT | ({"run_id": run_id} if run_id else {})
    answer = await client.post(RUNS, json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    told: str = answer.json()["run_id"]
    return told


def events_of(answer: httpx.Response) -> list[str]:
    return [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]


def numbers_of(answer: httpx.Response) -> list[int]:
    return [int(line.removeprefix("id: ")) for line in answer.text.splitlines() if line.startswith("id: ")]


async def read(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    answer = await client.get(f"{RUNS}/{run_id}")
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.usefixtures("live")
async def test_what_is_booked_at_one_is_seen_through_at_the_other(
    tmp_path: Path, shared: dict[str, str], comfyui: ComfyUIStandIn
) -> None:
    async with two_servers(tmp_path, shared) as (a, b):
        run_id = await booked(a)
        assert (await read(b, run_id))["position"] == 1
        with worker_process(tmp_path / "worker", "--concurrency", "1", **shared):
            live = await b.get(f"{RUNS}/{run_id}/events")
            await check_what_it_made(a, b, run_id, live)
            workers = (await a.get("/ready")).json()["workers"]
            assert (workers["alive"], workers["slots"], workers["hint"]) == (2, {"text": 1, "image": 1}, None)
            figures = (await b.get("/metrics")).text
            assert 'sparklio_workers{queue="text"} 1.0' in figures
            assert "sparklio_queue_wait_seconds 0.0" in figures
            await check_cancel(a, b, comfyui)


async def check_what_it_made(a: httpx.AsyncClient, b: httpx.AsyncClient, run_id: str, live: httpx.Response) -> None:
    assert (events_of(live)[0], events_of(live)[-1]) == ("run_started", "run_finished")
    again = await a.get(f"{RUNS}/{run_id}/events")
    rest = await a.get(f"{RUNS}/{run_id}/events", headers={"last-event-id": str(numbers_of(live)[-2])})
    assert numbers_of(again) == numbers_of(live)
    assert events_of(rest) == ["run_finished"]
    results = [(await client.get(f"{RUNS}/{run_id}/result")).json() for client in (a, b)]
    pages = [await client.get(f"{RUNS}/{run_id}/page") for client in (a, b)]
    assert results[0] == results[1]
    assert pages[0].status_code == 200
    assert pages[0].content == pages[1].content
    for client in (a, b):
        image = await client.get(results[0]["image"]["url"])
        assert image.headers["content-type"] == "image/png"


async def check_cancel(a: httpx.AsyncClient, b: httpx.AsyncClient, comfyui: ComfyUIStandIn) -> None:
    """Of a run that a worker drives; and a resume of it."""
    comfyui.hold()
    run_id = await booked(a)
    await until(lambda: comfyui.running)
    answers = await asyncio.gather(*(client.post(f"{RUNS}/{run_id}/cancel") for client in (a, b)))
    assert {(answer.status_code, answer.json().get("status")) for answer in answers} == {(202, "cancelled")}
    await until(lambda: comfyui.interrupted)
    assert len(comfyui.interrupted) == 1
    assert code(await a.post(f"{RUNS}/{run_id}/cancel")) == (409, "conflict")
    comfyui.release()
    assert (await a.post(f"{RUNS}/{run_id}/resume")).json()["status"] == "queued"
    events = await b.get(f"{RUNS}/{run_id}/events")
    assert events_of(events)[-1] == "run_finished"


async def test_a_queue_without_workers(tmp_path: Path, shared: dict[str, str], redis: RedisServer) -> None:
    """Both servers count, place and cancel what waits; Redis need not be there."""
    async with two_servers(tmp_path, shared, SPARKLIO_MAX_QUEUED="3") as (a, b):
        first, second = await booked(a), await booked(b)
        redis.kill()
        third = await booked(a)
        assert [(await read(a, run_id))["position"] for run_id in (first, second, third)] == [1, 2, 3]
        refused = [await client.post(RUNS, json=INPUT) for client in (a, b)]
        assert {code(answer) for answer in refused} == {(429, "queue_full")}
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        answer = await b.post(f"{RUNS}/{first}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
        assert (await read(a, second))["position"] == 1
        assert events_of(await a.get(f"{RUNS}/{first}/events")) == []
        listed = (await b.get(RUNS)).json()["runs"]
        assert [run["run_id"] for run in listed] == [third, second, first]
        figures, ready = (await b.get("/metrics")).text, (await a.get("/ready")).json()
        assert 'sparklio_queue_runs{state="queued"} 2.0' in figures
        assert "sparklio_worker" not in figures, "what cannot be had is not 0"
        assert (ready["ready"], ready["database"]["healthy"], ready["broker"]["healthy"]) == (True, True, False)
        assert ready["broker"]["error"]["hint"]


async def test_a_request_that_comes_to_both_is_done_once(tmp_path: Path, shared: dict[str, str]) -> None:
    key = {"idempotency-key": "order-4711"}
    async with two_servers(tmp_path, shared) as (a, b):
        answers = await asyncio.gather(*(client.post(RUNS, json=INPUT, headers=key) for client in (a, b, a, b)))
        done = {answer.json()["run_id"] for answer in answers if answer.status_code == 202}
        assert len(done) == 1
        assert {code(answer) for answer in answers if answer.status_code != 202} <= {(409, "conflict")}
        again = [await client.post(RUNS, json=INPUT, headers=key) for client in (a, b)]
        assert {answer.json()["run_id"] for answer in again} == done
        assert {answer.headers["idempotency-replayed"] for answer in again} == {"true"}
        other = await b.post(RUNS, json=INPUT | {"language": "en"}, headers=key)
        assert code(other) == (409, "conflict")
        assert len((await a.get(RUNS)).json()["runs"]) == 1


@pytest.mark.usefixtures("live")
async def test_servers_without_workers_share_what_is_to_be_done(
    tmp_path: Path, database_url: str, comfyui: ComfyUIStandIn
) -> None:
    """Each drives what was booked at it; the other one knows of it, and stops it."""
    settings = {"SPARKLIO_DATABASE_URL": database_url, "SPARKLIO_ARTIFACTS_URL": (tmp_path / "shared").as_uri()}
    async with two_servers(tmp_path, settings) as (a, b):
        run_ids = [await booked(client) for client in (a, b)]
        for run_id, other in zip(run_ids, (b, a), strict=True):
            assert events_of(await other.get(f"{RUNS}/{run_id}/events"))[-1] == "run_finished"
            assert (await other.get(f"{RUNS}/{run_id}/page")).status_code == 200
        comfyui.hold()
        run_id = await booked(a)
        await until(lambda: comfyui.running)
        answer = await b.post(f"{RUNS}/{run_id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
        assert len(set(comfyui.interrupted)) == 1
        assert (await read(a, run_id))["status"] == "cancelled"
