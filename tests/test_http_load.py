"""Many runs on one server: all end, and its memory does not grow with their number.

``LOAD_RUNS`` says how many (``make chaos``: 2,000, of which 200 at once).
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import BRAND, PRODUCT
from tests.serving import ROOT, ServerProcess, server_process

pytestmark = pytest.mark.no_cover

RUNS = int(os.environ.get("LOAD_RUNS", "40"))
AT_ONCE = min(200, RUNS // 3)
GROWTH = 1.2
"""Memory at the end over that after the first batch."""
QUEUED = AT_ONCE // 2
"""The server takes half a batch more than it drives: who asks for the rest hears 429 and asks again."""


@contextmanager
def models() -> Iterator[Mapping[str, str]]:
    """The benchmarks' Ollama and ComfyUI: 0.2 s a chat call, 1 s an image, any number at once."""
    command = [sys.executable, str(ROOT / "benchmarks" / "servers.py")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.stdin.close()


@pytest.mark.skipif(not Path("/proc").exists(), reason="only Linux tells a process's memory under /proc")
async def test_all_runs_end_and_memory_stays_flat(tmp_path: Path) -> None:
    limits = {"SPARKLIO_MAX_RUNS": str(AT_ONCE), "SPARKLIO_MAX_QUEUED": str(QUEUED)}
    with models() as urls, server_process(tmp_path, GENERATOR_MODE="live", **urls, **limits) as server:
        async with server.client() as client:
            sizes = [resident(server) async for _ in batches(client)]
            statuses = {run["status"] for run in await listed(client)}
    assert statuses == {"finished"}
    assert sizes[-1] / sizes[0] < GROWTH, f"resident after each batch of {AT_ONCE}: {sizes} kB"


async def batches(client: httpx.AsyncClient) -> AsyncIterator[None]:
    """Start the runs, a batch after the other, and wait for each to end."""
    for _ in range(RUNS // AT_ONCE):
        started = await asyncio.gather(*(start(client) for _ in range(AT_ONCE)))
        assert await asyncio.gather(*(last_event(client, run_id) for run_id in started)) == ["run_finished"] * AT_ONCE
        yield


async def start(client: httpx.AsyncClient) -> str:
    while True:
        answer = await client.post("/api/v1/runs", json={"brand": BRAND, "product": PRODUCT})
        if answer.status_code == 202:
            return str(answer.json()["run_id"])
        assert answer.status_code == 429, answer.text
        assert int(answer.headers["retry-after"]) >= 1
        await asyncio.sleep(0.2)


async def last_event(client: httpx.AsyncClient, run_id: str) -> str:
    last = ""
    async with client.stream("GET", f"/api/v1/runs/{run_id}/events", timeout=None) as events:
        async for line in events.aiter_lines():
            if line.startswith("event: "):
                last = line.removeprefix("event: ")
    return last


async def listed(client: httpx.AsyncClient) -> list[dict[str, str]]:
    runs: list[dict[str, str]] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await client.get("/api/v1/runs", params={"limit": 200, **cursor})).json()
        runs += page["runs"]
        if page["next_cursor"] is None:
            return runs
        cursor = {"cursor": page["next_cursor"]}


def resident(server: ServerProcess) -> int:
    """The server's memory in kB."""
    status = Path(f"/proc/{server.popen.pid}/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
