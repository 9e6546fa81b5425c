"""The database encrypted: what can be read without the key, and the key turned on, changed and turned off."""

from __future__ import annotations

import base64
import json
import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from graph import sqlite_database as module
from graph.database import open_database, reseal_database
from graph.vault import Vault
from providers.errors import ConfigError, SparklioError, StorageError
from sparklio import Event, Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.faults import NODES
from tests.homes import (
    KEY,
    NAME,
    OTHER,
    SEALED,
    bytes_of,
    check_finished,
    forms,
    marks_of,
    restored,
    resumed,
    rows_of,
    stopped,
    tree,
    whole,
)

WORDS = ("소리결", "음향기기", "무선 이어폰", "출퇴근", "소음 차단")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / ".sparklio"


@pytest.fixture
def path(home: Path) -> Path:
    return home / "checkpoints.sqlite"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setenv(NAME, KEY.hex())
    return KEY


async def test_nothing_of_a_run_can_be_read_in_the_encrypted_file(home: Path, path: Path, key: bytes) -> None:
    async with Sparklio() as studio:
        await whole(studio)
        await studio.rerun("page", start_at="copywriter", changes={"brief.target": "캠핑족"})
        while_open = bytes_of(path)
        await check_finished(studio, "page.2")
    for content in (while_open, bytes_of(path)):
        assert b"page.2" in content, "ids are plain"
        assert not [word for word in (*WORDS, "캠핑족") if word.encode() in content]
    assert forms(path) == {"zlib-aes256gcm"}
    with closing(sqlite3.connect(path)) as file:
        for (metadata,) in file.execute("SELECT metadata FROM checkpoints"):
            assert set(json.loads(metadata)) <= {"source", "step", "parents", "run_id"}


async def test_an_encrypted_run_goes_on(key: bytes, path: Path) -> None:
    async with Sparklio() as studio:
        await stopped(studio, "strategist")
    async with Sparklio() as studio:
        done, started = await resumed(studio)
        assert done >= {"brand", "brief", "strategist"}
        assert started == Counter(NODES - done)
        await check_finished(studio, "page")


@pytest.mark.parametrize(("wrong", "says"), [(None, "there is no key"), (OTHER.hex(), "another key")])
async def test_an_encrypted_file_asks_for_its_key_at_opening(
    path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str | None, says: str
) -> None:
    async with open_database(path, KEY):
        pass
    before = tree(path.parent)
    if wrong:
        monkeypatch.setenv(NAME, wrong)
    with pytest.raises(ConfigError, match=says) as caught:
        async with Sparklio():
            pass
    assert NAME in caught.value.hint
    assert wrong is None or wrong not in f"{caught.value.to_dict()} {caught.value.__cause__!r}"
    assert tree(path.parent) == before


async def test_a_key_that_comes_later_leaves_old_values_readable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Sparklio() as studio:
        await whole(studio)
    monkeypatch.setenv(NAME, KEY.hex())
    async with Sparklio() as studio:
        await whole(studio, "other")
        for run_id in ("page", "other"):
            await check_finished(studio, run_id)
    assert forms(path) == {"zlib", "zlib-aes256gcm"}


def flip(path: Path, table: str) -> None:
    """Another bit in the middle of each value of the table."""
    form, value = SEALED[table]
    with closing(sqlite3.connect(path)) as file, file:
        for kept_as, kept in file.execute(f"SELECT DISTINCT {form}, {value} FROM {table}").fetchall():
            middle = len(kept) // 2
            flipped = kept[:middle] + bytes([kept[middle] ^ 4]) + kept[middle + 1 :]
            file.execute(f"UPDATE {table} SET {value} = ? WHERE {form} = ? AND {value} = ?", (flipped, kept_as, kept))


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("table", ["checkpoints", "writes"])
async def test_a_changed_value_is_one_typed_error(
    home: Path, monkeypatch: pytest.MonkeyPatch, table: str, encrypted: bool
) -> None:
    path = restored("in_the_desk", home)
    await reseal_database(path, old_key=None, key=KEY if encrypted else None)
    if encrypted:
        monkeypatch.setenv(NAME, KEY.hex())
    flip(path, table)
    async with Sparklio() as studio:
        events: list[Event] = []
        with pytest.raises(StorageError) as caught:
            async for event in studio.runs.drive(studio.runs.resumable("page")):
                events.append(event)
        assert caught.value.hint
        assert events[-1]["data"]["code"] == "storage"
        with pytest.raises(StorageError):
            await studio.history("page")
        await whole(studio, "other")  # and nothing stays locked


@pytest.mark.parametrize("kind", ["pickle+zlib", "json", "msgpack+new", "null", None])
async def test_a_value_of_a_type_that_it_is_not_is_one_typed_error(path: Path, kind: str | None) -> None:
    async with Sparklio() as studio:
        await whole(studio)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE writes SET type = ?", (kind,))
    async with Sparklio() as studio:
        if kind == "null":
            await studio.history("page")
        else:
            with pytest.raises(StorageError) as caught:
                await studio.history("page")
            assert caught.value.hint


async def test_the_key_is_in_no_event_log_or_record(home: Path, key: bytes) -> None:
    events: list[Event] = []
    async with Sparklio() as studio:
        async for event in studio.stream(brand=BRAND, product=PRODUCT):
            events.append(event)
        shown = f"{events} {studio.settings!r} {studio.runs.database!r}"
    files = b"".join(file.read_bytes() for file in home.rglob("*") if file.is_file())
    for secret in (key.hex(), base64.b64encode(key).decode()[:40], repr(key)[2:-1]):
        assert secret not in shown
        assert secret.encode() not in files
    assert key not in files


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_run_with_ten_materials_of_its_own_words_stays_small(
    path: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    if encrypted:
        monkeypatch.setenv(NAME, KEY.hex())
    syllables = random.Random(0)
    texts = ["".join(chr(syllables.randrange(0xAC00, 0xB000)) for _ in range(6600)) for _ in range(10)]
    materials = [{"name": f"{n}.md", "text": text} for n, text in enumerate(texts)]
    async with Sparklio() as studio:
        await studio.run(brand=BRAND | {"uploaded_materials": materials}, product=PRODUCT)
    size = sum(len(value) for rows in rows_of(path).values() for _, value in rows)
    assert size < 200_000


# another key


async def filled(path: Path, key: bytes | None) -> None:
    """An old run, plain as it was, and one more value of ours under ``key``."""
    async with open_database(path, key) as database:
        form, body = database.vault.encrypt("음향기기".encode())
        await database.write(("INSERT INTO effects VALUES ('page', 'brand', 0, 'f', ?, ?)", (form, body)))


async def contents(path: Path, key: bytes | None) -> list[Any]:
    async with open_database(path, key) as database:
        values = [item async for item in database.saver.alist({"configurable": {"thread_id": "page"}})]
        [(form, body)] = await database.read("SELECT form, body FROM effects")
        return [*values, database.vault.decrypt(form, body)]


@pytest.mark.parametrize(("old", "new"), [(None, KEY), (KEY, OTHER), (KEY, None), (KEY, KEY)])
async def test_a_key_is_turned_on_changed_and_turned_off(home: Path, old: bytes | None, new: bytes | None) -> None:
    path = restored("finished", home)
    assert WORDS[0].encode() in bytes_of(path), "plain, as it was then"
    await filled(path, old)
    before = await contents(path, old)
    await reseal_database(path, old_key=old, key=new)
    assert await contents(path, new) == before
    assert forms(path) == {"zlib" if new is None else "zlib-aes256gcm"}
    assert set(marks_of(path)) == ({"layout"} if new is None else {"layout", "canary"})
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA freelist_count").fetchone() == (0,), "where old values may still be read"
        assert file.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    if new is not None:
        assert not [word for word in WORDS if word.encode() in bytes_of(path)]
    if old is not None and new is not None and old != new:
        with pytest.raises(ConfigError, match="another key"):
            await contents(path, old)


async def test_no_key_is_changed_under_somebody_s_hands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ALONE_TIMEOUT_S", 0.1)
    path = restored("in_the_desk", home)
    async with open_database(path):
        with pytest.raises(StorageError, match="in use") as caught:
            await reseal_database(path, old_key=None, key=KEY)
        assert caught.value.hint
    assert forms(path) <= {"msgpack", "null", ""}
    await reseal_database(path, old_key=None, key=KEY)


async def test_a_key_that_is_changed_while_the_file_is_being_opened_is_seen(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled_with_effects(path)
    monkeypatch.setattr(module, "_look", lambda _: {"layout": 1, "canary": Vault(OTHER).canary()})
    with pytest.raises(ConfigError, match="another key"):
        async with open_database(path, OTHER):
            pass


async def test_a_wrong_old_key_changes_nothing(path: Path) -> None:
    await filled_with_effects(path)
    before = rows_of(path), marks_of(path)
    for wrong in (None, OTHER):
        with pytest.raises(ConfigError):
            await reseal_database(path, old_key=wrong, key=None)
    assert (rows_of(path), marks_of(path)) == before


async def filled_with_effects(path: Path) -> None:
    async with open_database(path, KEY) as database:
        kept = [database.vault.encrypt(bytes([n])) for n in range(3)]
        rows = [("INSERT INTO effects VALUES ('page', 'brand', ?, 'f', ?, ?)", (n, *row)) for n, row in enumerate(kept)]
        await database.write(*rows)


async def test_a_value_that_cannot_be_read_leaves_all_as_it_was(path: Path) -> None:
    await filled_with_effects(path)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE effects SET body = x'00' WHERE ordinal = 2")
    before = rows_of(path), marks_of(path)
    with pytest.raises(SparklioError) as caught:
        await reseal_database(path, old_key=KEY, key=OTHER)
    assert caught.value.hint
    assert (rows_of(path), marks_of(path)) == before
    assert Vault(KEY).fits(before[1]["canary"])
