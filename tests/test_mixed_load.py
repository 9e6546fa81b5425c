"""Two servers and three workers on one database, with everything that clients do at once: nothing hangs, nothing grows.

``MIXED_LOAD_S=600 pytest -s tests/test_mixed_load.py``; ``make chaos`` does so.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.conftest import BRAND, PRODUCT
from tests.redis_server import RedisServer
from tests.serving import ServerProcess, server_process
from tests.test_two_servers import RUNS, shared
from tests.workers import worker_process

__all__ = ["shared"]

LASTS_S = float(os.environ.get("MIXED_LOAD_S", "0"))
pytestmark = [
    pytest.mark.no_cover,
    pytest.mark.skipif(LASTS_S < 60, reason="what grows is seen after some minutes: make chaos"),
]
CLIENTS, WORKERS = 6, 3
ENDED = {"finished", "cancelled"}
_FIGURES = """
SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()),
    (SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()),
    (SELECT coalesce(max(extract(epoch FROM now() - xact_start)), 0)::float8 FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid())
"""


class Load:
    """What clients do, each for as long as it lasts, at a server drawn for each request.

    Attributes:
        done: how often each thing was done.
        booked: the ids of all runs.
    """

    def __init__(self, servers: list[ServerProcess]) -> None:
        self._servers = servers
        self.done: Counter[str] = Counter()
        self.booked: list[str] = []

    async def client(self, until: float) -> None:
        async with self._servers[0].client() as a, self._servers[1].client() as b:
            while time.monotonic() < until:
                run_id = await self._book(random.choice((a, b)))
                if run_id is None:
                    await asyncio.sleep(0.5)
                    continue
                what = random.choice((self._follow, self._follow, self._cancel, self._look, self._rerun))
                await what(random.choice((a, b)), run_id)
                self.done[what.__name__] += 1

    async def _book(self, at: httpx.AsyncClient) -> str | None:
        answer = await at.post(RUNS, json={"brand": BRAND, "product": PRODUCT})
        if answer.status_code == 429:
            return None
        assert answer.status_code == 202, answer.text
        self.booked.append(answer.json()["run_id"])
        return self.booked[-1]

    async def _follow(self, at: httpx.AsyncClient, run_id: str) -> None:
        answer = await at.get(f"{RUNS}/{run_id}/events", timeout=120)
        assert answer.status_code == 200
        numbers = [int(line[4:]) for line in answer.text.splitlines() if line.startswith("id: ")]
        assert numbers == sorted(set(numbers))

    async def _cancel(self, at: httpx.AsyncClient, run_id: str) -> None:
        await asyncio.sleep(random.random())
        answer = await at.post(f"{RUNS}/{run_id}/cancel", timeout=60)
        assert answer.status_code in (200, 202, 409), answer.text

    async def _look(self, at: httpx.AsyncClient, run_id: str) -> None:
        for path in (f"{RUNS}/{run_id}", f"{RUNS}?limit=20", f"{RUNS}/{run_id}/history", "/metrics", "/ready"):
            answer = await at.get(path if path.startswith("/") else f"/{path}")
            assert answer.status_code < 500, answer.text
        await self._follow(at, run_id)
        page = await at.get(f"{RUNS}/{run_id}/page")
        assert page.status_code == 200, page.text

    async def _rerun(self, at: httpx.AsyncClient, run_id: str) -> None:
        await self._follow(at, run_id)
        answer = await at.post(f"{RUNS}/{run_id}/rerun", json={"start_at": "copywriter"})
        if answer.status_code != 429:
            assert answer.status_code == 202, answer.text
            self.booked.append(answer.json()["run_id"])
            await self._follow(at, self.booked[-1])


async def watch(database_url: str, figures: list[tuple[int, int, float]]) -> None:
    """Connections, deadlocks, and the age of the oldest transaction, twice a second."""
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        while True:
            row = await (await connection.execute(_FIGURES)).fetchone()
            assert row is not None
            figures.append((int(row[0]), int(row[1]), float(row[2])))
            await asyncio.sleep(0.5)


async def all_end(server: ServerProcess, run_ids: list[str]) -> Counter[str]:
    async with server.client() as client:
        told = [(await client.get(f"{RUNS}/{run_id}/events", timeout=120)).status_code for run_id in run_ids]
        assert set(told) == {200}
        return Counter([(await client.get(f"{RUNS}/{run_id}")).json()["status"] for run_id in run_ids])


async def test_two_servers_and_three_workers_do_everything_at_once(
    tmp_path: Path, shared: dict[str, str], database_url: str, redis: RedisServer
) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(server_process(tmp_path / f"server-{n}", **shared)) for n in range(2)]
        for number in range(WORKERS):
            words = ("--queues", "text,image", "--concurrency", "1")
            stack.enter_context(worker_process(tmp_path / f"worker-{number}", *words, **shared))
        load, figures = Load(servers), list[tuple[int, int, float]]()
        watching = asyncio.create_task(watch(database_url, figures))
        until = time.monotonic() + LASTS_S
        async with asyncio.TaskGroup() as clients:
            for _ in range(CLIENTS):
                clients.create_task(load.client(until))
        statuses = await all_end(servers[0], load.booked)
        watching.cancel()
        await asyncio.wait({watching})
    connections = [seen for seen, _, _ in figures]
    some = connections[:: len(connections) // 8]
    told = f"{len(load.booked)} runs, {dict(statuses)}, {dict(load.done)}, connections {some}"
    print(told)  # noqa: T201
    assert set(statuses) <= ENDED, told
    assert statuses["finished"]
    assert figures[-1][1] == 0, "no deadlock"
    assert max(age for _, _, age in figures) < 30, "no transaction hangs"
    half = len(connections) // 2
    assert max(connections[half:]) <= max(connections[half // 2 : half]) + 4, "connections do not grow"
