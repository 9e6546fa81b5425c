"""A server that is killed or stopped in the midst of many runs: the next one ends them all, and does nothing twice.

The models' servers live on and count; every run has a product of its own. The killed servers are processes, of twenty
runs. The stopped ones live in the test's own loop, one after another on the same folder, as a process would only take
its seconds to start: that a signal stops one in the same way is told in ``test_serve.py``.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from graph.run_files import FileRunStore
from tests.conftest import BRAND, PRODUCT
from tests.kept import InFiles
from tests.killing import Call, Servers, Standing, check_whole, standing, visible
from tests.serving import ServerProcess, server_process, serving
from tests.test_http_runs import RUNS

pytestmark = pytest.mark.no_cover

NUMBER = 20
NAMES = [f"page-{number}" for number in range(NUMBER)]
KILLED_AFTER = (25, 80)
"""Answers of the chat model's, of some 160 that the runs want."""
STOPPED = NAMES[:8]
STOPPED_AFTER = (10, 32)
"""Of some 64."""


async def book_all(client: httpx.AsyncClient, names: list[str]) -> None:
    for name in names:
        product = {**PRODUCT, "name": f"{PRODUCT['name']} {name}"}
        answer = await client.post(RUNS, json={"brand": BRAND, "product": product, "run_id": name})
        assert answer.status_code == 202, answer.text


async def statuses(client: httpx.AsyncClient) -> Counter[str]:
    runs = (await client.get(RUNS, params={"limit": 200})).json()["runs"]
    return Counter(run["status"] for run in runs)


async def end_all(client: httpx.AsyncClient, names: list[str]) -> None:
    async with asyncio.timeout(240):
        while await statuses(client) != {"finished": len(names)}:  # noqa: ASYNC110  # as a client would
            await asyncio.sleep(0.1)
        for name in names:
            seen = [line for line in (await client.get(f"{RUNS}/{name}/events")).text.splitlines() if line[:3] == "id:"]
            numbers = [int(line[3:]) for line in seen]
            assert numbers == sorted(set(numbers)), "each number is given out once"


async def as_a_client(
    server: ServerProcess, does: Callable[[httpx.AsyncClient, list[str]], Coroutine[Any, Any, None]]
) -> None:
    async with server.client() as client:
        await does(client, NAMES)


def wait_for_answers(servers: Servers, number: int, server: ServerProcess) -> None:
    limit = time.monotonic() + 60
    while len(servers.ollama.answered) < number:
        assert server.popen.poll() is None, server.stderr
        assert time.monotonic() < limit, server.stderr
        time.sleep(0.005)


async def stood(home: Path) -> list[Standing]:
    return [await standing(InFiles(home), name) for name in NAMES]


def answers(stands: list[Standing]) -> Counter[Call]:
    """Calls whose answers the ledger holds, by how many runs have one."""
    return Counter(call for stand in stands for call in stand.answered)


def check_end(home: Path, servers: Servers, number: int) -> None:
    """All runs are finished, each with one image, which was ordered and made once."""
    assert {record.status for record in FileRunStore(home).all()} == {"finished"}
    comfyui = servers.comfyui
    assert len(comfyui.accepted) == len(set(comfyui.accepted)) == number
    assert sorted(comfyui.executed) == sorted(comfyui.accepted)
    assert len(visible(home / "images")) == number
    check_whole(home, temporary=True)


def test_a_killed_server_s_runs_all_end_and_no_finished_call_is_made_again(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Servers() as servers:
        settings = {"GENERATOR_MODE": "live", "SPARKLIO_MAX_RUNS": "4", **servers.settings}
        before, asked = Counter[Call](), 0
        for round_number, moment in enumerate(KILLED_AFTER):
            with server_process(home, **settings) as server:
                if round_number == 0:
                    asyncio.run(as_a_client(server, book_all))
                wait_for_answers(servers, moment, server)
                server.kill()
            servers.quiet()
            now = asyncio.run(stood(home))
            calls = Counter(servers.calls()[asked:])
            assert not before - answers(now), "an answer is lost"
            assert not answers(now) - before - calls
            assert not {call for call in before & calls if str(PRODUCT["name"]) in call[1]}, (
                "of one run alone, and answered"
            )
            assert len([stand for stand in now if stand.status != "finished"]) > 4, "some were under way, some waited"
            before, asked = answers(now), len(servers.calls())
        with server_process(home, **settings) as server:
            asyncio.run(as_a_client(server, end_all))
            assert server.stop() == 0
        servers.quiet()
        wanted = answers(asyncio.run(stood(home)))
        assert Counter(servers.calls()[asked:]) == wanted - before, "each call that was not answered, once"
        check_end(home, servers, NUMBER)


@pytest.mark.parametrize("moment", STOPPED_AFTER)
async def test_a_stopped_server_s_runs_wait_for_the_next_one(tmp_path: Path, moment: int) -> None:
    home = tmp_path / "home"
    with Servers() as servers:
        settings = {"GENERATOR_MODE": "live", "SPARKLIO_MAX_RUNS": "4", **servers.settings}
        async with serving(home, **settings) as client:
            await book_all(client, STOPPED)
            async with asyncio.timeout(60):
                while len(servers.ollama.answered) < moment:  # noqa: ASYNC110  # it counts in a thread of its own
                    await asyncio.sleep(0.005)
        left = Counter(record.status for record in FileRunStore(home).all())
        assert left["interrupted"] <= 4
        assert left.keys() <= {"finished", "interrupted", "queued"}
        assert left["queued"] + left["interrupted"] > 0
        assert not servers.comfyui.interrupts
        async with serving(home, **settings) as client:
            await end_all(client, STOPPED)
        check_end(home, servers, len(STOPPED))
