"""Image jobs on disk: what stopped servers leave, what several share, what is removed, damaged or refused."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from providers.errors import (
    ConflictError,
    StorageError,
    UnknownNameError,
)
from sparklio.server.jobs import KEPT, ImageJobs
from tests.images_on_hold import ImagesOnHold, ended, wish
from tests.waiting import until


def put_back(folder: Path, job_id: str, by: timedelta) -> None:
    """As if the job had been ordered, and had ended, so much earlier."""
    path = folder / f"{job_id}.json"
    content = json.loads(path.read_text())
    for name in ("created_at", "finished_at"):
        if content[name]:
            content[name] = (datetime.fromisoformat(content[name]) - by).isoformat()
    path.write_text(json.dumps(content))
    os.utime(path, (datetime.fromisoformat(content["created_at"]).timestamp(),) * 2)


async def test_what_a_stopped_server_left_is_gone_on_with_in_its_order(tmp_path: Path) -> None:
    first = ImagesOnHold()
    async with ImageJobs(first, tmp_path, 9, at_once=1) as jobs:
        for key in ("c", "a", "b"):
            await jobs.order(wish(key))
            await asyncio.sleep(0.01)
    assert (first.left, first.cancelled) == (["c"], [])
    second = ImagesOnHold(at_hand=True)
    async with ImageJobs(second, tmp_path, 9, at_once=1) as jobs:
        for key in ("a", "b", "c"):
            assert (await ended(jobs, key)).status == "succeeded"
    assert second.begun == ["c", "a", "b"]
    third = ImagesOnHold()
    async with ImageJobs(third, tmp_path, 9):
        assert third.begun == []


async def test_jobs_of_another_mode_wait_for_a_server_of_theirs(tmp_path: Path) -> None:
    async with ImageJobs(ImagesOnHold(), tmp_path, 9, mode="live") as jobs:
        await jobs.order(wish("k"))
    mock = ImagesOnHold(at_hand=True)
    async with ImageJobs(mock, tmp_path, 9, mode="mock") as jobs:
        assert (await jobs.get("k")).status == "queued"
        assert mock.begun == []
    async with ImageJobs(ImagesOnHold(at_hand=True), tmp_path, 9, mode="live") as jobs:
        assert (await ended(jobs, "k")).status == "succeeded"


async def test_two_servers_share_a_folder_and_no_job(tmp_path: Path) -> None:
    one, other = ImagesOnHold(), ImagesOnHold()
    async with ImageJobs(one, tmp_path, 9) as jobs:
        await jobs.order(wish("k"))
        async with ImageJobs(other, tmp_path, 9) as others:
            job, new = await others.order(wish("k"))
            assert (job.job_id, new) == ("k", False)
            with pytest.raises(ConflictError):
                await others.order(wish("k", prompt="another"))
            with pytest.raises(ConflictError):
                await others.cancel("k")
            one.go.set()
            assert (await ended(others, "k")).status == "succeeded"
            assert await others.latest(5) == await jobs.latest(5)
    assert other.begun == []


async def test_two_servers_at_once_make_one_job_of_one_key(tmp_path: Path) -> None:
    gateways = ImagesOnHold(at_hand=True), ImagesOnHold(at_hand=True)
    async with ImageJobs(gateways[0], tmp_path, 9) as one, ImageJobs(gateways[1], tmp_path, 9) as other:
        orders = await asyncio.gather(*(jobs.order(wish("k")) for jobs in (one, other, one, other)))
        assert sum(new for _, new in orders) == 1
        assert (await ended(one, "k")).status == "succeeded"
    assert len(gateways[0].begun + gateways[1].begun) == 1


async def test_what_ended_a_day_ago_is_removed(tmp_path: Path) -> None:
    gateway = ImagesOnHold(at_hand=True)
    async with ImageJobs(gateway, tmp_path, 9) as jobs:
        for key in ("old", "young"):
            await jobs.order(wish(key))
            await ended(jobs, key)
        gateway.go.clear()
        await jobs.order(wish("unfinished"))
    put_back(tmp_path, "old", KEPT + timedelta(minutes=1))
    put_back(tmp_path, "young", KEPT - timedelta(minutes=1))
    put_back(tmp_path, "unfinished", KEPT * 3)
    async with ImageJobs(gateway, tmp_path, 9) as jobs:
        with pytest.raises(UnknownNameError):
            await jobs.get("old")
        assert (await jobs.get("young")).ended
        assert not (await jobs.get("unfinished")).ended


async def test_a_server_that_runs_for_days_removes_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now(UTC)
    monkeypatch.setattr("sparklio.server.jobs._SWEPT_EVERY_S", 0)
    async with ImageJobs(ImagesOnHold(at_hand=True), tmp_path, 9, clock=lambda: now) as jobs:
        await jobs.order(wish("old"))
        await ended(jobs, "old")
        now += KEPT + timedelta(minutes=1)
        await jobs.order(wish("new"))
        await ended(jobs, "new")
        assert [job.job_id for job in await jobs.latest(9)] == ["new"]


async def test_a_damaged_file_hides_no_other_job(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with ImageJobs(ImagesOnHold(at_hand=True), tmp_path, 9) as jobs:
        for key in ("broken", "whole"):
            await jobs.order(wish(key))
            await ended(jobs, key)
    (tmp_path / "broken.json").write_text('{"job_id":')
    async with ImageJobs(ImagesOnHold(at_hand=True), tmp_path, 9) as jobs:
        assert [job.job_id for job in await jobs.latest(9)] == ["whole"]
        assert "broken.json is damaged" in caplog.text
        with pytest.raises(UnknownNameError):
            await jobs.get("broken")
        _, new = await jobs.order(wish("broken"))
        assert new
        assert (await ended(jobs, "broken")).status == "succeeded"


async def test_an_end_that_the_disk_refuses_is_told_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = ImagesOnHold()

    def full(*_: object, **__: object) -> None:
        raise StorageError("the disk is full", hint="free some space")

    async with ImageJobs(gateway, tmp_path, 1) as jobs:
        await jobs.order(wish("k"))
        await until(lambda: gateway.begun)
        with monkeypatch.context() as disk:
            disk.setattr("sparklio.server.job_files.write_whole", full)
            gateway.go.set()
            job = await ended(jobs, "k")
            assert job.status == "succeeded"
            assert await jobs.cancel("k") == job
            with pytest.raises(StorageError):
                await jobs.order(wish("other"))
        assert "the disk is full" in caplog.text
        _, new = await jobs.order(wish("other"))
        assert new, "an ended job takes no place"
    assert logging.getLevelName(caplog.records[-1].levelno) in {"ERROR", "WARNING"}
