"""What a finished run leaves on disk."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from graph.run_files import FileRunStore
from graph.store import RunRecord
from providers.errors import StorageError
from routing.image_store import ImageStore, write_whole
from sparklio.publish import Publisher
from tests.test_rerun import STATE


def _record(tmp_path: Path, store: FileRunStore) -> RunRecord:
    record = RunRecord(run_id="page", mode="mock", seed=1, nodes=[], inputs=STATE, out=tmp_path / "out")
    store.create(record)
    return record


def _state(images: ImageStore) -> dict[str, Any]:
    return STATE | {"image": STATE["image"] | {"image_id": images.save(b"a picture")}, "calls": []}


async def test_the_clock_is_asked_when_page_and_images_are_in_place(tmp_path: Path) -> None:
    images, store = ImageStore(tmp_path / "images"), FileRunStore(tmp_path)
    record = _record(tmp_path, store)

    def clock() -> int:
        for folder in (record.out, store.folder("page")):
            assert (folder / "page.html").is_file()
            assert list((folder / "images").iterdir())
        assert list((tmp_path / "pages").iterdir())
        return 42

    published = await Publisher(images, store)(record, _state(images), clock)
    assert json.loads(published.result_path.read_text(encoding="utf-8"))["meta"]["wall_ms"] == 42
    assert (store.folder("page") / "result.json").read_bytes() == published.result_path.read_bytes()


async def test_the_page_stands_under_its_hash_and_is_copied_to_the_folders(tmp_path: Path) -> None:
    images, store = ImageStore(tmp_path / "images"), FileRunStore(tmp_path)
    record = _record(tmp_path, store)
    published = await Publisher(images, store)(record, _state(images), lambda: 1)
    [page] = (tmp_path / "pages").iterdir()
    page_id = published.result["meta"]["page_id"]
    assert page.name == f"{page_id}.html"
    assert hashlib.sha256(page.read_bytes()).hexdigest().startswith(page_id)
    for folder in (store.folder("page"), record.out):
        assert (folder / "page.html").read_bytes() == page.read_bytes()
        assert json.loads((folder / "result.json").read_bytes())["meta"]["page_id"] == page_id


async def test_the_page_is_in_the_store_before_any_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, store = ImageStore(tmp_path / "images"), FileRunStore(tmp_path)
    record, state = _record(tmp_path, store), _state(images)
    written: list[str] = []

    def noted(path: Path, content: bytes) -> None:
        written.append(path.suffix if path.parent.name == "pages" else path.name)
        write_whole(path, content)

    monkeypatch.setattr("sparklio.publish.write_whole", noted)
    monkeypatch.setattr("routing.image_store.write_whole", noted)
    monkeypatch.setattr("graph.run_files.write_whole", noted)
    await Publisher(images, store)(record, state, lambda: 1)
    assert written[0] == ".html"
    assert written[-2:] == ["result.json", "result.json"]


async def test_an_image_that_is_gone_everywhere_says_how_to_make_it_again(tmp_path: Path) -> None:
    store = FileRunStore(tmp_path)
    with pytest.raises(StorageError) as caught:
        await Publisher(ImageStore(tmp_path / "images"), store)(_record(tmp_path, store), STATE, lambda: 0)
    assert "--from vision" in caught.value.hint


def test_files_are_whole_or_absent_and_keep_the_umask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = os.umask(0o077)
    try:
        write_whole(tmp_path / "deep" / "file", b"1")
    finally:
        os.umask(old)
    assert (tmp_path / "deep" / "file").stat().st_mode & 0o777 == 0o600

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_whole(tmp_path / "deep" / "file", b"2")
    assert [path.read_bytes() for path in (tmp_path / "deep").iterdir()] == [b"1"]
