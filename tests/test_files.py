"""Files that appear whole, and stay when the power goes: what is synced, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from routing.image_store import ImageStore, image_id, make_folder, write_whole


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
