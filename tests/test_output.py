"""From a model's text to JSON: what is found in it, and what a repair call is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from routing.output import MalformedJSONError, parse_json, strip_thinking
from routing.tasks import Task, find_task

BRIEF = {"target": "직장인", "positioning": "간편함", "key_messages": ["하나"]}
JSON = '{"target": "직장인", "positioning": "간편함", "key_messages": ["하나"]}'


def brief() -> Task:
    task = find_task("brief", "marketing_brief")
    assert task is not None
    return task


@pytest.mark.parametrize(
    "text",
    [
        JSON,
        f"\n {JSON}\n",
        f"```json\n{JSON}\n```",
        f"```\n{JSON}",
        f"물론입니다!\n```json\n{JSON}\n```\n도움이 되었길 바랍니다.",
        f"여기 있습니다: {JSON} 끝.",
        f"자료 [1]과 [2, 3]을 참고했습니다. {JSON}",
        f'{{"note": "a draft"}} {JSON}',
        f"```\nnot yet\n```\n{JSON}",
        f"a set {{x}} and then {JSON}",
    ],
)
def test_the_first_value_that_fits_is_the_answer(text: str) -> None:
    assert parse_json(text, brief(), {}).items() >= BRIEF.items()


def test_without_a_model_an_object_goes_before_an_array() -> None:
    assert parse_json('see [1]: {"a": 1}', None, {}) == {"a": 1}
    assert parse_json("see [1] and [2]", None, {}) == [1]


@pytest.mark.parametrize("text", ['{"a": NaN}', '{"a": -Infinity}', "", "no", "{", "[" * 100_000, '{"a": 1e'])
def test_what_is_no_json(text: str) -> None:
    with pytest.raises(MalformedJSONError):
        parse_json(text, None, {})


def test_what_does_not_fit_is_told_of_the_object() -> None:
    with pytest.raises(MalformedJSONError, match="positioning: "):
        parse_json('as in [1]: {"target": "직장인", "key_messages": ["하나"]}', brief(), {})


def test_an_object_inside_of_one_that_does_not_fit_is_no_answer() -> None:
    with pytest.raises(MalformedJSONError):
        parse_json(f'{{"brief": {JSON}}}', brief(), {})


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ),
    st.text("가나 ab,.:!\n", max_size=20),
)
@example({"a": "```"}, "x")
def test_an_object_survives_prose_around_it(value: Any, prose: str) -> None:
    wrapped = {"value": value}
    assert parse_json(f"{prose}{json.dumps(wrapped, ensure_ascii=False)}{prose}", None, {}) == wrapped


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>hm {}</think>{}", "{}"),
        ("hm</think> {}", "{}"),
        ("<thinking>never ends", ""),
        ("{}<THINK>after</THINK>", "{}"),
    ],
)
def test_thinking_is_stripped(text: str, left: str) -> None:
    assert strip_thinking(text) == left
