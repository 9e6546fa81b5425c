"""What differs between two runs, and how it is shown."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console, Group

from providers.errors import UnknownNameError
from sparklio import Sparklio
from sparklio.difference_view import difference_lines
from sparklio.differences import differences
from tests.conftest import BRAND, PRODUCT
from tests.test_cli import Shell

HERO = {"id": "hero", "title": "h"}
SPECS = {"id": "specs", "title": "s"}
FAQ = {"id": "faq", "title": "f"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture
def sparklio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(monkeypatch, capsys)


def found(old: Any, new: Any) -> list[tuple[str, str, Any, Any]]:
    return [(one.path, one.change, one.old, one.new) for one in differences(old, new)]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"brief": {"target": "a"}}, {"brief": {"target": "b"}}, [("brief.target", "changed", "a", "b")]),
        ({"a": 1}, {"b": 1}, [("a", "removed", 1, None), ("b", "added", None, 1)]),
        ({"a": {"x": 1}}, {"a": [1]}, [("a", "changed", {"x": 1}, [1])]),
        ({"a": True}, {"a": 1}, [("a", "changed", True, 1)]),
        ({"a": None}, {"a": 0}, [("a", "changed", None, 0)]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, []),
        ([HERO, SPECS], [FAQ, HERO, SPECS], [("0", "added", None, FAQ)]),
        ([HERO, FAQ, SPECS], [HERO, SPECS], [("1", "removed", FAQ, None)]),
        ([SPECS], [FAQ, SPECS | {"title": "t"}], [("0", "added", None, FAQ), ("1.title", "changed", "s", "t")]),
        ([HERO, FAQ], [HERO, SPECS], [("1", "removed", FAQ, None), ("1", "added", None, SPECS)]),
        (["a", "b", "c"], ["a", "x", "b", "c"], [("1", "added", None, "x")]),
        (["a", "b", "c"], ["a", "x", "c"], [("1", "changed", "b", "x")]),
        (["a", "b"], ["x"], [("0", "changed", "a", "x"), ("1", "removed", "b", None)]),
        ([{"a": 1, "b": 2}], [{"b": 2, "a": 1}], []),
        ([], [], []),
    ],
)  # fmt: skip
def test_differences(old: Any, new: Any, expected: list[Any]) -> None:
    assert found(old, new) == expected


@given(JSON, JSON)
def test_equal_values_have_no_difference_and_others_have_one(old: Any, new: Any) -> None:
    assert found(old, json.loads(json.dumps(old))) == []
    same = json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)
    assert bool(found(old, new)) is not same


@given(st.lists(st.integers(0, 5)), st.lists(st.integers(0, 5)))
def test_the_differences_of_a_list_lead_from_one_to_the_other(old: list[int], new: list[int]) -> None:
    made = dict(enumerate(new))
    told = {int(path): value for path, change, _, value in found(old, new) if change != "removed"}
    assert told.items() <= made.items()
    removed = sum(change == "removed" for _, change, _, _ in found(old, new))
    added = sum(change == "added" for _, change, _, _ in found(old, new))
    assert len(old) - removed + added == len(new)


@pytest.mark.each_place
def test_a_rerun_beside_its_parent(sparklio: Shell) -> None:
    sparklio.ok("run", "--run-id", "page")
    sparklio.ok("rerun", "page", "--from", "copywriter", "--set", "brief.target=캠핑족")
    body = sparklio.json("diff", "page", "page.2")
    assert (body["a"]["run_id"], body["b"]["run_id"]) == ("page", "page.2")
    assert body["a"]["models"].keys() == body["b"]["models"].keys()
    paths = {one["path"]: one for one in body["differences"]}
    assert (paths["brief.target"]["change"], paths["brief.target"]["new"]) == ("changed", "캠핑족")
    assert {path.split(".")[0] for path in paths} <= {"brief", "copy", "review"}
    shown = sparklio.ok("diff", "page", "page.2")
    assert "brief.target" in shown
    assert "캠핑족" in shown
    assert "\x1b" not in shown, "no colours where nobody looks at them"
    assert max(map(len, shown.splitlines())) > 80, "a text is a line, for whoever searches"


def test_inputs_mode_stage_and_image_differ(sparklio: Shell, tmp_path: Path) -> None:
    sparklio.ok("run", "--run-id", "one")
    (tmp_path / "two.yaml").write_text(json.dumps({"brand": BRAND, "product": PRODUCT}), encoding="utf-8")
    sparklio.ok("run", "two.yaml", "--run-id", "two", "--stage", "final")
    paths = {one["path"] for one in sparklio.json("diff", "one", "two")["differences"]}
    assert {"inputs.brand_input.name", "inputs.product_input.facts.모델명", "meta.stage", "image.seed"} <= paths
    assert "image.url" not in paths


def test_no_difference_says_so(sparklio: Shell) -> None:
    sparklio.ok("run", "--run-id", "page")
    assert "no difference" in sparklio.ok("diff", "page", "page")
    assert sparklio.json("diff", "page", "page")["differences"] == []


def test_an_unknown_run_is_wrong_usage(sparklio: Shell) -> None:
    sparklio.ok("run", "--run-id", "page")
    assert "unknown run 'nobody'" in sparklio.refused(2, "diff", "page", "nobody")
    assert "unknown run 'nobody'" in sparklio.refused(2, "diff", "nobody", "page")


@pytest.mark.each_place
async def test_a_run_without_result_is_compared_as_far_as_it_is() -> None:
    async with Sparklio() as studio:
        whole = await studio.run(brand=BRAND, product=PRODUCT, run_id="whole")
        stream = studio.stream(brand=BRAND, product=PRODUCT, run_id="half")
        async for event in stream:
            if event["type"] == "node_finished" and event["node"] == "brief":
                break
        await stream.aclose()
        body = await studio.diff("whole", "half")
        with pytest.raises(UnknownNameError):
            await studio.diff("whole", "nobody")
    assert (body["b"]["status"], body["b"]["wall_ms"]) == ("interrupted", None)
    assert body["b"]["models"]["brand"] == body["a"]["models"]["brand"]
    gone = {one["path"]: one for one in body["differences"] if one["change"] == "removed"}
    assert gone["copy"]["old"] == whole.result["copy"]
    assert "brand_summary" not in gone


def _shown(*found: dict[str, Any]) -> str:
    head = {"run_id": "a", "status": "finished", "mode": "mock", "stage": "draft", "cost_usd": None, "wall_ms": 1200}
    target = io.StringIO()
    console = Console(file=target, force_terminal=True, color_system="standard", width=200)
    console.print(Group(*difference_lines(head, head, found)))
    return target.getvalue()


def test_only_the_words_that_changed_are_marked() -> None:
    old = "아침마다 챙기는 단백질 30g, 바쁜 출근길에도 가볍게 마시는 초코맛 한 잔입니다."
    new = "아침마다 챙기는 단백질 30g, 바쁜 캠핑장에도 가볍게 마시는 초코맛 한 잔입니다."
    shown = _shown({"path": "copy.headline", "change": "changed", "old": old, "new": new})
    assert "\x1b[7;31m출근길에도\x1b[0m" in shown
    assert "\x1b[7;32m캠핑장에도\x1b[0m" in shown
    assert shown.count("\x1b[7;") == 2


def test_texts_that_have_nothing_in_common_are_not_marked() -> None:
    shown = _shown({"path": "copy.cta", "change": "changed", "old": "가나다라 " * 9, "new": "마바사아 " * 9})
    assert "\x1b[7;" not in shown


def test_what_a_model_wrote_does_not_steer_the_terminal() -> None:
    evil = "fine\x1b]0;owned\x07 \x1b[2J"
    for change in ("changed", "added", "removed"):
        shown = _shown({"path": f"a.{evil}", "change": change, "old": evil, "new": evil * 9})
        assert "\x1b]" not in shown
        assert "\x1b[2J" not in shown


def test_an_unknown_cost_is_not_told_as_nothing() -> None:
    assert "cost unknown" in _shown()
