"""Which nodes a rerun runs, and which state it starts from."""

from __future__ import annotations

from typing import Any

import pytest

from graph.rerun import NODES, apply_changes, plan_rerun, seeded_state
from providers.errors import InputError, UnknownNameError, UsageError
from tests.conftest import BRAND, PRODUCT

STATE: dict[str, Any] = {
    "brand_input": BRAND | {"uploaded_materials": []},
    "product_input": PRODUCT,
    "image_input": {},
    "language": "ko",
    "brand": {"name": "소리결", "tone": "담백", "values": ["집중"], "colors": ["#22262B"]},
    "brief": {"target": "직장인", "positioning": "p", "key_messages": ["m"]},
    "sections": [{"id": "hero", "type": "hero", "title": "t"}, {"id": "specs", "type": "specs", "title": "s"}],
    "copy": {
        "headline": "h",
        "subheadline": "s",
        "sections": [
            {"section_id": "hero", "heading": "h", "body": "b", "bullets": []},
            {"section_id": "specs", "heading": "h", "body": "b", "bullets": []},
        ],
        "cta": "c",
    },
    "image": {"image_id": "0" * 32, "url": "file:///x.png"},
    "review": {
        "approved": True,
        "score": 90,
        "issues": [],
        "summary": "s",
        "revisions": 0,
        "stopped_because": "approved",
    },
    "calls": [{"node": name, "cached": False} for name in NODES],
}


@pytest.mark.parametrize(
    ("start_at", "changes", "nodes", "goto", "desk_entry"),
    [
        ("brand", {}, NODES, ["brand"], None),
        ("brief", {}, NODES[1:], ["brief"], None),
        ("strategist", {}, ("strategist", "copywriter", "reviewer", "vision"), ["strategist"], None),
        ("copywriter", {}, ("copywriter", "reviewer"), ["copy_desk"], None),
        ("copywriter", {"brief.target": "x"}, ("copywriter", "reviewer"), ["copy_desk"], None),
        ("reviewer", {}, ("reviewer",), ["copy_desk"], "reviewer"),
        ("vision", {}, ("vision",), ["vision"], None),
        (None, {"brand.tone": "x"}, NODES[1:], ["brief"], None),
        (None, {"brief.target": "x"}, ("strategist", "copywriter", "reviewer", "vision"), ["strategist"], None),
        (None, {"sections": []}, ("copywriter", "reviewer", "vision"), ["copy_desk", "vision"], None),
        (None, {"copy.headline": "x"}, ("reviewer",), ["copy_desk"], "reviewer"),
        (
            None,
            {"copy.cta": "x", "image_input.kind": "hero"},
            ("reviewer", "vision"),
            ["copy_desk", "vision"],
            "reviewer",
        ),
        (None, {"image_input.seed": 3}, ("vision",), ["vision"], None),
        (None, {"language": "en"}, NODES, ["brand"], None),
        (None, {"review.summary": "x"}, (), [], None),
    ],
)
def test_nodes_and_entries(
    start_at: str | None, changes: dict[str, Any], nodes: tuple[str, ...], goto: list[str], desk_entry: str | None
) -> None:
    plan = plan_rerun(start_at, changes)
    assert set(plan.nodes) == set(nodes)
    assert (plan.goto, plan.desk_entry) == (goto, desk_entry)


def test_neither_node_nor_change_is_what_is_stale_and_downstream() -> None:
    assert plan_rerun(None, {}).nodes == ()
    assert plan_rerun(None, {}, {"reviewer"}).nodes == ("reviewer",)
    assert plan_rerun(None, {}, {"vision", "copywriter"}).nodes == ("copywriter", "reviewer", "vision")


def test_an_image_comes_from_vision_alone() -> None:
    with pytest.raises(UsageError) as caught:
        plan_rerun(None, {"image.prompt_used": "x"})
    assert "image_input" in caught.value.hint


def test_unknown_node_lists_the_six() -> None:
    with pytest.raises(UnknownNameError) as caught:
        plan_rerun("copywritter", {})
    assert all(name in caught.value.message for name in NODES)
    assert "'copywriter'" in caught.value.hint


@pytest.mark.parametrize(
    ("start_at", "changes"),
    [
        ("copywriter", {"copy.headline": "x"}),
        (None, {"brief.target": "x", "copy.headline": "y"}),
        ("brand", {"brief": {}}),
    ],
)
def test_a_change_is_never_overwritten_in_silence(start_at: str | None, changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="lose your change"):
        plan_rerun(start_at, changes)


def test_seed_keeps_what_is_not_rerun_and_marks_its_calls_as_cached() -> None:
    plan = plan_rerun("copywriter", {})
    kept = seeded_state(plan, STATE, {"brief.target": "캠핑족"})
    assert "copy" not in kept
    assert "review" not in kept
    assert kept["brief"] == {"target": "캠핑족", "positioning": "p", "key_messages": ["m"]}
    assert kept["image"] == STATE["image"]
    assert {call["node"]: call["cached"] for call in kept["calls"]} == dict.fromkeys(
        ("brand", "brief", "strategist", "vision"), True
    )
    assert STATE["brief"]["target"] == "직장인", "the parent's state is not touched"


def test_an_unfinished_parent_must_have_what_is_kept() -> None:
    half = {key: value for key, value in STATE.items() if key not in ("copy", "review", "image")}
    assert seeded_state(plan_rerun("strategist", {}), half, {})
    with pytest.raises(UsageError, match="no copy, image"):
        seeded_state(plan_rerun("reviewer", {}), half, {})


@pytest.mark.parametrize(
    ("changes", "path", "value"),
    [
        ({"sections.0.title": "새 제목"}, ("sections", 0, "title"), "새 제목"),
        ({"brief": {"target": "x"}}, ("brief", "positioning"), "p"),
        ({"product_input.facts.무게": "4.1g"}, ("product_input", "facts", "무게"), "4.1g"),
        ({"product_input": {"facts": {"a.b": 1}}}, ("product_input", "facts", "a.b"), 1),
        ({"image_input.kind": "hero"}, ("image_input", "kind"), "hero"),
        ({"brief.key_messages": ["a", "b"]}, ("brief", "key_messages"), ["a", "b"]),
        ({"review.summary": "x"}, ("review", "stopped_because"), "approved"),
    ],
)
def test_changes(changes: dict[str, Any], path: tuple[Any, ...], value: object) -> None:
    found: Any = apply_changes(STATE, changes)
    for part in path:
        found = found[part]
    assert found == value


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"brief.targett": "x"}, "'target'"),
        ({"brief": {"targett": "x"}}, "'target'"),
        ({"breif.target": "x"}, "'brief'"),
        ({"sections.9.title": "x"}, "0 to 1"),
        ({"brief.target.deep": "x"}, "above"),
        ({"brief": "words"}, "mend"),
        ({"sections": [{"id": "a", "type": "x", "title": "t"}]}, "mend"),
        ({"product_input.key_features": []}, "mend"),
        ({"language": "fr"}, "mend"),
        ({"copy": {"sections": []}}, "mend"),
        ({"review.revisions": "abc"}, "mend"),
        ({"review.score": float("nan")}, "mend"),
    ],
)
def test_changes_that_do_not_fit(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError) as caught:
        apply_changes(STATE, changes)
    assert says in caught.value.hint
