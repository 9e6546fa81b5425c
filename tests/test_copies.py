"""A run that ended on one machine, read on another: result, page and image as files there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from graph.driver import Published
from graph.run_files import FileRunStore
from graph.store import RunRecord
from providers.errors import StorageError
from routing.image_store import ImageStore, image_store
from routing.settings import load_settings
from sparklio import Sparklio
from sparklio.copies import make_copies, page_here, read_page, result_here
from sparklio.made import read_run
from sparklio.publish import Publisher, read_result
from tests.conftest import BRAND, PRODUCT
from tests.standins.s3 import BUCKET, S3StandIn
from tests.test_rerun import STATE


class ResultsElsewhere(FileRunStore):
    """Results lie where all machines see them, as in a database."""

    shared = True

    def __init__(self, home: Path, results: dict[str, bytes]) -> None:
        super().__init__(home)
        self.results = results

    def save_result(self, run_id: str, content: bytes) -> None:
        self.results[run_id] = content

    def read_result(self, run_id: str) -> bytes | None:
        return self.results.get(run_id)


@dataclass
class Machine:
    runs: ResultsElsewhere
    images: ImageStore

    def record(self, out: Path | None = None, **more: Any) -> RunRecord:
        folder = out or self.runs.folder("page")
        return RunRecord(run_id="page", mode="mock", seed=1, nodes=[], inputs=STATE, out=folder, **more)

    async def publish(self, record: RunRecord, picture: bytes = b"a picture", ms: int = 1) -> Published:
        state = STATE | {"image": STATE["image"] | {"image_id": self.images.save(picture)}, "calls": []}
        return await Publisher(self.images, self.runs)(record, state, lambda: ms)

    def files(self) -> set[str]:
        """Of the run's own folder."""
        own = self.runs.folder("page")
        return {path.relative_to(own).as_posix() for path in own.rglob("*") if path.is_file()}

    def copies(self) -> Path:
        return make_copies(self.runs, self.images, "page", read_result(self.runs, "page"))


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3StandIn]:
    with S3StandIn() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def results() -> dict[str, bytes]:
    return {}


def _machine(home: Path, results: dict[str, bytes]) -> Machine:
    settings = load_settings({"SPARKLIO_HOME": str(home), "SPARKLIO_ARTIFACTS_URL": f"s3://{BUCKET}/x"})
    return Machine(ResultsElsewhere(home, results), image_store(settings))


@pytest.fixture
def a(s3: S3StandIn, tmp_path: Path, results: dict[str, bytes]) -> Machine:
    return _machine(tmp_path / "a", results)


@pytest.fixture
def b(s3: S3StandIn, tmp_path: Path, results: dict[str, bytes]) -> Machine:
    return _machine(tmp_path / "b", results)


def file_of(url: str) -> Path:
    return Path(url2pathname(urlsplit(url).path))


async def test_where_a_person_drives_the_copies_are_there_at_once(a: Machine, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    published = await a.publish(a.record(tmp_path / "out"))
    name = f"images/{published.result['image']['image_id']}.png"
    assert a.files() == {"result.json", "page.html", name}
    for folder in (a.runs.folder("page"), tmp_path / "out"):
        assert (folder / "result.json").read_bytes() == a.runs.results["page"]
        assert (folder / name).read_bytes() == b"a picture"
    assert published.page_path.read_bytes() == (a.runs.folder("page") / "page.html").read_bytes()
    assert file_of(published.result["image"]["url"]) == tmp_path / "out" / name


async def test_a_folder_of_another_machine_is_not_made_here(a: Machine, b: Machine, tmp_path: Path) -> None:
    """Somebody goes on here with what somebody else began there."""
    record = a.record(tmp_path / "away" / "out")
    published = await b.publish(record)
    assert not (tmp_path / "away").exists()
    own = b.runs.folder("page").resolve()
    assert (published.page_path, published.result_path) == (own / "page.html", own / "result.json")
    assert published.page_path.is_file()
    assert file_of(published.result["image"]["url"]).is_relative_to(own)
    record.out.mkdir(parents=True)
    assert (await a.publish(record)).page_path == record.out / "page.html"
    assert (record.out / "page.html").is_file()


async def test_a_worker_leaves_no_copies_and_all_of_it_is_found_elsewhere(
    a: Machine, b: Machine, s3: S3StandIn, tmp_path: Path
) -> None:
    published = await a.publish(a.record(tmp_path / "out", keeper="workers"))
    assert a.files() == set()
    assert not (tmp_path / "out").exists()
    image_id, page_id = published.result["image"]["image_id"], published.result["meta"]["page_id"]
    page = s3.objects[f"x/pages/{page_id}.html"]
    assert s3.objects[f"x/images/{image_id}.png"] == b"a picture"
    assert read_result(b.runs, "page") == published.result
    assert read_page(b.runs, b.images, "page") == page
    assert b.files() == set(), "reading a page makes no copies"
    own = b.copies()
    assert own == b.runs.folder("page")
    assert b.files() == {"result.json", "page.html", f"images/{image_id}.png"}
    assert (own / "page.html").read_bytes() == page
    assert (own / "images" / f"{image_id}.png").read_bytes() == b"a picture"
    assert page_here(b.runs, a.record()) == own / "page.html"


async def test_the_image_has_a_url_of_this_machine(a: Machine, b: Machine, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    await a.publish(a.record(tmp_path / "out"))
    shutil.rmtree(tmp_path / "out")
    told = read_result(b.runs, "page")
    assert result_here(b.runs, "page", told) == told, "without a copy nobody has a better one"
    own = b.copies()
    here = result_here(b.runs, "page", told)
    assert here == json.loads((own / "result.json").read_bytes())
    assert file_of(here["image"]["url"]).read_bytes() == b"a picture"
    assert file_of(here["image"]["url"]).is_relative_to(own)
    assert {**here, "image": None} == {**told, "image": None}


async def test_copies_that_are_there_are_not_made_again(a: Machine, b: Machine, s3: S3StandIn) -> None:
    await a.publish(a.record(keeper="workers"))
    own, asked = b.copies(), len(s3.calls)
    before = {path: path.stat().st_ino for path in own.rglob("*")}
    b.copies()
    assert read_page(b.runs, b.images, "page") == (own / "page.html").read_bytes()
    assert {path: path.stat().st_ino for path in own.rglob("*")} == before
    assert len(s3.calls) == asked


async def test_a_run_that_is_published_again_is_copied_again(a: Machine, b: Machine) -> None:
    """Who died between the result and the record is gone on with, perhaps by somebody else."""
    await a.publish(a.record(keeper="workers"))
    old = b.copies() / "page.html"
    before = old.read_bytes()
    second = await a.publish(a.record(keeper="workers"), picture=b"another picture", ms=2)
    new = read_page(b.runs, b.images, "page")
    assert new != before
    own = b.copies()
    assert (own / "page.html").read_bytes() == new
    assert json.loads((own / "result.json").read_bytes())["meta"]["wall_ms"] == 2
    assert (own / "images" / f"{second.result['image']['image_id']}.png").read_bytes() == b"another picture"


async def test_a_torn_copy_is_made_again(a: Machine, b: Machine) -> None:
    await a.publish(a.record(keeper="workers"))
    own = b.copies()
    page = (own / "page.html").read_bytes()
    (own / "page.html").unlink()
    shutil.rmtree(own / "images")
    b.copies()
    assert (own / "page.html").read_bytes() == page
    assert len(list((own / "images").iterdir())) == 1
    for torn in (b"", b"[]", b'{"image": 1}'):
        (own / "result.json").write_bytes(torn)
        b.copies()
        assert json.loads((own / "result.json").read_bytes())["meta"]["run_id"] == "page"


async def test_a_damaged_page_is_never_served(a: Machine, b: Machine, s3: S3StandIn) -> None:
    published = await a.publish(a.record(keeper="workers"))
    s3.objects[f"x/pages/{published.result['meta']['page_id']}.html"] = b"<html>another</html>"
    with pytest.raises(StorageError, match="is damaged"):
        read_page(b.runs, b.images, "page")
    with pytest.raises(StorageError, match="is damaged"):
        b.copies()
    assert "page.html" not in b.files()
    assert "result.json" not in b.files(), "the next try makes the rest"


async def test_what_is_gone_everywhere_stays_missing(a: Machine, b: Machine, s3: S3StandIn) -> None:
    await a.publish(a.record(keeper="workers"))
    s3.objects.clear()
    b.copies()
    assert b.files() == {"result.json"}
    with pytest.raises(FileNotFoundError):
        read_page(b.runs, b.images, "page")


def test_a_run_without_result_has_no_page(b: Machine) -> None:
    with pytest.raises(FileNotFoundError):
        read_page(b.runs, b.images, "page")


async def test_a_result_that_is_damaged_says_so(a: Machine, b: Machine) -> None:
    a.runs.results["page"] = b"{"
    with pytest.raises(StorageError, match="is damaged") as caught:
        read_page(b.runs, b.images, "page")
    assert "--from reviewer" in caught.value.hint


async def test_a_folder_of_that_name_may_hold_another_run_here(a: Machine, b: Machine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    record = a.record(out)
    await a.publish(record)
    assert page_here(a.runs, record) == out / "page.html"
    result = json.loads((out / "result.json").read_bytes())
    result["meta"]["run_id"] = "stranger"
    (out / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert page_here(b.runs, record) == out / "page.html", "there is no better one yet"
    own = b.copies()
    assert page_here(b.runs, record) == own / "page.html"
    result["meta"]["run_id"] = "page.2"
    (out / "result.json").write_text(json.dumps(result), encoding="utf-8")
    assert page_here(b.runs, record) == out / "page.html", "a rerun may be published where its parent was"


async def test_a_run_of_files_whose_copies_were_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    async with Sparklio(home=tmp_path / "home") as studio:
        run = await studio.run(brand=BRAND, product=PRODUCT, run_id="page", out=out)
        page, own = run.page_path.read_bytes(), studio.runs.store.folder("page")
        assert (await read_run(studio.runs, "page", studio.images)).page_path == out / "page.html"
        shutil.rmtree(out)
        (own / "page.html").unlink()
        again = await read_run(studio.runs, "page", studio.images)
    assert again.page_path == own / "page.html"
    assert again.page_path.read_bytes() == page
    assert file_of(again.result["image"]["url"]).is_relative_to(own.resolve())
