"""A run on its way from one machine to another, and files that only look like one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import shutil
import sqlite3
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from graph.inputs import RunInput
from graph.sqlite import Statement
from graph.sqlite_database import SqliteDatabase, ThriftySaver
from graph.vault import PLAIN
from providers.errors import (
    ConfigError,
    InputError,
    RunBusyError,
    RunExistsError,
    RunUnfinishedError,
    StorageError,
    UnknownNameError,
    UsageError,
)
from routing.image_store import ImageStore
from sparklio import Sparklio, data_folder, leftovers, package, packing, pruning, unpacking
from sparklio.rows import TABLES, Row, image_names
from tests.conftest import BRAND, PRODUCT
from tests.test_cli import Shell

KEY, OTHER_KEY = ("0" * 63 + end for end in "12")
Members = dict[str, bytes]


@pytest.fixture
def sparklio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


async def stopped(studio: Sparklio, run_id: str, *, after: str, **more: Any) -> None:
    """A run that is left as soon as an agent has finished."""
    stream = studio.stream(**{"brand": BRAND, "product": PRODUCT, "run_id": run_id, **more})
    async for event in stream:
        if event["type"] == "node_finished" and event["node"] == after:
            break
    await stream.aclose()


def without_places(result: dict[str, Any]) -> dict[str, Any]:
    return result | {"image": {key: value for key, value in result["image"].items() if key != "url"}}


def photo(color: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (80, 80), color).save(file, "PNG")
    return file.getvalue()


# there and back


@pytest.mark.parametrize("language", ["ko", "en"])
async def test_a_finished_run_is_the_same_there(tmp_path: Path, language: Any) -> None:
    async with Sparklio(home="a") as here:
        first = await here.run(brand=BRAND, product=PRODUCT, run_id="page", language=language, out="elsewhere")
        points = await here.history("page")
        file = await here.pack("page")
    assert file == Path("page.sparklio")
    async with Sparklio(home="b") as there:
        record = await there.unpack(file)
        second = await there.load("page")
        assert await there.history("page") == points
        assert (await there.resume("page")).result == second.result
        assert (await there.diff("page", "page"))["differences"] == []
    assert second.state == first.state
    assert without_places(second.result) == without_places(first.result)
    own = tmp_path / "b" / "runs" / "page"
    assert record.out == own
    assert second.page_path.read_bytes() == (tmp_path / "a" / "runs" / "page" / "page.html").read_bytes()
    assert second.result["image"]["url"] == (own / "images" / f"{first.result['image']['image_id']}.png").as_uri()
    assert (own / "run.log").read_bytes() == (tmp_path / "a" / "runs" / "page" / "run.log").read_bytes()


async def test_a_run_packs_to_the_same_bytes_every_time_and_everywhere() -> None:
    async with Sparklio(home="a") as here:
        await here.run(brand=BRAND, product=PRODUCT, run_id="page")
        first, second = await here.pack("page", "one.sparklio"), await here.pack("page", "two.sparklio")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("after", ["brand", "strategist", "copywriter", "reviewer", "vision"])
async def test_an_interrupted_run_goes_on_there(after: str) -> None:
    async with Sparklio(home="a") as here:
        await stopped(here, "page", after=after)
        before = await here.runs.values("page")
        file = await here.pack("page")
    shutil.rmtree("a")
    async with Sparklio(home="b") as there:
        assert (await there.unpack(file)).status == "interrupted"
        assert await there.runs.values("page") == before
        events = [event async for event in there.runs.drive(there.runs.resumable("page"))]
        run = await there.load("page")
    done = set(events[0]["data"]["done"])
    assert after in done
    assert not done & {event["node"] for event in events if event["type"] == "node_started"}
    assert set(run.result["meta"]["nodes"]) >= {"brand", "brief", "strategist", "copywriter", "reviewer", "vision"}


async def test_a_rerun_travels_without_its_parent_and_with_its_photo() -> None:
    async with Sparklio(home="a") as here:
        picture = await here.add_photo(photo())
        first = await here.run(brand=BRAND, product=PRODUCT | {"photo": picture}, run_id="page")
        await here.rerun("page", start_at="copywriter", changes={"brief.target": "캠핑족"})
        file = await here.pack("page.2")
    shutil.rmtree("a")
    async with Sparklio(home="b") as there:
        await there.unpack(file)
        assert {point.run_id for point in await there.history("page.2")} == {"page.2"}
        assert (await there.load("page.2")).result["image"]["image_id"] == first.result["image"]["image_id"]
        assert there.images.read(picture)[0] == photo()
        again = await there.rerun("page.2", start_at="vision")
        assert again.id == "page.3"
        differing = (await there.diff("page.2", "page.3"))["differences"]
    assert {one["path"].split(".")[0] for one in differing} <= {"image"}


async def test_an_interrupted_rerun_goes_on_there() -> None:
    async with Sparklio(home="a") as here:
        await here.run(brand=BRAND, product=PRODUCT, run_id="page")
        record = await here.runs.start_rerun("page", start_at="strategist", changes={})
        async for event in (driving := here.runs.drive(record)):
            if event["type"] == "node_finished":
                break
        await driving.aclose()
        file = await here.pack("page.2")
    shutil.rmtree("a")
    async with Sparklio(home="b") as there:
        await there.unpack(file)
        assert (await there.resume("page.2")).result["meta"]["parent"]["run_id"] == "page"


async def test_a_failed_run_that_never_began_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was booked, and before its first step somebody had locked the database for too long."""

    async def locked(*_: Any) -> None:
        raise StorageError("cannot use the database: database is locked", hint="wait")

    async with Sparklio(home="a") as here:
        with monkeypatch.context() as busy, pytest.raises(StorageError, match="locked"):
            busy.setattr(ThriftySaver, "aget_tuple", locked)
            await here.run(brand=BRAND, product=PRODUCT, run_id="page")
        assert await here.history("page") == []
        file = await here.pack("page")
    async with Sparklio(home="b") as there:
        assert (await there.unpack(file)).status == "failed"
        assert (await there.resume("page")).result["brief"]


TEXT = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=30)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=TEXT, features=st.lists(TEXT, min_size=1, max_size=4), facts=st.dictionaries(TEXT, TEXT, max_size=3))
def test_whatever_the_product_is_nothing_of_its_run_is_lost(
    tmp_path_factory: pytest.TempPathFactory, name: str, features: list[str], facts: dict[str, str]
) -> None:
    folder = tmp_path_factory.mktemp("travel")

    async def travel() -> None:
        product = {"name": name, "key_features": features, "facts": facts}
        async with Sparklio(home=folder / "a") as here:
            first = await here.run(brand={"name": name}, product=product, run_id="page")
            file = await here.pack("page", folder)
        async with Sparklio(home=folder / "b") as there:
            await there.unpack(file)
            second = await there.load("page")
            assert second.state == first.state
            assert without_places(second.result) == without_places(first.result)
            assert (await there.pack("page", folder / "again")).stat().st_size > 0

    asyncio.run(travel())


# what is refused at packing


async def test_a_run_that_is_being_run_is_not_packed(tmp_path: Path) -> None:
    async with Sparklio(home="a") as here:
        stream = here.stream(brand=BRAND, product=PRODUCT, run_id="page")
        await anext(stream)
        with pytest.raises(RunBusyError):
            await here.pack("page")
        await stream.aclose()
        with pytest.raises(UnknownNameError):
            await here.pack("nobody")
    assert not list(tmp_path.glob("*.sparklio"))


async def test_a_pack_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sparklio(home="a") as here:
        await here.run(brand=BRAND, product=PRODUCT, run_id="page")
        (tmp_path / "out").mkdir()
        with pytest.raises(StorageError):
            await here.pack("page", "nowhere/page.sparklio")
        with monkeypatch.context() as patched:
            patched.setattr(packing, "MAX_BYTES", 1000)
            with pytest.raises(UsageError, match="too large"):
                await here.pack("page", "out")
        image = next((tmp_path / "a" / "runs" / "page" / "images").iterdir())
        image.write_bytes(photo())
        with pytest.raises(StorageError, match="damaged"):
            await here.pack("page", "out")
    assert not list((tmp_path / "out").iterdir())


# the same by the command line


def test_by_the_command_line(sparklio: Shell, tmp_path: Path) -> None:
    first = sparklio.json("run", "--run-id", "page")
    assert "sparklio unpack page.sparklio" in sparklio.ok("pack", "page")
    told = sparklio.json("pack", "page", "--out", "copy.sparklio")
    assert told == {
        "run_id": "page",
        "file": str(tmp_path / "copy.sparklio"),
        "bytes": (tmp_path / "page.sparklio").stat().st_size,
    }
    assert "exists here already" in sparklio.refused(2, "unpack", "page.sparklio")
    there = {"SPARKLIO_HOME": "there"}
    assert "sparklio show page" in sparklio.ok("unpack", "page.sparklio", **there)
    shown = sparklio.json("show", "page", **there)
    assert without_places(shown["result"]) == without_places(first)
    assert sparklio.json("unpack", "page.sparklio", SPARKLIO_HOME="third")["out"] == str(tmp_path / "third/runs/page")
    assert "page" in sparklio.ok("history", "page", **there)
    assert sparklio.json("rerun", "page", "--from", "reviewer", **there)["meta"]["run_id"] == "page.2"


@pytest.mark.parametrize("content", [None, b"", b"no zip at all", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_refused_makes_no_data_folder(sparklio: Shell, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "bad.sparklio").write_bytes(content)
    before = tree(tmp_path)
    sparklio.refused(2, "unpack", "bad.sparklio")
    assert tree(tmp_path) == before


# its events


def event_line(seq: Any, **values: Any) -> bytes:
    event = {"seq": seq, "type": "token", "node": "brief", "at": "", "elapsed_ms": 1, "data": {"text": "소리"}} | values
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"


async def test_the_events_travel_without_what_a_kill_has_torn(tmp_path: Path) -> None:
    async with Sparklio(home="a") as here:
        await stopped(here, "page", after="brief")
        path = here.runs.store.folder("page") / "events.jsonl"
        torn, cut = event_line(3)[:20] + b"\n", event_line(5)[:-1]
        path.write_bytes(event_line(1) + event_line(2) + torn + event_line(4) + cut)
        file = await here.pack("page")
        path.unlink()
        without = await here.pack("page", "without.sparklio")
    assert "events.jsonl" not in members_of(without)
    async with Sparklio(home="b") as there:
        await there.unpack(file)
    got = (tmp_path / "b" / "runs" / "page" / "events.jsonl").read_bytes()
    assert got == event_line(1) + event_line(2) + event_line(4)


async def test_half_of_a_letter_is_an_event_s_too(tmp_path: Path) -> None:
    """As a model may write it; see how the log encodes it."""
    half = json.dumps(json.loads(event_line(1)) | {"data": {"text": "\ud83d"}}).encode() + b"\n"
    assert package.is_event(half)


# what a file books


async def test_a_queued_run_travels_as_an_interrupted_one() -> None:
    async with Sparklio(home="a") as here:
        inputs = RunInput.parse({"brand": BRAND, "product": PRODUCT})
        record = await here.runs.start(inputs, run_id="page")
        here.runs.store.save(record.model_copy(update={"status": "queued"}))
        file = await here.pack("page")
        assert here.runs.store.read("page").status == "queued"
    async with Sparklio(home="b") as there:
        assert (await there.unpack(file)).status == "interrupted"
        assert (await there.resume("page")).result["brief"]


async def test_a_file_from_elsewhere_books_no_work_here(tmp_path: Path) -> None:
    async with Sparklio(home="a") as here:
        await stopped(here, "page", after="brief")
        members = members_of(await here.pack("page"))
    path = zipped(tmp_path / "kept.sparklio", changed("run.json", keeper="server", request="r-1")(members))
    async with Sparklio(home="b") as there:
        await there.unpack(path)
        record = there.runs.store.read("page")
    assert (record.status, record.keeper, record.request) == ("interrupted", None, None)


# hostile files: content


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed run, made once."""
    folder = tmp_path_factory.mktemp("good")

    async def make() -> Path:
        async with Sparklio(home=folder / "home") as studio:
            await studio.run(brand=brand, product=PRODUCT, run_id="page")
            (studio.runs.store.folder("page") / "events.jsonl").write_bytes(event_line(1) + event_line(2))
            return await studio.pack("page", folder)

    materials = [{"name": "long.txt", "text": "소리를 오래 들어도 귀가 편합니다. " * 100}]
    brand = BRAND | {"uploaded_materials": materials}
    return asyncio.run(make())


def members_of(path: Path) -> Members:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sealed(members: Members, **manifest: Any) -> Members:
    """The members under a manifest that fits them."""
    held = {name: content for name, content in members.items() if name != "manifest.json"}
    told = json.loads(members["manifest.json"]) | {
        "files": {name: {"sha256": sha256(body).hexdigest(), "size": len(body)} for name, body in held.items()},
        **manifest,
    }
    return held | {"manifest.json": json.dumps(told).encode()}


def zipped(path: Path, members: Members | list[tuple[Any, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            archive.writestr(name, content)
    return path


def changed(name: str, **values: Any) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        return sealed(members | {name: json.dumps(json.loads(members[name]) | values).encode()})

    return change


def replaced(name: str, content: bytes | None) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        rest = {key: value for key, value in members.items() if key != name}
        return sealed(rest if content is None else rest | {name: content})

    return change


def first_row(table: str, **values: Any) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        line, *rest = members[f"{table}.jsonl"].splitlines()
        row = json.dumps(json.loads(line) | values).encode()
        return sealed(members | {f"{table}.jsonl": b"\n".join([row, *rest])})

    return change


def with_a_row(table: str, **values: Any) -> Callable[[Members], Members]:
    """One more than there are, made of the first."""

    def change(members: Members) -> Members:
        held = members[f"{table}.jsonl"]
        row = json.dumps(json.loads(held.splitlines()[0]) | values).encode()
        return sealed(members | {f"{table}.jsonl": held + row + b"\n"})

    return change


def manifest(**values: Any) -> Callable[[Members], Members]:
    return lambda members: sealed(members, **values)


def lying(**values: Any) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        told = json.loads(members["manifest.json"])
        told["files"]["page.html"] |= values
        return members | {"manifest.json": json.dumps(told).encode()}

    return change


def image_as(name: str | None, content: bytes | None = None) -> Callable[[Members], Members]:
    def change(members: Members) -> Members:
        (old,) = (key for key in members if key.startswith("images/"))
        body = members[old] if content is None else content
        rest = {key: value for key, value in members.items() if key != old}
        return sealed(rest | {name.format(id=Path(old).stem) if name else old: body})

    return change


def twice(members: Members) -> Members:
    return sealed(members | {"writes.jsonl": members["writes.jsonl"] + members["writes.jsonl"].splitlines()[0]})


def renamed(members: Members) -> Members:
    record = json.loads(members["run.json"]) | {"run_id": "../../x"}
    return sealed(members | {"run.json": json.dumps(record).encode()}, run_id="../../x")


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def bomb() -> bytes:
    """A few kB that stand for 60 megapixels."""
    file = io.BytesIO()
    Image.new("1", (10_000, 6_000)).save(file, "PNG")
    return file.getvalue()


REVIEW = {"score": 1, "summary": "s", "issues": []}
CONTENT: dict[str, tuple[Callable[[Members], Members], str]] = {
    "another id in the record": (changed("run.json", run_id="other"), "different runs"),
    "another id in the manifest": (manifest(run_id="other"), "different runs"),
    "an id that is a path": (renamed, "no record"),
    "a record that is no JSON": (replaced("run.json", b"{"), "no record"),
    "a record that is queued": (changed("run.json", status="queued"), "at rest"),
    "a record that is running": (changed("run.json", status="running"), "at rest"),
    "a record of unknown agents": (changed("run.json", nodes=["shell"]), "at rest"),
    "a record without inputs": (changed("run.json", inputs={}), "no record"),
    "a parent that is a path": (changed("run.json", parent={"run_id": "../x"}), "no record"),
    "a finished run without result": (replaced("result.json", None), "lacks result.json"),
    "a result of another run": (changed("result.json", meta={"run_id": "x", "mode": "mock", "nodes": {}}), "different"),
    "a result with half a review": (changed("result.json", review=REVIEW), "no result"),
    "a result that is no JSON": (replaced("result.json", b"\xff"), "no result"),
    "a result that is too deep": (replaced("result.json", b"[" * 100_000), "no result"),
    "a result without its image": (changed("result.json", image={"image_id": "0" * 32}), "lacks the image"),
    "an image that is a script": (image_as(None, b"#!/bin/sh"), "no picture"),
    "an image under another digest": (image_as(f"images/{'0' * 32}.png"), "lacks the image|own digest"),
    "an image that unfolds": (image_as(None, bomb()), "larger than any picture"),
    "an image that is another": (image_as(None, photo()), "own digest"),
    "an image of another type": (image_as("images/{id}.jpg"), "another type"),
    "no rows file": (replaced("effects.jsonl", None), "lacks effects.jsonl"),
    "rows of another run": (first_row("writes", thread_id="other"), "another run"),
    "a row with another column": (first_row("writes", more=1), "columns"),
    "a row that is a list": (replaced("writes.jsonl", b"[]\n"), "columns"),
    "a row that is no JSON": (replaced("writes.jsonl", b"DROP TABLE writes;\n"), "no rows"),
    "a row that is too deep": (replaced("writes.jsonl", b"[" * 100_000), "no rows"),
    "a number that is a text": (first_row("writes", idx="0"), "idx"),
    "a number that is true": (first_row("writes", idx=True), "idx"),
    "a number beyond SQLite's": (first_row("writes", idx=2**63), "idx"),
    "a text that is a number": (first_row("writes", channel=1), "channel"),
    "a text that is none": (first_row("writes", channel="\ud800"), "no rows"),
    "bytes that are no base64": (first_row("writes", value="***"), "no rows"),
    "bytes that are NULL": (first_row("checkpoints", checkpoint=None), "checkpoint"),
    "a row twice": (twice, "a row twice"),
    "a value that would be unpickled": (first_row("writes", type="pickle", value=b64(b"cos\n")), "cannot be read"),
    "a value that would be made from JSON": (first_row("writes", type="json", value=b64(b"1")), "cannot be read"),
    "a value of no type": (first_row("writes", type="", value=b64(b"1")), "cannot be read"),
    "a value that is damaged": (first_row("writes", value=b64(b"damaged")), "damaged row"),
    "a value of half a msgpack": (
        first_row("checkpoints", type=f"msgpack+{PLAIN}", checkpoint=b64(zlib.compress(b"\xdf\xff\xff"))),
        "cannot be read",
    ),
    "a value that is no checkpoint": (
        first_row("checkpoints", type="msgpack", checkpoint=b64(b"\x01")),
        "cannot be read",
    ),
    "a value that unfolds": (first_row("writes", value=b64(zlib.compress(bytes(100_000_000)))), "damaged row"),
    "metadata that are none": (first_row("checkpoints", metadata=b64(b"{")), "cannot be read"),
    "metadata that are a list": (first_row("checkpoints", metadata=b64(b"[]")), "cannot be read"),
    "an effect that is none": (first_row("effects", body=b64(zlib.compress(b"{}"))), "cannot be read"),
    "an encrypted value": (first_row("writes", type="msgpack+zlib-aes256gcm"), "key does not open"),
    "a text of another digest": (first_row("texts", digest="0" * 32), "cannot be read"),
    "a text of half a digest": (first_row("texts", digest=""), "cannot be read"),
    "a text that is short": (with_a_row("texts", digest="0" * 32, body=b64(zlib.compress(b"short"))), "cannot be read"),
    "a text that looks like a reference": (
        with_a_row("texts", digest="0" * 32, body=b64(zlib.compress(b"\x00text:" + b"0" * 32))),
        "cannot be read",
    ),
    "a text that is missing": (replaced("texts.jsonl", b""), "cannot be read"),
    "an event that is torn": (replaced("events.jsonl", event_line(1)[:-9]), "no event"),
    "an event without its end": (replaced("events.jsonl", event_line(1)[:-1]), "no event"),
    "an event that is a list": (replaced("events.jsonl", event_line(1) + b"[]\n"), "no event"),
    "an event that is too deep": (replaced("events.jsonl", b"[" * 100_000 + b"\n"), "no event"),
    "an event of no number": (replaced("events.jsonl", event_line("1")), "no event"),
    "an event of number 0": (replaced("events.jsonl", event_line(0)), "no event"),
    "an event whose data are none": (replaced("events.jsonl", event_line(1, data="")), "no event"),
    "an event that is no text": (replaced("events.jsonl", b"\xff\n"), "no event"),
    "a newer format": (manifest(format=2), "format 2.*reads 1"),
    "a format of no kind": (manifest(format="x"), "manifest"),
    "a manifest with more in it": (manifest(more=1), "manifest"),
    "a manifest that is no JSON": (lambda members: members | {"manifest.json": b"\x00"}, "manifest"),
    "a manifest without a member": (manifest(files={}), "other members"),
    "another digest": (lying(sha256="0" * 64), "page.html is not what"),
    "a smaller size": (lying(size=10), "page.html is not what"),
    "a larger size": (lying(size=10**9), "page.html is not what"),
    "a member beside": (lambda members: sealed(members | {"evil.sh": b"#!"}), "no member"),
}


async def refused(path: Path, tmp_path: Path) -> str:
    """What is said of the file; that it leaves everything as it was is seen here."""
    async with Sparklio(home=tmp_path / "there") as there:
        before = tree(tmp_path)
        with pytest.raises((InputError, ConfigError)) as caught:
            await there.unpack(path)
        assert tree(tmp_path) == before
        assert there.runs.store.all() == []
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize("case", CONTENT)
async def test_what_is_in_it_is_refused(good: Path, tmp_path: Path, case: str) -> None:
    change, says = CONTENT[case]
    path = zipped(tmp_path / "bad.sparklio", change(members_of(good)))
    message = await refused(path, tmp_path)
    assert re.search(says, message), message


async def test_the_unchanged_members_are_taken(good: Path, tmp_path: Path) -> None:
    """Else the cases above might be refused for another reason."""
    path = zipped(tmp_path / "good.sparklio", sealed(members_of(good)))
    async with Sparklio(home=tmp_path / "there") as there:
        assert (await there.unpack(path)).run_id == "page"


# hostile files: the zip


def entry(name: str, mode: int = stat.S_IFREG | 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    "name",
    [
        "../evil", "/etc/evil", "images/../run.json", "images\\..\\evil", "C:\\evil", "runs/page/run.json", "RUN.JSON",
        "images/", "images/x.png", f"images/{'0' * 32}.svg", f"images/{'0' * 32}.png/x", f"images/{'0' * 32}.png\n",
        "run.json\x00.txt", "", ".", "lock", "owner.json",
    ],
)  # fmt: skip
async def test_a_member_of_another_name_is_refused(good: Path, tmp_path: Path, name: str) -> None:
    info = entry("x")
    info.filename = info.orig_filename = name
    path = zipped(tmp_path / "bad.sparklio", [*members_of(good).items(), (info, b"evil")])
    assert "no member" in await refused(path, tmp_path)


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFDIR | 0o755, stat.S_IFIFO | 0o644, stat.S_IFCHR])
async def test_a_member_that_is_no_file_is_refused(good: Path, tmp_path: Path, mode: int) -> None:
    members = members_of(good)
    target = members.pop("run.log")
    path = zipped(tmp_path / "bad.sparklio", [*members.items(), (entry("run.log", mode), target)])
    assert "no regular file" in await refused(path, tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
async def test_a_member_twice_is_refused(good: Path, tmp_path: Path) -> None:
    members = members_of(good)
    path = zipped(tmp_path / "bad.sparklio", [*members.items(), ("run.json", members["run.json"])])
    assert "twice" in await refused(path, tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
async def test_another_compression_is_refused(good: Path, tmp_path: Path, method: int) -> None:
    info = entry("run.log")
    info.compress_type = method
    path = zipped(tmp_path / "bad.sparklio", members_of(good) | {"run.log": b""})
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members_of(good).items():
            archive.writestr(name, content, compress_type=method if name == "run.log" else None)
    assert "does not use" in await refused(path, tmp_path)


def patched(path: Path, name: str, offset: int, value: bytes) -> None:
    """Write into the central directory's entry of a member."""
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02", 0, content.rindex(name.encode()))
    content[at + offset : at + offset + len(value)] = value
    path.write_bytes(content)


async def test_an_encrypted_member_is_refused(good: Path, tmp_path: Path) -> None:
    path = zipped(tmp_path / "bad.sparklio", members_of(good))
    patched(path, "run.log", 8, struct.pack("<H", 1))
    assert "does not use" in await refused(path, tmp_path)


@pytest.mark.parametrize("size", [0, 10, 2**32 - 2])
async def test_a_size_that_is_a_lie_is_refused(good: Path, tmp_path: Path, size: int) -> None:
    path = zipped(tmp_path / "bad.sparklio", members_of(good))
    patched(path, "run.log", 24, struct.pack("<L", size))
    await refused(path, tmp_path)


async def test_a_member_that_unfolds_beyond_all_measure_is_refused(good: Path, tmp_path: Path) -> None:
    path = zipped(tmp_path / "bad.sparklio", sealed(members_of(good) | {"run.log": bytes(20_000_000)}))
    assert "beyond all measure" in await refused(path, tmp_path)


async def test_bounds_are_counted_and_not_believed(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, limit in (("MAX_MEMBER_BYTES", 50_000), ("MAX_BYTES", 50_000)):
        with monkeypatch.context() as patched_limits:
            patched_limits.setattr(package, name, limit)
            assert "larger than it may be" in await refused(good, tmp_path)
    monkeypatch.setattr(unpacking, "MAX_BYTES", 1000)
    assert "its rows are larger" in await refused(good, tmp_path)


async def test_too_many_members_are_refused_before_they_are_listed(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = members_of(good) | {f"images/{number:032x}.png": b"" for number in range(70)}
    path = zipped(tmp_path / "bad.sparklio", sealed(members))
    monkeypatch.setattr(zipfile, "ZipFile", None)
    assert "more members" in await refused(path, tmp_path)


@pytest.mark.parametrize("case", ["behind", "before", "comment", "zip64", "torn"])
async def test_a_zip_that_is_more_or_less_than_one_is_refused(good: Path, tmp_path: Path, case: str) -> None:
    content = good.read_bytes()
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, len(content) - 22, 1)
    files = {
        "behind": content + b"evil",
        "before": b"#!/bin/sh\n" + content,
        "comment": content[:-2] + struct.pack("<H", 4) + b"evil",
        "zip64": content[:-22] + locator + content[-22:],
        "torn": content[:100] + content[200:],
    }
    path = tmp_path / "bad.sparklio"
    path.write_bytes(files[case])
    assert "zip" in await refused(path, tmp_path)


async def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with Sparklio(home=tmp_path / "there") as there:
        for name in ("pipe", "there", "nothing", "nul\0l"):
            with pytest.raises(InputError) as caught:
                await there.unpack(tmp_path / name)
            assert caught.value.hint


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_that_was_damaged_on_its_way_is_never_half_taken(good: Path, data: st.DataObject) -> None:
    """Cut anywhere or changed anywhere: refused, or the very same members."""
    content = bytearray(good.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1) | st.integers(len(content) - 1000, len(content) - 1))
    if data.draw(st.booleans()):
        del content[at:]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    path = good.with_name("damaged.sparklio")
    path.write_bytes(content)
    try:
        unpacking.check_file(path)
    except InputError:
        return
    with package.open_package(path) as taken, package.open_package(good) as sent:
        assert all(taken.read(name) == sent.read(name) for name in sent.manifest.files)
        assert taken.manifest == sent.manifest


# broken off, and at the same time


@pytest.mark.parametrize("after", range(1, 9))
async def test_a_torn_unpack_shows_nothing_and_can_be_repeated(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """However many files were written before the disk was full: the record is the last of all."""
    written: list[Path] = []

    def failing(path: Path, content: bytes, **more: Any) -> None:
        if len(written) == after - 1:
            raise StorageError("the disk is full", hint="free some space")
        written.append(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    async with Sparklio(home=tmp_path / "there") as there:
        with monkeypatch.context() as full:
            for module in ("sparklio.unpacking", "routing.image_store", "graph.run_files"):
                full.setattr(f"{module}.write_whole", failing)
            with pytest.raises(StorageError, match="full"):
                await there.unpack(good)
        assert len(written) == after - 1
        assert there.runs.store.all() == []
        with pytest.raises(UnknownNameError):
            await there.load("page")
        await there.unpack(good)
        assert (await there.load("page")).result["brief"]


async def test_rows_that_cannot_be_written_are_not_written_in_part(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insertions = SqliteDatabase.insertions

    def one_twice(self: SqliteDatabase, table: str, rows: list[Row]) -> list[Statement]:
        return insertions(self, table, [*rows, rows[0]] if table == "writes" else rows)

    async with Sparklio(home=tmp_path / "there") as there:
        with monkeypatch.context() as broken:
            broken.setattr(SqliteDatabase, "insertions", one_twice)
            with pytest.raises(StorageError):
                await there.unpack(good)
        assert there.runs.store.all() == []
        assert _rows(tmp_path / "there") == 0
        await there.unpack(good)


async def test_what_is_here_is_never_overwritten(good: Path, tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path / "there") as there:
        mine = await there.run(brand={"name": "마루"}, product=PRODUCT, run_id="page")
        before = tree(tmp_path)
        with pytest.raises(RunExistsError, match="exists here already"):
            await there.unpack(good)
        assert tree(tmp_path) == before
        assert (await there.load("page")).state == mine.state


async def test_what_an_earlier_run_left_is_not_taken_for_the_unpacked_one_s(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path / "a") as here:
        await stopped(here, "page", after="brief")
        file = await here.pack("page")
    async with Sparklio(home=tmp_path / "b") as there:
        first = await there.run(brand=BRAND, product=PRODUCT, run_id="page", out=tmp_path / "mine")
        folder = there.runs.store.folder("page")
        (folder / "run.json").unlink()
        assert (await there.unpack(file)).status == "interrupted"
        assert {path.name for path in folder.iterdir()} - {"events.jsonl"} == {"run.json", "run.log", "lock"}
        with pytest.raises(RunUnfinishedError, match="no result"):
            await there.load("page")
        assert (await there.resume("page")).result["brief"]
    assert first.page_path.is_file(), "what stands elsewhere is its owner's"


async def test_two_who_unpack_at_once_make_one_run(good: Path, tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path / "there") as one, Sparklio(home=tmp_path / "there") as two:
        done = await asyncio.gather(one.unpack(good), two.unpack(good), return_exceptions=True)
        assert sum(not isinstance(end, BaseException) for end in done) == 1
        assert all(isinstance(end, RunBusyError | RunExistsError) for end in done if isinstance(end, BaseException))
        assert (await one.load("page")).result["brief"]


# encrypted


def _rows(home: Path, where: str = "1") -> int:
    with closing(sqlite3.connect(home / "checkpoints.sqlite")) as connection:
        return sum(connection.execute(f"SELECT count(*) FROM {table} WHERE {where}").fetchone()[0] for table in TABLES)


def encrypted(home: Path, key: str = KEY) -> Sparklio:
    return Sparklio(home=home, settings={"SPARKLIO_ENCRYPTION_KEY": key})


async def test_encrypted_rows_travel_as_they_are(tmp_path: Path) -> None:
    async with encrypted(tmp_path / "a") as here:
        first = await here.run(brand=BRAND, product=PRODUCT, run_id="page")
        await here.rerun("page", start_at="reviewer")
        file = await here.pack("page")
    members = members_of(file)
    assert json.loads(members["manifest.json"])["encrypted"] is True
    assert not any(BRAND["name"].encode() in base64.b64decode(row["value"]) for row in _lines(members["writes.jsonl"]))
    async with encrypted(tmp_path / "b") as there:
        await there.unpack(file)
        assert (await there.load("page")).state == first.state
    for studio in (Sparklio(home=tmp_path / "c"), encrypted(tmp_path / "d", OTHER_KEY)):
        async with studio:
            before = tree(tmp_path)
            with pytest.raises(ConfigError, match="key does not open") as caught:
                await studio.unpack(file)
            assert tree(tmp_path) == before
            assert "SPARKLIO_ENCRYPTION_KEY" in caught.value.hint
            assert KEY not in str(caught.value) + repr(caught.value)


async def test_plain_rows_are_encrypted_where_there_is_a_key(good: Path, tmp_path: Path) -> None:
    async with encrypted(tmp_path / "b") as there:
        await there.unpack(good)
        assert (await there.load("page")).result["brief"]
        again = members_of(await there.pack("page", tmp_path))
    assert json.loads(members_of(good)["manifest.json"])["encrypted"] is False
    assert json.loads(again["manifest.json"])["encrypted"] is True
    rows = [row for table in TABLES for row in _lines(again[f"{table}.jsonl"])]
    assert {row.get("form") or row["type"].partition("+")[2] for row in rows} == {"zlib-aes256gcm"}


def _lines(text: bytes) -> Iterator[dict[str, Any]]:
    return map(json.loads, text.splitlines())


# beside others, in one process


async def test_the_event_loop_serves_others_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long is done in threads."""
    done: set[str] = set()

    def spied(place: Any, *names: str) -> None:
        for name in names:
            monkeypatch.setattr(place, name, spy_on(name, getattr(place, name)))

    def spy_on(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*words: Any, **named: Any) -> Any:
            assert threading.current_thread() is not threading.main_thread(), name
            done.add(name)
            return work(*words, **named)

        return spy

    async with Sparklio(home=tmp_path / "a") as here, Sparklio(home=tmp_path / "b") as there:
        await here.run(brand=BRAND, product=PRODUCT, run_id="page")
        await stopped(there, "half", after="vision")
        spied(packing, "image_names", "add_member")
        spied(os, "fsync")
        file = await here.pack("page", tmp_path)
        monkeypatch.undo()
        spied(package.Package, "read")
        spied(unpacking, "plain", "sealed")
        await there.unpack(file)
        spied(data_folder, "image_names", "files_in")
        spied(leftovers, "plain")
        spied(pruning, "holdings")
        spied(ImageStore, "files")
        spied(shutil, "rmtree")
        await there.prune(keep=1)
    assert {"image_names", "add_member", "fsync", "read", "plain", "sealed"} < done
    assert {"files", "files_in", "holdings", "rmtree"} < done


async def test_who_cancels_a_pack_leaves_the_run_alone_only_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    add_member = package.add_member

    def slow(*words: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return add_member(*words)

    async with Sparklio(home=tmp_path / "a") as here:
        await here.run(brand=BRAND, product=PRODUCT, run_id="page")
        monkeypatch.setattr(packing, "add_member", slow)
        packs = asyncio.create_task(here.pack("page", tmp_path))
        assert await asyncio.to_thread(begun.wait, 20)
        packs.cancel()
        await asyncio.sleep(0.01)
        with pytest.raises(RunBusyError), here.runs.store.lock("page"):
            raise AssertionError("still read")
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await packs
        with here.runs.store.lock("page"):
            assert {path.name for path in tmp_path.iterdir()} <= {"a", "page.sparklio"}


@given(before=st.text("0123456789abcdefg\n ", max_size=70), after=st.text("0123456789abcdefg\n ", max_size=70))
def test_an_image_is_found_wherever_its_id_begins(before: str, after: str) -> None:
    known = {"0123456789abcdef" * 2, "f" * 32}
    for name in known:
        assert name in image_names(f"{before}{name}{after}".encode(), known)
    text = f"{before}소리{after}"
    assert image_names(text.encode(), known) == {name for name in known if name in text}


# what the code beside relies on


async def test_the_tables_have_the_columns_that_travel(tmp_path: Path) -> None:
    async with Sparklio(home=tmp_path / "a"):
        pass
    with closing(sqlite3.connect(tmp_path / "a" / "checkpoints.sqlite")) as connection:
        for table, columns in TABLES.items():
            assert _columns(connection, table) == list(columns)
        every = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert {table for table in every if "thread_id" in _columns(connection, table)} == set(TABLES)


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
