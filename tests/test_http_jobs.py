"""Image jobs over HTTP: they belong to the server, outlive clients and servers, and are never made twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from providers.media.comfyui import ComfyUIProvider
from providers.media.comfyui.watch import Patience
from routing import attempts
from tests.serving import server_process, serving
from tests.standins.comfyui import ComfyUIStandIn
from tests.test_http_llm import _ours
from tests.waiting import until

GENERATE = "/api/v1/media/image/generate"
JOBS = "/api/v1/media/jobs"
ASKED: dict[str, Any] = {
    "prompt": "a bottle on a table",
    "options": {"width": 128, "height": 128, "seed": 5},
    "job": True,
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_BACKOFF", lambda state: 0)
    monkeypatch.setattr(ComfyUIProvider, "patience", Patience(poll_s=0.03, idle_queue_s=5))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with serving(tmp_path) as client:
        yield client


async def ended_over_http(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    seen: dict[str, int] = {}
    async with asyncio.timeout(60):
        while True:
            response = await client.get(f"{JOBS}/{job_id}", params={"wait_s": 10, **seen})
            job: dict[str, Any] = response.json()
            assert response.status_code == 200, job
            if job["finished_at"]:
                return job
            seen = {"seen": job["version"]}


async def test_a_job_is_ordered_read_and_listed(client: httpx.AsyncClient, tmp_path: Path) -> None:
    ordered = await client.post(GENERATE, json=ASKED)
    assert ordered.status_code == 202
    told = ordered.json()
    assert set(told) == {"job_id", "status", "url"}
    assert told["status"] == "queued"
    assert ordered.headers["location"] == told["url"] == f"{JOBS}/{told['job_id']}"
    job = await ended_over_http(client, told["job_id"])
    assert set(job) == {
        "job_id", "status", "version", "progress", "answer", "error", "created_at", "finished_at"
    }  # fmt: skip
    assert (job["status"], job["error"]) == ("succeeded", None)
    assert job["progress"]["step"] == job["progress"]["steps"]
    plain = (await client.post(GENERATE, json={**ASKED, "job": False})).json()
    assert job["answer"]["images"] == plain["images"]
    listed = await client.get(JOBS)
    assert listed.json() == {"jobs": [job]}
    assert str(tmp_path) not in listed.text
    assert (await client.get(job["answer"]["images"][0]["url"])).status_code == 200


async def test_the_latest_are_listed_first(client: httpx.AsyncClient) -> None:
    ids = [(await client.post(GENERATE, json=ASKED)).json()["job_id"] for _ in range(3)]
    for job_id in ids:
        await ended_over_http(client, job_id)
    listed = (await client.get(JOBS, params={"limit": 2})).json()["jobs"]
    assert [job["job_id"] for job in listed] == ids[:0:-1]
    assert (await client.get(JOBS, params={"limit": 0})).status_code == 422


async def test_what_is_no_job_is_not_found(client: httpx.AsyncClient) -> None:
    await client.post(GENERATE, json=ASKED)
    for call in (client.get(f"{JOBS}/no"), client.delete(f"{JOBS}/no"), client.post(f"{JOBS}/no/cancel")):
        response = await call
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_name")
        assert response.json()["error"]["details"]["known"] == []
    assert (await client.get(f"{JOBS}/a%20b")).status_code == 422


@pytest.mark.parametrize("key_in", ["options", "header"])
async def test_the_same_key_never_makes_a_second_job(
    live: None, comfyui: ComfyUIStandIn, tmp_path: Path, key_in: str
) -> None:
    asked, headers = ASKED, {"Idempotency-Key": "order 1"}
    if key_in == "options":
        asked, headers = {**ASKED, "options": {**ASKED["options"], "idempotency_key": "order:1"}}, {}
    async with serving(tmp_path) as client:
        posts = (client.post(GENERATE, json=asked, headers=headers) for _ in range(5))
        answers = await asyncio.gather(*posts)
        assert {answer.status_code for answer in answers} == {202}
        (job_id,) = {answer.json()["job_id"] for answer in answers}
        assert sum("idempotency-replayed" in answer.headers for answer in answers) == 4
        assert (await ended_over_http(client, job_id))["status"] == "succeeded"
        late = await client.post(GENERATE, json={**asked, "request_id": "another"}, headers=headers)
        assert (late.status_code, late.json()["job_id"], late.json()["status"]) == (202, job_id, "succeeded")
        other = await client.post(GENERATE, json={**asked, "prompt": "another"}, headers=headers)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "conflict")
    assert len(comfyui.prompts) == 1


async def test_the_keys_of_two_clients_do_not_meet(tmp_path: Path) -> None:
    callers = "a" * 16, "b" * 16
    async with serving(tmp_path, SPARKLIO_API_KEYS=",".join(callers)) as client:
        answers = [
            await client.post(GENERATE, json=ASKED, headers={"Idempotency-Key": "1", "Authorization": f"Bearer {who}"})
            for who in (*callers, *callers)
        ]
    ids = [answer.json()["job_id"] for answer in answers]
    assert ids[:2] == ids[2:]
    assert len(set(ids)) == 2


async def test_what_cannot_be_made_is_no_job(client: httpx.AsyncClient) -> None:
    asked = {**ASKED, "options": {"workflow": "no_such_thing"}}
    assert (await client.post(GENERATE, json=asked)).status_code == 404
    assert (await client.get(JOBS)).json() == {"jobs": []}


async def test_a_job_goes_on_when_its_client_leaves(live: None, comfyui: ComfyUIStandIn, tmp_path: Path) -> None:
    comfyui.hold()
    async with serving(tmp_path) as client:
        job_id = (await client.post(GENERATE, json=ASKED)).json()["job_id"]
        await until(lambda: comfyui.running)
        before = _ours()
        looking = asyncio.create_task(client.get(f"{JOBS}/{job_id}", params={"wait_s": 30, "seen": 99}))
        looking.cancel()
        watched = (await client.get(f"{JOBS}/{job_id}")).json()
        watching = asyncio.create_task(
            client.get(f"{JOBS}/{job_id}", params={"wait_s": 30, "seen": watched["version"]})
        )
        await asyncio.sleep(0.1)
        watching.cancel()
        await asyncio.wait([looking, watching])
        await until(lambda: _ours() <= before, timeout_s=20.0)  # before it would have been answered anyway
        comfyui.release()
        assert (await ended_over_http(client, job_id))["status"] == "succeeded"


async def test_a_cancelled_job_is_stopped_and_its_service_too(
    live: None, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    comfyui.hold()
    async with serving(tmp_path) as client:
        job_id = (await client.post(GENERATE, json=ASKED)).json()["job_id"]
        await until(lambda: comfyui.running)
        cancelled = await client.delete(f"{JOBS}/{job_id}")
        assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
        await until(lambda: not comfyui.running)
        again = await client.post(f"{JOBS}/{job_id}/cancel")
        assert again.json() == cancelled.json()
    assert len(comfyui.prompts) == 1


async def test_cancel_by_the_image_s_key_stops_the_job_first(
    live: None, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    """Who still waits for an image that is taken out of the queue would order it anew."""
    comfyui.hold()
    asked = {**ASKED, "options": {**ASKED["options"], "idempotency_key": "k"}}
    async with serving(tmp_path) as client:
        await client.post(GENERATE, json=asked)
        await until(lambda: comfyui.running)
        assert (await client.post("/api/v1/media/image/cancel", json=asked)).status_code == 204
        assert (await client.get(f"{JOBS}/k")).json()["status"] == "cancelled"
        await until(lambda: not comfyui.running)
    assert len(comfyui.prompts) == 1


async def test_a_server_with_as_much_as_it_takes_says_when_to_come_again(
    live: None, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    comfyui.hold()
    async with serving(tmp_path, SPARKLIO_MAX_QUEUED="2") as client:
        answers = await asyncio.gather(*(client.post(GENERATE, json=ASKED) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [202, 202, 429, 429, 429]
        for answer in answers:
            if answer.status_code == 429:
                assert answer.json()["error"]["code"] == "queue_full"
                assert int(answer.headers["retry-after"]) >= 1
        ids = [answer.json()["job_id"] for answer in answers if answer.status_code == 202]
        comfyui.release()
        for job_id in ids:
            await ended_over_http(client, job_id)
        assert (await client.post(GENERATE, json=ASKED)).status_code == 202


async def test_a_stopped_server_s_jobs_are_ended_by_the_next(
    live: None, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    comfyui.hold()
    async with serving(tmp_path) as client:
        job_id = (await client.post(GENERATE, json=ASKED)).json()["job_id"]
        await until(lambda: comfyui.running)
    assert comfyui.interrupts == []
    comfyui.release()
    async with serving(tmp_path) as client:
        job = await ended_over_http(client, job_id)
    assert (job["status"], job["answer"]["images"][0]["seed"]) == ("succeeded", 5)
    assert len(comfyui.prompts) == 1


@pytest.mark.usefixtures("unmeasured")
async def test_a_killed_server_s_jobs_are_ended_by_the_next(
    live: None, comfyui: ComfyUIStandIn, tmp_path: Path
) -> None:
    comfyui.hold()
    orders = [{**ASKED, "options": {**ASKED["options"], "seed": seed}} for seed in range(3)]
    with server_process(tmp_path) as server:
        async with server.client() as client:
            ids = [(await client.post(GENERATE, json=order)).json()["job_id"] for order in orders]
        await until(lambda: len(comfyui.prompts) == 3)
        server.kill()
    comfyui.release()
    with server_process(tmp_path) as server:
        async with server.client() as client:
            jobs = [await ended_over_http(client, job_id) for job_id in ids]
        assert server.stop() == 0
    assert [job["status"] for job in jobs] == ["succeeded"] * 3
    assert [job["answer"]["images"][0]["seed"] for job in jobs] == [0, 1, 2]
    assert len(comfyui.prompts) == 3
    assert sorted(path.name for path in (tmp_path / "jobs").glob("*.lock")) == []
