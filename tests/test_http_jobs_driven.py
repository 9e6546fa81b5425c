"""What becomes of an image job while one server drives it: progress, ends, cancelling, places in the queue."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from providers.errors import (
    JobError,
    QueueFullError,
    UnreachableError,
)
from routing.contracts import Progress
from sparklio.server.jobs import ImageJobs
from tests.images_on_hold import ImagesOnHold, ended, wish
from tests.waiting import NEVER_S, until


async def test_a_long_poll_answers_with_the_next_change(tmp_path: Path) -> None:
    gateway = ImagesOnHold()
    async with ImageJobs(gateway, tmp_path, 9) as jobs:
        await jobs.order(wish("k"))
        await until(lambda: gateway.heard)
        running = await jobs.get("k")
        assert (running.status, running.progress) == ("running", None)
        assert await jobs.wait("k", running.version - 1, NEVER_S) == running, "it has changed already"
        assert await jobs.wait("k", running.version, 0.01) == running, "nothing has changed"
        waiting = asyncio.create_task(jobs.wait("k", running.version, NEVER_S))
        await asyncio.sleep(0)
        assert gateway.heard is not None
        gateway.heard(Progress(kind="image", step=3, steps=20))
        later = await waiting
        assert later.progress is not None
        assert (later.progress.step, later.progress.steps) == (3, 20)
        assert later.version > running.version
        waiting = asyncio.create_task(jobs.wait("k", None, NEVER_S))
        await asyncio.sleep(0.01)
        gateway.go.set()
        last = await waiting
        assert (last.status, last.ended) == ("succeeded", True)
        assert last.version > later.version
        assert await jobs.wait("k", last.version, NEVER_S) == last, "an ended job changes no more"


async def test_a_failed_job_tells_its_error_and_is_begun_again_by_its_key(tmp_path: Path) -> None:
    gateway = ImagesOnHold(at_hand=True)
    gateway.fails = JobError("it broke", provider="p", hint="try again", details={"reason": "x"})
    async with ImageJobs(gateway, tmp_path, 9) as jobs:
        await jobs.order(wish("k"))
        failed = await ended(jobs, "k")
        assert failed.status == "failed"
        assert failed.error is not None
        assert (failed.error.code, failed.error.hint) == ("image_job_failed", "try again")
        assert failed.error.details == {"reason": "x", "provider": "p"}
        gateway.fails = None
        job, new = await jobs.order(wish("k", budget_usd=0.5))
        assert (new, job.version > failed.version) == (True, True)
        again = await ended(jobs, "k")
        assert (again.status, again.error) == ("succeeded", None)
    assert gateway.begun == ["k", "k"]


async def test_a_defect_ends_its_job_alone_and_tells_nothing_of_the_inside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = ImagesOnHold(at_hand=True)
    gateway.fails = ZeroDivisionError("secret inside")
    async with ImageJobs(gateway, tmp_path, 9) as jobs:
        await jobs.order(wish("k"))
        failed = await ended(jobs, "k")
        assert failed.error is not None
        assert failed.error.code == "internal"
        assert "secret" not in failed.model_dump_json()
        assert "secret inside" in caplog.text
        gateway.fails = None
        await jobs.order(wish("other"))
        assert (await ended(jobs, "other")).status == "succeeded"


async def test_cancelling_twice_at_once_is_cancelling_once(tmp_path: Path) -> None:
    gateway = ImagesOnHold()
    async with ImageJobs(gateway, tmp_path, 9) as jobs:
        await jobs.order(wish("k"))
        await until(lambda: gateway.begun)
        ends = await asyncio.gather(jobs.cancel("k"), jobs.cancel("k"), jobs.cancel_image(wish("k")))
        assert ends[0] == ends[1]
        assert ends[0].status == "cancelled"
        assert (gateway.left, gateway.cancelled) == (["k"], ["k"])
        assert jobs.counts() == {"queued": 0, "running": 0}
        assert await jobs.cancel("k") == ends[0]
        gateway.go.set()
        _, new = await jobs.order(wish("k"))
        assert new
        assert (await ended(jobs, "k")).status == "succeeded"


async def test_an_order_during_the_cancelling_is_a_new_one(tmp_path: Path) -> None:
    gateway = ImagesOnHold()
    async with ImageJobs(gateway, tmp_path, 9) as jobs:
        await jobs.order(wish("k"))
        await until(lambda: gateway.begun)
        stopping = asyncio.create_task(jobs.cancel("k"))
        await asyncio.sleep(0)
        _, new = await jobs.order(wish("k"))
        assert new
        assert (await stopping).status == "cancelled"
        gateway.go.set()
        assert (await ended(jobs, "k")).status == "succeeded"


async def test_a_service_that_cannot_be_told_to_stop_is_told_of(tmp_path: Path) -> None:
    gateway = ImagesOnHold()
    gateway.deaf = UnreachableError("nobody there", provider="p", hint="start it")
    async with ImageJobs(gateway, tmp_path, 9) as jobs:
        await jobs.order(wish("k"))
        job = await jobs.cancel("k")
        assert job.status == "cancelled"
        assert job.error is not None
        assert job.error.code == "provider_unreachable"


async def test_an_image_that_is_no_job_is_cancelled_by_its_key(tmp_path: Path) -> None:
    gateway = ImagesOnHold()
    async with ImageJobs(gateway, tmp_path, 9) as jobs:
        await jobs.cancel_image(wish("k"))
    assert gateway.cancelled == ["k"]


async def test_no_more_are_made_at_a_time_than_may_be(tmp_path: Path) -> None:
    gateway = ImagesOnHold()
    async with ImageJobs(gateway, tmp_path, 9, at_once=2) as jobs:
        for number in range(4):
            await jobs.order(wish(f"k{number}"))
        await until(lambda: len(gateway.begun) == 2)
        assert jobs.counts() == {"queued": 2, "running": 2}
        assert (await jobs.cancel("k3")).status == "cancelled"
        gateway.go.set()
        for number in range(3):
            await ended(jobs, f"k{number}")
    assert gateway.begun == ["k0", "k1", "k2"]


async def test_two_orders_at_once_do_not_both_take_the_last_place(tmp_path: Path) -> None:
    async with ImageJobs(ImagesOnHold(), tmp_path, 1) as jobs:
        orders = await asyncio.gather(jobs.order(wish("a")), jobs.order(wish("b")), return_exceptions=True)
        taken, refused = ("a", "b") if isinstance(orders[0], tuple) else ("b", "a")
        assert {type(order) for order in orders} == {tuple, QueueFullError}
        job, new = await jobs.order(wish(taken))
        assert (job.job_id, new) == (taken, False), "one that is there needs no place"
        await jobs.cancel(taken)
        await jobs.order(wish(refused))


async def test_nothing_of_ended_jobs_stays_in_memory(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with ImageJobs(ImagesOnHold(at_hand=True), tmp_path, 99) as jobs:
        await asyncio.gather(*(jobs.order(wish(f"k{number}")) for number in range(20)))
        for number in range(20):
            await ended(jobs, f"k{number}")
        await until(lambda: asyncio.all_tasks() == before)
        assert jobs._live == {}
