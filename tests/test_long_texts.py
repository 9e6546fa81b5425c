"""Long texts are kept once a run, and every value comes back as it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.base import empty_checkpoint

from graph.database import open_database
from graph.long_texts import _LONG, _MARK, join, part
from providers.errors import StorageError
from sparklio import Sparklio
from tests.conftest import BRAND, PRODUCT
from tests.places import KINDS, place_of

_texts = st.text() | st.just("긴 글 " * _LONG) | st.text(min_size=3).map(lambda text: _MARK + text)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(_values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    lean, texts = part(value)
    assert join(lean, texts) == value
    assert len(repr(lean)) <= len(repr(value)) + 60 * repr(value).count("text:")


def test_only_long_texts_move() -> None:
    long = "가" * _LONG
    lean, texts = part({"a": long, "b": [long, "short"]})
    assert list(texts.values()) == [long]
    assert lean == {"a": next(iter(texts)), "b": [next(iter(texts)), "short"]}


async def test_a_material_is_kept_once(tmp_path: Path) -> None:
    text = "소리의 결을 살립니다. " * 400
    brand = {**BRAND, "uploaded_materials": [{"name": "a.txt", "text": text}, {"name": "b.txt", "text": text}]}
    async with Sparklio(home=tmp_path) as studio:
        await studio.run(brand=brand, product=PRODUCT, run_id="page")
        again = await studio.rerun("page", start_at="brand")
        points = await studio.history("page")
    assert again.state["brand_input"]["uploaded_materials"][1]["text"] == text
    told = [point.values["brand_input"] for point in points if "brand_input" in point.values]
    assert len(told) >= 10
    assert all(brand_input == again.state["brand_input"] for brand_input in told)
    with closing(sqlite3.connect(tmp_path / "checkpoints.sqlite")) as database:
        digest = next(iter(part([text])[1])).removeprefix(_MARK)
        rows = database.execute("SELECT thread_id FROM texts WHERE digest = ? ORDER BY 1", (digest,)).fetchall()
    assert rows == [("page",), ("page.2",)]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    return place_of(request, tmp_path)


async def test_a_text_that_is_missing_is_told_and_a_forgotten_run_leaves_none(place: Path | str) -> None:
    async with open_database(place) as database:
        lean = await database.texts.fold("run", {"text": "가" * 2000})
        assert await database.texts.unfold("run", lean) == {"text": "가" * 2000}
        with pytest.raises(StorageError, match="'other'"):
            await database.texts.unfold("other", lean)
        await database.forget("run")
        assert await database.read("SELECT * FROM texts") == []
        assert await database.texts.fold("run", {"text": "가" * 2000}) == lean
        assert await database.texts.unfold("run", lean) == {"text": "가" * 2000}


async def test_a_deleted_thread_leaves_no_text(place: Path | str) -> None:
    config: Any = {"configurable": {"thread_id": "run", "checkpoint_ns": ""}}
    start = empty_checkpoint()
    start["channel_values"] = {"text": "가" * 2000, "texts": ["나" * 2000]}
    start["channel_versions"] = {"text": "1", "texts": "1"}
    async with open_database(place) as database:
        for _ in range(2):
            await database.saver.aput(config, start, {}, start["channel_versions"])
            assert len(await database.read("SELECT * FROM texts")) == 2
            found = await database.saver.aget_tuple(config)
            assert found is not None
            assert found.checkpoint["channel_values"] == start["channel_values"]
            await database.saver.adelete_thread("run")
            assert await database.read("SELECT * FROM texts") == []


async def test_what_others_deleted_between_two_sessions_is_written_again(tmp_path: Path) -> None:
    text = "소리의 결을 살립니다. " * 400
    brand = {**BRAND, "uploaded_materials": [{"name": "a.txt", "text": text}]}
    async with Sparklio(home=tmp_path) as studio:
        await studio.run(brand=brand, product=PRODUCT, run_id="page")
        with closing(sqlite3.connect(tmp_path / "checkpoints.sqlite")) as other:  # as another process prunes
            for table in ("checkpoints", "writes", "effects", "texts"):
                other.execute(f"DELETE FROM {table}")
            other.commit()
        (tmp_path / "runs" / "page" / "run.json").unlink()
        await studio.run(brand=brand, product=PRODUCT, run_id="page")
        assert (await studio.runs.values("page"))["brand_input"]["uploaded_materials"][0]["text"] == text
