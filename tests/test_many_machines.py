"""Machines of workers, of which one is killed every few seconds, while Redis forgets, PostgreSQL pauses and a wire is
cut: every run ends as if nothing had been, no finished call is made again, and each image is made once.

``DISTRIBUTED_RUNS=1000 pytest -s tests/test_many_machines.py`` is the whole of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from graph.inputs import RunInput
from graph.ledger import Ledger
from graph.sqlite import to_its_end
from providers.errors import StorageError
from routing.contracts import LLMRequest
from sparklio.worker.queue import KEEPER
from tests.apart import apart
from tests.cable import Cable
from tests.conftest import BRAND, PRODUCT
from tests.faults import SCHEMAS
from tests.killing import Call, Servers, answer
from tests.postgres_server import PostgresServer, postgres_server
from tests.redis_server import RedisServer
from tests.standins.chat import Body
from tests.standins.ollama import payload_of
from tests.workers import Office, WorkerProcess, office

pytestmark = pytest.mark.no_cover

RUNS = int(os.environ.get("DISTRIBUTED_RUNS", "12"))
MACHINES = 3
KILLED_EVERY_S = 5.0
CUT_FOR_S = 20.0
"""Longer than a lease: others take what the machine had."""


class Models(Servers):
    """The models' servers, which know when each call was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[float, Call]] = []
        self.ollama.answerer = self._answer
        self.ollama.delay_s = 0.05

    def _answer(self, body: Body) -> str | dict[str, Any]:
        call = (self.ollama.task_of(body), json.dumps(payload_of(body), sort_keys=True, ensure_ascii=False))
        self.asked.append((time.monotonic(), call))
        return answer(body)


class Wire:
    """Leads to the servers on this machine. Where it allows that, it ends in a network of its own; else the wire leads
    to PostgreSQL and Redis alone, and is cut by whoever forwards.
    """

    def __init__(self, stack: ExitStack, ports: Iterable[int]) -> None:
        self._network = stack.enter_context(apart())
        host = self._network.address if self._network else "127.0.0.1"
        self._host = host
        self._cables = {port: stack.enter_context(Cable(port, host)) for port in ports}
        self.before = self._network.words if self._network else ()

    def through(self, settings: dict[str, str]) -> dict[str, str]:
        """The settings of who is at the other end."""
        return {name: self._led(value) for name, value in settings.items()}

    def _led(self, value: str) -> str:
        for port, cable in self._cables.items():
            value = value.replace(f"127.0.0.1:{port}", f"{self._host}:{cable.port}")
        return value

    def cut(self) -> None:
        for end in [self._network] if self._network else self._cables.values():
            end.cut()

    def mend(self) -> None:
        for end in [self._network] if self._network else self._cables.values():
            end.mend()


class Machines:
    """The last one reaches everybody else by a wire that can be cut."""

    def __init__(self, folder: Path, settings: dict[str, str], wire: Wire) -> None:
        self._folder = folder
        self._settings = [settings] * (MACHINES - 1) + [wire.through(settings)]
        self._before = [()] * (MACHINES - 1) + [wire.before]
        self._running: list[WorkerProcess] = []
        self.kills = 0

    def __enter__(self) -> Machines:
        self._running = [self._start(number) for number in range(MACHINES)]
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._running:
            worker.clean_up()

    def kill(self) -> None:
        """A machine, or one process that does a task, of any that is up; a machine is started again."""
        up = [number for number in range(MACHINES) if self._running[number].children()]
        if not up:
            return
        number = random.choice(up)
        self.kills += 1
        if self.kills % 2:
            with suppress(ProcessLookupError, IndexError):
                os.kill(random.choice(self._running[number].children()), signal.SIGKILL)
            return
        self._running[number].clean_up()
        self._running[number] = self._start(number)

    def logs(self) -> str:
        return "\n".join(worker.log for worker in self._running)

    def _start(self, number: int) -> WorkerProcess:
        home = self._folder / f"machine-{number}"
        settings, before = self._settings[number], self._before[number]
        return WorkerProcess(home, "--concurrency", "2", settings=settings, before=before)


class Ledgers:
    """When the answer of each call was first seen in the database."""

    def __init__(self, booking: Office) -> None:
        self._booking = booking
        self.seen: dict[tuple[str, str, int, str], float] = {}

    async def watch(self) -> None:
        while True:
            with suppress(StorageError):
                rows = await self._booking.studio._opened().read(
                    "SELECT thread_id, node, ordinal, fingerprint FROM effects"
                )
                for row in rows:
                    self.seen.setdefault((row[0], row[1], int(row[2]), row[3]), time.monotonic())
            await asyncio.sleep(0.1)

    async def answered_at(self, run_ids: list[str]) -> dict[Call, float]:
        ledger, at = Ledger(self._booking.studio._opened()), dict[Call, float]()
        for run_id in run_ids:
            for effect in await ledger.load(run_id):
                if isinstance(effect.request, LLMRequest):
                    payload = json.dumps(effect.request.payload, sort_keys=True, ensure_ascii=False)
                    key = (run_id, effect.node, effect.ordinal, effect.key)
                    at[SCHEMAS[effect.node], payload] = self.seen.get(key, float("inf"))
        return at


async def book(booking: Office, run_id: str) -> str:
    """Each has a brand and a product of its own, so that no two runs make the same call."""
    brand, product = {**BRAND, "name": f"소리결 {run_id}"}, {**PRODUCT, "name": f"소리결 {run_id}"}
    inputs = RunInput.parse({"brand": brand, "product": product})
    batch = f"batch-{int(run_id.rpartition('-')[2]) % 3}"
    record = await booking.studio.runs.start(inputs, run_id=run_id, status="queued", keeper=KEEPER, batch=batch)
    return record.run_id


async def trouble(machines: Machines, redis: RedisServer, postgres: PostgresServer, wire: Wire) -> None:
    """One thing after another, for as long as the runs take."""
    number = 0
    while True:
        await asyncio.sleep(KILLED_EVERY_S)
        number += 1
        await to_its_end(asyncio.to_thread(machines.kill))  # nobody starts one that nobody stops
        if number in (2, 20):
            await asyncio.to_thread(redis.restart, forget=True)
        if number in (3, 30):
            await asyncio.to_thread(postgres.restart, after_s=3)
        if number == 4:
            wire.cut()
            asyncio.get_running_loop().call_later(CUT_FOR_S, wire.mend)


async def test_whatever_dies_all_runs_end_and_nothing_is_done_twice(tmp_path: Path, redis: RedisServer) -> None:
    models = Models()
    with models, postgres_server() as postgres, ExitStack() as stack:
        url = postgres.new_database()
        settings = {
            "GENERATOR_MODE": "live",
            "SPARKLIO_DATABASE_URL": url,
            "SPARKLIO_BROKER_URL": redis.url,
            "SPARKLIO_ARTIFACTS_URL": f"file://{tmp_path}/artifacts",
            "SPARKLIO_MAX_DELIVERIES": "100",  # of a run that is killed again and again, nobody shall despair
            **models.settings,
        }
        models_ports = [int(url.rpartition(":")[2]) for url in models.settings.values()]
        wire = Wire(stack, (postgres.port, redis.port, *models_ports))
        async with office(tmp_path / "office", **settings) as booking:
            booked = [await book(booking, f"page-{number}") for number in range(RUNS)]
            ledgers = Ledgers(booking)
            watching = asyncio.create_task(ledgers.watch())
            began = time.monotonic()
            with Machines(tmp_path, settings, wire) as machines:
                troubling = asyncio.create_task(trouble(machines, redis, postgres, wire))
                try:
                    await booking.ended(*booked, within_s=120 + 3 * RUNS)
                except AssertionError:
                    print(machines.logs())  # noqa: T201
                    raise
                finally:
                    for task in (troubling, watching):
                        task.cancel()
                    await asyncio.wait({troubling, watching})
            print(f"{RUNS} runs in {time.monotonic() - began:.0f} s, {machines.kills} kills")  # noqa: T201
            answered_at = await ledgers.answered_at(booked)
            results = [booking.store.read_result(run_id) for run_id in booked]
        assert len({run_id for run_id, result in zip(booked, results, strict=True) if result}) == RUNS
        again = [call for asked_at, call in models.asked if asked_at > answered_at.get(call, float("inf"))]
        assert not again, f"{len(again)} finished calls were made again: {again[:3]}"
        assert len(answered_at) == len({call for _, call in models.asked}), "no answer is lost"
        images = Counter(models.comfyui.accepted)
        assert (len(images), images.total()) == (RUNS, RUNS), "each image was ordered once"
