"""A finished page under its hash: which run it belongs to, when it goes, how it travels, and that no run needs it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.test_pack import Members, members_of, replaced, sealed, stopped, zipped
from tests.test_prune import DAY, grow_old, make

OTHER = {"name": "마루"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
async def studio(home: Path) -> AsyncIterator[Sparklio]:
    async with Sparklio(home=home) as studio:
        yield studio


def result_of(home: Path, run_id: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((home / "runs" / run_id / "result.json").read_bytes())
    return result


def page_of(home: Path, run_id: str) -> Path:
    return home / "pages" / f"{result_of(home, run_id)['meta']['page_id']}.html"


def pages(home: Path) -> set[Path]:
    return set((home / "pages").glob("*"))


async def test_each_run_names_its_page_and_a_rerun_leaves_that_of_its_parent(studio: Sparklio, home: Path) -> None:
    assert studio.settings.pages == home / "pages"
    await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
    first = page_of(home, "page")
    before = first.read_bytes()
    await studio.rerun("page", start_at="copywriter", changes={"brief.target": "캠핑족"})
    second = page_of(home, "page.2")
    assert pages(home) == {first, second}
    assert first.read_bytes() == before == (home / "runs" / "page" / "page.html").read_bytes()
    assert second.read_bytes() == (home / "runs" / "page.2" / "page.html").read_bytes() != before


async def test_out_holds_a_copy(studio: Sparklio, home: Path, tmp_path: Path) -> None:
    run = await studio.run(brand=BRAND, product=PRODUCT, run_id="page", out=tmp_path / "mine")
    assert run.page_path == tmp_path / "mine" / "page.html"
    assert run.page_path.read_bytes() == page_of(home, "page").read_bytes()
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"images", "page.html", "result.json"}


async def test_a_store_that_was_emptied_loses_no_run(studio: Sparklio, home: Path) -> None:
    first = await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
    shutil.rmtree(home / "pages")
    assert (await studio.load("page")).result == first.result
    assert (await studio.resume("page")).page_path.is_file()
    file = await studio.pack("page")
    assert (await studio.diff("page", "page"))["differences"] == []
    done = await studio.prune(keep=9)
    assert (done.runs, done.notes, done.holds["pages"].count) == ([], [], 0)
    again = await studio.rerun("page", start_at="reviewer")
    assert page_of(home, "page.2").read_bytes() == again.page_path.read_bytes()
    async with Sparklio(home="there") as there:
        await there.unpack(file)
        assert (await there.load("page")).page_path.read_bytes() == first.page_path.read_bytes()


# prune


async def test_pages_that_no_run_names_go_when_they_are_a_day_old(studio: Sparklio, home: Path) -> None:
    await make(studio, "old", "gone", days_old=40)
    await studio.run(brand=OTHER, product=PRODUCT, run_id="stays")
    shutil.rmtree(home / "runs" / "gone")
    young, left = home / "pages" / f"{'1' * 32}.html", home / "pages" / "notes.html"
    kept = page_of(home, "stays")
    for path in (young, left):
        path.write_bytes(b"<html></html>")
    for path in pages(home) - {young}:
        grow_old(path, 2)
    everything = pages(home)
    told = await studio.prune(older_than=30 * DAY, dry_run=True)
    assert pages(home) == everything
    done = await studio.prune(older_than=30 * DAY)
    assert pages(home) == {young, left, kept}
    assert told.pages == done.pages == len(everything) - 3 > 0
    assert kept.read_bytes() == (home / "runs" / "stays" / "page.html").read_bytes()


async def test_a_page_that_two_runs_share_stays_as_long_as_one_of_them(studio: Sparklio, home: Path) -> None:
    await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
    await studio.rerun("page", start_at="vision", changes={})
    assert {record.run_id for record in studio.runs.store.all()} == {"page", "page.2"}
    shared = page_of(home, "page.2")
    result = result_of(home, "page")
    result["meta"]["page_id"] = shared.stem
    (home / "runs" / "page" / "result.json").write_text(json.dumps(result), encoding="utf-8")
    for path in pages(home):
        grow_old(path, 2)
    await studio.prune(keep=1)
    assert pages(home) == {shared}
    assert (await studio.prune(keep=0)).pages == 1
    assert pages(home) == set()


async def test_pages_go_though_some_run_cannot_be_asked_for_its_images(studio: Sparklio, home: Path) -> None:
    """Only a result names a page."""
    await make(studio, "old", days_old=40)
    await stopped(studio, "half", after="brief")
    with closing(sqlite3.connect(home / "checkpoints.sqlite")) as connection:
        connection.execute("UPDATE checkpoints SET checkpoint = x'00' WHERE thread_id = 'half'")
        connection.commit()
    for path in pages(home):
        grow_old(path, 2)
    done = await studio.prune(older_than=DAY)
    assert (done.runs, done.images, done.pages) == (["old"], 0, 1)
    assert "no image was deleted" in done.notes[0]
    assert pages(home) == set()


# elsewhere


def without_page_id(members: Members) -> Members:
    result = json.loads(members["result.json"])
    del result["meta"]["page_id"]
    return sealed(members | {"result.json": json.dumps(result).encode()})


@pytest.fixture
async def packed(studio: Sparklio) -> Path:
    await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
    return await studio.pack("page")


async def test_a_page_travels_once_and_stands_under_its_hash_there(packed: Path, home: Path, tmp_path: Path) -> None:
    assert [name for name in members_of(packed) if name.endswith(".html")] == ["page.html"]
    async with Sparklio(home="there") as there:
        await there.unpack(packed)
    assert {path.name: path.read_bytes() for path in pages(tmp_path / "there")} == {
        page_of(home, "page").name: members_of(packed)["page.html"]
    }


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(without_page_id, id="packed by an earlier version"),
        pytest.param(replaced("page.html", b"<html>another</html>"), id="another page"),
        pytest.param(replaced("page.html", None), id="no page"),
    ],
)
async def test_a_page_that_is_not_the_one_of_the_result_is_stored_under_no_hash(
    packed: Path, tmp_path: Path, change: Callable[[Members], Members]
) -> None:
    members = change(members_of(packed))
    async with Sparklio(home="there") as there:
        await there.unpack(zipped(tmp_path / "other.sparklio", members))
        run = await there.load("page")
    assert run.result["brief"]
    assert pages(tmp_path / "there") == set()
    assert run.page_path.is_file() == ("page.html" in members)
