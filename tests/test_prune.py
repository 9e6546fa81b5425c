"""Old runs go, whole, and nothing that anybody still needs goes with them."""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from filelock import FileLock
from PIL import Image

from graph.database import Database
from graph.inputs import RunInput
from providers.errors import StorageError, UnknownNameError, UsageError
from sparklio import Sparklio
from sparklio.data_folder import DataFolder
from sparklio.disk_use import readable
from sparklio.pruning import parse_age
from sparklio.rows import TABLES
from tests.conftest import BRAND, PRODUCT
from tests.test_cli import Shell
from tests.test_pack import stopped, tree

DAY = timedelta(days=1)


@pytest.fixture
def sparklio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
async def studio(home: Path) -> AsyncIterator[Sparklio]:
    async with Sparklio(home=home) as studio:
        yield studio


async def make(studio: Sparklio, *run_ids: str, days_old: int = 0, **more: Any) -> None:
    for run_id in run_ids:
        await studio.run(brand=BRAND, product=PRODUCT, run_id=run_id, **more)
        age(studio, run_id, days_old)


def age(studio: Sparklio, run_id: str, days: int) -> None:
    """As if the run had been made and had ended so many days ago."""
    store = studio.runs.store
    record = store.read(run_id)
    moment = datetime.now(UTC) - days * DAY
    store.save(record.model_copy(update={"created_at": moment, "finished_at": record.finished_at and moment}))
    grow_old(store.folder(run_id) / "run.json", days)


def grow_old(path: Path, days: float) -> None:
    moment = path.stat().st_mtime - days * 86_400
    os.utime(path, (moment, moment))


def runs(studio: Sparklio) -> set[str]:
    return {record.run_id for record in studio.runs.store.all()}


def rows(home: Path) -> dict[str, set[str]]:
    with closing(sqlite3.connect(home / "checkpoints.sqlite")) as connection:
        return {
            table: {row[0] for row in connection.execute(f"SELECT DISTINCT thread_id FROM {table}")} for table in TABLES
        }


def du(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.suffix != ".sqlite-shm")


def picture(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (70, 70), color).save(file, "PNG")
    return file.getvalue()


class Wish(NamedTuple):
    older_than: timedelta | None
    keep: int | None
    left: set[str]


@pytest.mark.parametrize(
    "wish",
    [
        Wish(30 * DAY, None, {"new", "week"}),
        Wish(DAY, None, {"new"}),
        Wish(90 * DAY, None, {"new", "week", "month", "older"}),
        Wish(None, 3, {"new", "week", "month"}),
        Wish(None, 0, set()),
        Wish(None, 9, {"new", "week", "month", "older"}),
        Wish(DAY, 3, {"new", "week", "month"}),
        Wish(30 * DAY, 1, {"new", "week"}),
    ],
)
async def test_which_runs_go(studio: Sparklio, home: Path, wish: Wish) -> None:
    for run_id, days in (("older", 60), ("new", 0), ("month", 31), ("week", 7)):
        await make(studio, run_id, days_old=days)
    whole = tree(home / "runs")
    told = await studio.prune(older_than=wish.older_than, keep=wish.keep, dry_run=True)
    assert tree(home / "runs") == whole
    done = await studio.prune(older_than=wish.older_than, keep=wish.keep)
    assert runs(studio) == wish.left
    assert set(done.runs) == set(told.runs) == {"older", "new", "month", "week"} - wish.left
    assert {path.name for path in (home / "runs").iterdir()} == wish.left
    assert all(held == wish.left for held in rows(home).values())
    for run_id in wish.left:
        assert (await studio.load(run_id)).state["brief"]
        assert await studio.history(run_id)


async def test_unfinished_runs_stay_unless_they_are_asked_for(studio: Sparklio) -> None:
    await stopped(studio, "half", after="brief")
    age(studio, "half", 40)
    assert (await studio.prune(older_than=30 * DAY)).runs == []
    assert (await studio.resume("half")).result["brief"]
    await stopped(studio, "other", after="brief")
    age(studio, "other", 40)
    assert (await studio.prune(older_than=30 * DAY, unfinished=True)).runs == ["other"]


async def test_a_killed_run_is_as_old_as_its_record(studio: Sparklio) -> None:
    await stopped(studio, "killed", after="brief")
    store = studio.runs.store
    long_ago = {"status": "running", "finished_at": None, "created_at": datetime.now(UTC) - 90 * DAY}
    store.save(store.read("killed").model_copy(update=long_ago))
    assert (await studio.prune(older_than=30 * DAY, unfinished=True)).runs == [], "somebody went on with it just now"
    grow_old(store.folder("killed") / "run.json", 31)
    assert (await studio.prune(older_than=30 * DAY, unfinished=True)).runs == ["killed"]


async def test_a_run_that_is_being_run_stays(studio: Sparklio, home: Path) -> None:
    await make(studio, "old", days_old=40)
    stream = studio.stream(brand=BRAND, product=PRODUCT, run_id="busy")
    async for event in stream:
        if event["type"] == "node_finished":
            break
    async with Sparklio(home=home) as other:
        done = await other.prune(keep=0, unfinished=True)
    assert done.runs == ["old"]
    kinds = [event["type"] async for event in stream]
    assert kinds[-1] == "run_finished"
    assert (await studio.load("busy")).result["brief"]


async def test_a_run_that_somebody_holds_is_told_and_stays(studio: Sparklio) -> None:
    await make(studio, "held", "free", days_old=40)
    with studio.runs.store.lock("held"):
        done = await studio.prune(keep=0)
    assert (done.runs, done.busy) == (["free"], ["held"])
    assert runs(studio) == {"held"}


async def test_a_prune_beside_runs_that_are_made_takes_nothing_of_them(studio: Sparklio, home: Path) -> None:
    await make(studio, "a", "b", "c", days_old=40)
    async with Sparklio(home=home) as other:
        made, done = await asyncio.gather(make(other, "x", "y"), studio.prune(older_than=DAY))
    assert made is None
    assert set(done.runs) == {"a", "b", "c"}
    assert runs(studio) == {"x", "y"}
    assert (await studio.rerun("x", start_at="reviewer")).result["review"]


async def test_two_prunes_at_once_delete_each_run_once(studio: Sparklio, home: Path) -> None:
    await make(studio, *"abcdef", days_old=40)
    async with Sparklio(home=home) as other:
        both = await asyncio.gather(studio.prune(older_than=DAY), other.prune(older_than=DAY))
    assert sorted(both[0].runs + both[1].runs + [*set(both[0].busy) & set(both[1].busy)]) == sorted("abcdef")
    assert list((home / "runs").iterdir()) == []


# families


async def test_a_rerun_needs_no_parent(studio: Sparklio) -> None:
    stored = await studio.add_photo(picture("green"))
    await studio.run(brand=BRAND, product=PRODUCT | {"photo": stored}, run_id="page")
    await studio.rerun("page", start_at="copywriter")
    age(studio, "page", 40)
    for path in studio.images.folder.iterdir():
        grow_old(path, 40)
    assert (await studio.prune(older_than=30 * DAY)).runs == ["page"]
    assert (await studio.load("page.2")).state["brief"]
    assert {point.run_id for point in await studio.history("page.2")} == {"page.2"}
    assert (await studio.rerun("page.2", start_at="vision")).id == "page.3"
    assert (await studio.rerun("page.2", start_at="copywriter")).id == "page.4"
    with pytest.raises(UnknownNameError):
        await studio.load("page")


async def test_an_unfinished_rerun_keeps_the_image_that_its_parent_alone_had(studio: Sparklio) -> None:
    first = await studio.run(brand=BRAND, product=PRODUCT, run_id="page")
    record = await studio.runs.start_rerun("page", start_at="copywriter", changes={})
    driving = studio.runs.drive(record)
    await anext(driving)
    await driving.aclose()
    shutil.rmtree(studio.images.folder)
    age(studio, "page", 40)
    assert (await studio.prune(older_than=DAY)).runs == ["page"]
    done = await studio.resume("page.2")
    assert done.result["image"]["image_id"] == first.result["image"]["image_id"]


# images and leftovers


async def test_images_that_no_run_names_go_when_they_are_a_day_old(studio: Sparklio) -> None:
    stored = {color: await studio.add_photo(picture(color)) for color in ("red", "green", "blue", "white")}
    await make(studio, "gone", days_old=40)
    await studio.run(brand=BRAND, product=PRODUCT | {"photo": stored["red"]}, run_id="stays")
    await stopped(studio, "half", after="vision", product=PRODUCT | {"photo": stored["green"]})
    for path in studio.images.folder.iterdir():
        if path.stem != stored["blue"]:
            grow_old(path, 2)
    (studio.images.folder / "notes.txt").write_text("mine")
    grow_old(studio.images.folder / "notes.txt", 2)
    told = await studio.prune(older_than=DAY, dry_run=True)
    done = await studio.prune(older_than=DAY)
    assert (told.images, done.images) == (2, 2), "that of the run that went, and the white one"
    left = {path.stem for path in studio.images.folder.iterdir()}
    assert {stored["red"], stored["green"], stored["blue"], "notes"} <= left
    assert stored["white"] not in left
    asked = len(left)
    assert (await studio.resume("half")).result["image"]["image_id"] in left
    assert len(list(studio.images.folder.iterdir())) == asked
    assert (await studio.rerun("stays", start_at="vision")).result["image"]


async def test_what_a_damaged_record_names_stays(studio: Sparklio, home: Path) -> None:
    result = (await studio.run(brand=BRAND, product=PRODUCT, run_id="page")).result
    record = home / "runs" / "page" / "run.json"
    record.write_text(record.read_text(encoding="utf-8")[:-1], encoding="utf-8")
    path = studio.images.path(result["image"]["image_id"])
    grow_old(path, 9)
    done = await studio.prune(keep=0)
    assert (done.runs, done.images) == ([], 0)
    assert path.is_file()


async def test_no_image_goes_while_a_run_cannot_be_asked(studio: Sparklio, home: Path) -> None:
    await stopped(studio, "half", after="brief")
    stored = await studio.add_photo(picture("red"))
    grow_old(studio.images.path(stored), 9)
    with closing(sqlite3.connect(home / "checkpoints.sqlite")) as connection:
        connection.execute("UPDATE checkpoints SET checkpoint = x'00'")
        connection.commit()
    done = await studio.prune(keep=9)
    assert done.images == 0
    assert "no image was deleted" in done.notes[0]
    assert studio.images.path(stored).is_file()


async def test_what_was_left_half_written_goes_after_an_hour(studio: Sparklio, home: Path) -> None:
    await make(studio, "page")
    left = [
        home / "images" / ".x.png.0123456789abcdef",
        home / "pages" / ".x.html.0123456789abcdef",
        home / "runs" / "page" / ".run.json.0123456789abcdef",
        home / "runs" / "page" / "images" / ".x.png.0123456789abcdef",
        home / "runs" / ".gone.0123456789abcdef" / "page.html",
        home / "runs" / "torn" / "page.html",
    ]
    young = home / "runs" / "page" / ".page.html.0123456789abcdef"
    other = home / "runs" / "page" / ".hidden"
    for path in (*left, young, other):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"torn")
    for path in (*left, other, home / "runs" / "torn", home / "runs" / ".gone.0123456789abcdef"):
        grow_old(path, 0.1)
    told = await studio.prune(keep=9, dry_run=True)
    assert all(path.exists() for path in left)
    done = await studio.prune(keep=9)
    assert (told.leftovers, done.leftovers) == (6, 6)
    assert not any(path.exists() for path in (*left, home / "runs" / "torn", left[4].parent))
    assert young.exists()
    assert other.exists()
    assert (await studio.load("page")).result["brief"]


async def test_locks_of_servers_that_are_gone_go_after_an_hour(studio: Sparklio, home: Path) -> None:
    dead, held, young = (home / f"requests-{name}.lock" for name in ("dead", "held", "young"))
    for path in (dead, held, young):
        path.touch()
    with FileLock(held):
        for path in (dead, held):
            grow_old(path, 0.1)
        told = await studio.prune(keep=9, dry_run=True)
        assert dead.exists()
        done = await studio.prune(keep=9)
    assert (told.leftovers, done.leftovers) == (1, 1)
    assert [path.exists() for path in (dead, held, young)] == [False, True, True]


async def test_what_a_server_keeps_is_counted(studio: Sparklio, home: Path) -> None:
    (home / "jobs").mkdir()
    names = ("requests.sqlite", "requests.sqlite-wal", "requests-a.lock", "jobs/a.json", "jobs/b.json", "jobs/c.lock")
    for name in names:
        (home / name).write_bytes(b"12345")
    held = (await studio.prune(keep=9)).holds["server"]
    assert (held.count, held.bytes) == (2, 30)


async def test_rows_without_a_run_go(studio: Sparklio, home: Path) -> None:
    await make(studio, "page", "removed")
    shutil.rmtree(home / "runs" / "removed")
    done = await studio.prune(keep=9)
    assert (done.runs, done.leftovers) == ([], 1)
    assert all(held == {"page"} for held in rows(home).values())
    assert {path.name for path in (home / "runs").iterdir()} == {"page"}


async def test_a_folder_that_was_given_with_out_is_its_owner_s(studio: Sparklio, tmp_path: Path) -> None:
    await make(studio, "page", out=tmp_path / "mine")
    before = tree(tmp_path / "mine")
    assert (await studio.prune(keep=0)).runs == ["page"]
    assert tree(tmp_path / "mine") == before


async def test_a_link_leads_nobody_out_of_the_data_folder(studio: Sparklio, tmp_path: Path, home: Path) -> None:
    await make(studio, "page")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "run.json").write_text("{}")
    (home / "runs" / "linked").symlink_to(tmp_path / "mine")
    (home / "runs" / "page" / "more").symlink_to(tmp_path / "mine")
    await studio.prune(keep=0)
    assert (tmp_path / "mine" / "run.json").exists()


async def test_a_run_that_was_just_booked_is_not_an_unfinished_one(studio: Sparklio) -> None:
    """Nobody holds it until it is driven."""
    record = await studio.runs.start(RunInput.parse({"brand": BRAND, "product": PRODUCT}), run_id="booked")
    assert (await studio.prune(keep=0, unfinished=True)).runs == []
    assert [event["type"] async for event in studio.runs.drive(record)][-1] == "run_finished"
    await studio.runs.start(RunInput.parse({"brand": BRAND, "product": PRODUCT}), run_id="forgotten")
    grow_old(studio.runs.store.folder("forgotten") / "run.json", 0.1)
    assert (await studio.prune(keep=1, unfinished=True)).runs == ["booked"]
    assert (await studio.prune(keep=0, unfinished=True)).runs == ["forgotten"]


async def test_a_queued_run_stays_and_a_cancelled_one_is_unfinished(studio: Sparklio) -> None:
    for run_id, status in (("waits", "queued"), ("stopped", "cancelled")):
        await stopped(studio, run_id, after="brief")
        record = studio.runs.store.read(run_id)
        studio.runs.store.save(record.model_copy(update={"status": status}))
        age(studio, run_id, 40)
    assert (await studio.prune(older_than=30 * DAY)).runs == []
    assert (await studio.prune(older_than=30 * DAY, unfinished=True)).runs == ["stopped"]
    assert runs(studio) == {"waits"}


async def test_a_run_that_was_booked_again_meanwhile_stays(studio: Sparklio, monkeypatch: pytest.MonkeyPatch) -> None:
    await stopped(studio, "half", after="brief")
    age(studio, "half", 40)
    store = studio.runs.store
    measured = DataFolder.named_in_records

    def booked(*words: Any, **named: Any) -> set[str]:
        store.save(store.read("half").model_copy(update={"status": "queued"}))
        return measured(*words, **named)

    monkeypatch.setattr(DataFolder, "named_in_records", booked)
    assert (await studio.prune(keep=0, unfinished=True)).runs == []
    assert runs(studio) == {"half"}


async def test_what_two_prunes_delete_at_once_goes(
    studio: Sparklio, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that one has just moved away looks old to the other, and each finds things gone beneath its hands."""
    rmtree, gone = shutil.rmtree, list[Path]()

    def raced(folder: Path) -> None:
        if folder not in gone:
            gone.append(folder)
            (folder / "a").unlink()
            raise FileNotFoundError(2, "No such file or directory", str(folder / "a"))
        rmtree(folder)

    moved = home / "runs" / ".gone.0123456789abcdef"
    moved.mkdir(parents=True)
    for name in "ab":
        (moved / name).write_bytes(b"x")
    grow_old(moved, 1)
    monkeypatch.setattr(shutil, "rmtree", raced)
    await make(studio, "old", days_old=40)
    (studio.runs.store.folder("old") / "a").write_bytes(b"x")
    done = await studio.prune(older_than=DAY)
    assert (done.runs, done.leftovers) == (["old"], 1)
    assert list((home / "runs").iterdir()) == []
    assert len(gone) == 2


# broken off


@pytest.mark.parametrize("moment", ["before the rows", "before the folder is moved", "before the folder is gone"])
async def test_a_prune_that_is_broken_off_shows_no_half_run(
    studio: Sparklio, home: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    await make(studio, "a", "b", days_old=40)

    class Killed(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as broken:
        if moment == "before the rows":
            broken.setattr(Database, "write", die)
        elif moment == "before the folder is moved":
            broken.setattr(Path, "rename", lambda path, to: die() if path.is_dir() else path.replace(to))
        else:
            broken.setattr(shutil, "rmtree", die)
        with pytest.raises(Killed):
            await studio.prune(older_than=DAY)
    [whole] = runs(studio)
    assert (await studio.load(whole)).result["brief"]
    assert await studio.history(whole)
    for path in (home / "runs").iterdir():
        grow_old(path, 1)
    await studio.prune(keep=9)
    assert runs(studio) == {whole}
    assert {path.name for path in (home / "runs").iterdir()} == {whole}
    assert all(held == {whole} for held in rows(home).values())


# sizes


async def test_sizes_are_those_of_the_files(home: Path) -> None:
    async with Sparklio(home=home) as studio:
        await make(studio, "a", "b", "c", days_old=40)
        await make(studio, "new")
    before = du(home)
    async with Sparklio(home=home) as studio:
        told = await studio.prune(older_than=DAY, dry_run=True)
        for path in (*studio.images.folder.iterdir(), *(home / "pages").iterdir()):
            grow_old(path, 2)
        done = await studio.prune(older_than=DAY)
    after = du(home)
    assert done.freed_bytes == before - after
    assert 0 < told.freed_bytes < before
    assert (told.holds["runs"].count, done.holds["runs"].count) == (4, 1)
    assert done.holds["runs"].bytes == du(home / "runs")
    assert done.holds["images"].bytes == du(home / "images")
    assert (told.holds["pages"].count, done.holds["pages"].count, done.pages) == (4, 1, 3)
    assert done.holds["pages"].bytes == du(home / "pages")
    assert done.holds["database"].bytes == (home / "checkpoints.sqlite").stat().st_size
    assert sum(part.bytes for part in done.holds.values()) == after
    assert done.notes == []


async def test_the_database_shrinks(studio: Sparklio, home: Path) -> None:
    await make(studio, *(f"r{number}" for number in range(6)), days_old=40)
    async with Sparklio(home=home):
        pass
    before = (await studio.prune(keep=9)).holds["database"].bytes
    after = (await studio.prune(keep=0)).holds["database"].bytes
    assert after < before / 2


async def test_a_full_disk_keeps_the_database_as_large_as_it_is(
    studio: Sparklio, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make(studio, "a", "b", days_old=40)
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    done = await studio.prune(keep=0)
    assert done.runs
    assert "keeps its size" in done.notes[0]


async def test_who_writes_at_that_moment_is_no_failure(studio: Sparklio, monkeypatch: pytest.MonkeyPatch) -> None:
    await make(studio, "a", "b", days_old=40)
    read = Database.read

    async def busy(self: Database, sql: str, values: Any = ()) -> Any:
        if sql == "VACUUM":
            raise StorageError("cannot use the database: database is locked", hint="wait")
        return await read(self, sql, values)

    monkeypatch.setattr(Database, "read", busy)
    done = await studio.prune(keep=0)
    assert set(done.runs) == {"a", "b"}
    assert "locked" in done.notes[0]


async def test_an_empty_data_folder_has_nothing_to_prune(studio: Sparklio) -> None:
    done = await studio.prune(keep=0)
    assert (done.runs, done.images, done.pages, done.leftovers, done.freed_bytes) == ([], 0, 0, 0, 0)
    for part in ("runs", "images", "pages"):
        assert (done.holds[part].count, done.holds[part].bytes) == (0, 0)


# the command line


def test_by_the_command_line(sparklio: Shell, tmp_path: Path) -> None:
    for run_id in ("one", "two", "three"):
        sparklio.ok("run", "--run-id", run_id)
    told = sparklio.refused(2, "prune")
    assert "there are 3" in told
    assert "--keep 20 would delete 0" in told
    assert "would delete: runs 2" in sparklio.ok("prune", "--keep", "1", "--dry-run")
    assert len(sparklio.json("runs")["runs"]) == 3
    body = sparklio.json("prune", "--keep", "2")
    assert (body["dry_run"], body["runs"], body["holds"]["runs"]["count"]) == (False, ["one"], 2)
    assert body["freed_bytes"] > 0
    shown = sparklio.ok("prune", "--keep", "1", "--older-than", "0m")
    assert "deleted: runs 1, images 0, pages 0, leftovers 0; freed " in shown
    assert re.search(r"^holds: runs 1 \(.+\), images \d+ \(.+\), pages 3 \(.+\), database \d", shown, re.MULTILINE)
    assert [record["run_id"] for record in sparklio.json("runs")["runs"]] == ["three"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--older-than", "30"), "no age"),
        (("--older-than", "-1d"), "no age"),
        (("--older-than", "1y"), "no age"),
        (("--older-than", "³d"), "no age"),
        (("--older-than", "999999999d"), "no age"),
        (("--keep", "-1"), "no number"),
        ((), "say which runs"),
    ],
)
def test_wrong_words(sparklio: Shell, words: tuple[str, ...], says: str) -> None:
    assert says in sparklio.refused(2, "prune", *words)


@pytest.mark.parametrize(
    ("text", "expected"), [("30d", 30 * DAY), ("2w", 14 * DAY), ("12h", DAY / 2), ("45m", timedelta(minutes=45))]
)
def test_ages(text: str, expected: timedelta) -> None:
    assert parse_age(text) == expected


def test_an_age_that_is_longer_than_any_run_s() -> None:
    assert parse_age("99999w") > 1000 * 365 * DAY
    with pytest.raises(UsageError):
        parse_age("")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2.5e6, "2.5 MB"), (3e9, "3.0 GB")]
)
def test_sizes_in_words(size: float, text: str) -> None:
    assert readable(size) == text
