"""Files that appear whole, and stay when the power goes: what is synced, and in which order."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from providers.errors import StorageError, UnknownNameError
from routing.image_store import ImageStore, PageStore, image_id, make_folder, write_whole


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was synced."""
    names: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return names


def test_a_new_folder_is_in_its_parent_for_good(tmp_path: Path, synced: list[str]) -> None:
    make_folder(tmp_path / "home" / "runs" / "page")
    assert synced == ["runs", "home", tmp_path.name]
    synced.clear()
    make_folder(tmp_path / "home" / "runs" / "page")
    assert synced == []


def test_a_file_is_synced_before_its_name_and_its_folder_behind(tmp_path: Path, synced: list[str]) -> None:
    write_whole(tmp_path / "a.json", b"{}")
    assert synced[0].startswith(".a.json.")
    assert synced[1:] == [tmp_path.name]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_an_image_that_is_asked_for_again_is_young_again(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    name = store.save(b"bytes")
    assert name == image_id(b"bytes")
    os.utime(store.path(name), (1, 1))
    assert store.save(b"bytes") == name
    assert store.path(name).stat().st_mtime > 1


def test_a_page_lies_under_its_hash_and_is_written_once(tmp_path: Path, synced: list[str]) -> None:
    store = PageStore.of(ImageStore(tmp_path / "images"))
    name = store.save(b"<html></html>")
    assert name == hashlib.sha256(b"<html></html>").hexdigest()[:32]
    assert store.path(name) == tmp_path / "pages" / f"{name}.html"
    synced.clear()
    os.utime(store.path(name), (1, 1))
    assert store.save(b"<html></html>") == name
    assert synced == []
    assert store.path(name).stat().st_mtime > 1
    assert (store.read(name), store.files()) == (b"<html></html>", {name: store.path(name)})


@pytest.mark.parametrize("kind", [ImageStore, PageStore])
@pytest.mark.parametrize("name", ["0" * 32, "0" * 32 + "\n", "../runs/page/page", "", "0" * 31, "F" * 32])
def test_what_is_not_there_is_unknown(tmp_path: Path, kind: type[ImageStore | PageStore], name: str) -> None:
    store = kind(tmp_path)
    (tmp_path / "notes.html").write_bytes(b"mine")
    (tmp_path / f"{'0' * 32}.txt").write_bytes(b"mine")
    with pytest.raises(UnknownNameError) as caught:
        store.read(name)
    assert "result.json" in caught.value.hint
    assert store.files() == {}


def test_what_somebody_removes_at_that_moment_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PageStore(tmp_path)
    name = store.save(b"page")
    utime = os.utime

    def late(path: Path) -> None:
        path.unlink()
        utime(path)

    monkeypatch.setattr(os, "utime", late)
    assert store.save(b"page") == name
    assert store.read(name) == b"page"


def test_a_file_that_cannot_be_made_young_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PageStore(tmp_path)
    store.save(b"page")

    def refuse(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "utime", refuse)
    with pytest.raises(StorageError, match="Read-only"):
        store.save(b"page")


def test_a_page_that_cannot_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PageStore(tmp_path)
    name = store.save(b"page")

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(StorageError, match="Permission denied"):
        store.read(name)
