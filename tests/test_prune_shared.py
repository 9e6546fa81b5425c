"""``sparklio prune`` where machines have the same runs in one database, and their images and pages in one store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from graph.run_files import FileRunStore
from providers.errors import ConfigError, UnknownNameError
from routing.image_store import ImageStore
from sparklio import Sparklio
from sparklio.data_folder import Pruned, data_folder
from sparklio.pruning import Pruner
from tests.conftest import BRAND, PRODUCT
from tests.standins.s3 import BUCKET, S3StandIn
from tests.test_prune import DAY, grow_old, picture

OTHER = {"name": "마루"}


class BrokenOffError(Exception):
    """The machine stops here."""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3StandIn]:
    with S3StandIn() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@asynccontextmanager
async def machine(home: Path, url: str | None, artefacts: str | None) -> AsyncIterator[Sparklio]:
    wanted = {"SPARKLIO_DATABASE_URL": url, "SPARKLIO_ARTIFACTS_URL": artefacts}
    async with Sparklio(
        home=home, settings={name: value for name, value in wanted.items() if value is not None}
    ) as studio:
        yield studio


@pytest.fixture
async def a(tmp_path: Path, database_url: str, s3: S3StandIn) -> AsyncIterator[Sparklio]:
    async with machine(tmp_path / "a", database_url, f"s3://{BUCKET}/x") as studio:
        yield studio


@pytest.fixture
async def b(tmp_path: Path, database_url: str, s3: S3StandIn) -> AsyncIterator[Sparklio]:
    async with machine(tmp_path / "b", database_url, f"s3://{BUCKET}/x") as studio:
        yield studio


def age(studio: Sparklio, run_id: str, days: int) -> None:
    record = studio.runs.store.read(run_id)
    record.finished_at = datetime.now(UTC) - timedelta(days=days) if record.finished_at else None
    record.created_at -= timedelta(days=days)
    studio.runs.store.save(record)


def all_old(s3: S3StandIn, *folders: Path) -> None:
    for key in s3.objects:
        s3.modified[key] = datetime.now(UTC) - 2 * DAY
    for folder in folders:
        for path in folder.glob("*/*"):
            if path.is_file():
                grow_old(path, 2)


def names(s3: S3StandIn) -> set[str]:
    return {Path(key).stem for key in s3.objects}


async def prune(studio: Sparklio, **words: Any) -> Pruned:
    assert studio._database is not None
    pruner = Pruner(studio.settings.home, studio.images, studio._database, studio.runs.store)
    return await pruner.prune(**words)


async def test_old_runs_go_from_everywhere_and_nothing_else(
    a: Sparklio, b: Sparklio, s3: S3StandIn, tmp_path: Path
) -> None:
    old = await a.run(brand=BRAND, product=PRODUCT, run_id="old")
    kept = await b.run(brand=OTHER, product=PRODUCT, run_id="kept")
    stray = a.images.save(picture("white"))
    age(a, "old", 40)
    all_old(s3, tmp_path / "a", tmp_path / "b")
    young = b.images.save(picture("green"))
    s3.objects["x/images/notes.txt"] = b"mine"
    told = await prune(b, older_than=30 * DAY, dry_run=True)
    assert "old" in {record.run_id for record in a.runs.store.all()}
    done = await prune(b, older_than=30 * DAY)
    assert told.runs == done.runs == ["old"]
    assert (told.images, told.pages) == (done.images, done.pages) == (2, 1)
    assert told.freed_bytes > 0
    wanted = {kept.result["image"]["image_id"], kept.result["meta"]["page_id"], young, "notes"}
    assert names(s3) == wanted
    assert {old.result["image"]["image_id"], stray}.isdisjoint(names(s3))
    with pytest.raises(UnknownNameError):
        await a.load("old")
    assert (await a.load("kept")).page_path.read_bytes() == kept.page_path.read_bytes()
    assert done.holds["runs"].count == 1
    assert done.holds["database"].bytes > 0
    assert await a.runs.values("kept")
    assert b._database is not None
    assert await b._database.run_ids() == {"kept"}


async def test_copies_of_a_run_that_another_machine_deleted_go(a: Sparklio, b: Sparklio, tmp_path: Path) -> None:
    await a.run(brand=BRAND, product=PRODUCT, run_id="page")
    await b.load("page")
    copies = tmp_path / "b" / "runs" / "page"
    assert (copies / "page.html").is_file()
    assert (await prune(a, keep=0)).runs == ["page"]
    assert not (tmp_path / "a" / "runs" / "page").exists()
    assert (await prune(b, keep=0)).leftovers == 0, "it may be a run that is being made"
    grow_old(copies, 1)
    assert (await prune(b, keep=0, dry_run=True)).leftovers == 1
    assert copies.exists()
    assert (await prune(b, keep=0)).leftovers == 1
    assert not copies.exists()


async def test_a_run_that_another_machine_holds_stays(a: Sparklio, b: Sparklio) -> None:
    await a.run(brand=BRAND, product=PRODUCT, run_id="page")
    with b.runs.store.lock("page"):
        done = await prune(a, keep=0)
    assert (done.runs, done.busy) == ([], ["page"])
    assert (await prune(a, keep=0)).runs == ["page"]


async def test_a_prune_that_is_broken_off_is_made_good(
    a: Sparklio, s3: S3StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a.run(brand=BRAND, product=PRODUCT, run_id="page")

    def die(*_: Any) -> None:
        raise BrokenOffError

    with monkeypatch.context() as patch:
        patch.setattr(type(a.runs.store), "discard", die)
        with pytest.raises(BrokenOffError):
            await prune(a, keep=0)
    assert [record.run_id for record in a.runs.store.all()] == ["page"]
    all_old(s3, tmp_path / "a")
    assert (await prune(a, keep=0)).runs == ["page"]
    assert a.runs.store.all() == []
    assert s3.objects == {}


async def test_an_unfinished_run_keeps_the_image_that_its_state_alone_names(
    a: Sparklio, b: Sparklio, s3: S3StandIn, tmp_path: Path
) -> None:
    events = a.stream(brand=BRAND, product=PRODUCT, run_id="half")
    async for event in events:
        if event["type"] == "node_finished" and event["node"] == "vision":
            break
    await events.aclose()
    all_old(s3, tmp_path / "a")
    made = names(s3)
    done = await prune(b, keep=0)
    assert (done.runs, done.images) == ([], 0)
    assert names(s3) == made != set()
    assert (await a.resume("half")).result["image"]["image_id"] in made


async def test_runs_of_files_leave_what_other_machines_may_need(s3: S3StandIn, tmp_path: Path) -> None:
    """Each machine knows its own runs alone."""
    shared = tmp_path / "shared"
    async with machine(tmp_path / "a", None, shared.as_uri()) as a, machine(tmp_path / "b", None, shared.as_uri()) as b:
        run = await a.run(brand=BRAND, product=PRODUCT, run_id="page")
        all_old(s3, shared)
        done = await prune(b, keep=0)
        assert (done.images, done.pages) == (0, 0)
        assert "other machines" in done.notes[0]
        assert b.images.path(run.result["image"]["image_id"]).is_file()
    async with machine(tmp_path / "c", None, f"s3://{BUCKET}/x") as c:
        stray = c.images.save(picture("white"))
        all_old(s3, tmp_path / "c")
        assert (await prune(c, keep=0)).images == 1
        assert c.images.files() == {}
        assert c.images.read(stray)[0] == picture("white")


async def test_a_store_without_a_url_is_this_machine_s(tmp_path: Path, database_url: str) -> None:
    async with machine(tmp_path / "a", database_url, None) as a:
        run = await a.run(brand=BRAND, product=PRODUCT, run_id="page")
        stray = a.images.save(picture("white"))
        for path in a.images.folder.iterdir():
            grow_old(path, 2)
        assert (await prune(a, keep=9)).images == 1
        assert set(a.images.files()) == {run.result["image"]["image_id"]}
        assert stray not in a.images.files()


async def test_a_database_of_other_runs_is_refused(a: Sparklio, tmp_path: Path) -> None:
    assert a._database is not None
    with pytest.raises(ConfigError, match="do not belong together"):
        data_folder(tmp_path, ImageStore(tmp_path / "images"), a._database, FileRunStore(tmp_path))
