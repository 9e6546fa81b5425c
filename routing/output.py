"""From a model's text to the output of an answer: think blocks and fences stripped, JSON parsed and validated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from pydantic import ValidationError

from routing.tasks import Task

__all__ = ["MalformedJSONError", "parse_json", "strip_thinking"]

_THINK = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_ORPHAN_END = re.compile(r"\A.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"```[A-Za-z0-9_-]*[ \t]*\n(.*?)(?:\n?```|\Z)", re.DOTALL)


class MalformedJSONError(ValueError):
    """The text is not the JSON that was asked for; the message is written for the repair call."""


def strip_thinking(text: str) -> str:
    """The answer without ``<think>`` blocks; templates at times drop the opening tag."""
    text = _THINK.sub("", text)
    return _ORPHAN_END.sub("", text).strip()


def parse_json(text: str, task: Task | None, payload: Any) -> Any:
    """The JSON value in ``text``, validated by the task's output model with the payload as its context.

    Raises:
        MalformedJSONError: no JSON, or not of the right shape.
    """
    values = sorted(_decoded(text), key=lambda value: not isinstance(value, dict))
    if task is None or task.output is None:
        return values[0]
    problem: ValidationError | None = None
    for value in values:
        try:
            return task.output.model_validate(value, context=payload).model_dump(mode="json")
        except ValidationError as exc:
            problem = problem or exc
    errors = problem.errors() if problem else []
    raise MalformedJSONError(
        "; ".join(f"{'.'.join(map(str, error['loc'])) or 'answer'}: {error['msg']}" for error in errors[:5])
    ) from problem


def _decoded(text: str) -> list[Any]:
    """The JSON in the text: all of it, bare or in a fence; else each object and array with prose around it.

    Raises:
        MalformedJSONError: there is none.
    """
    fenced = _FENCE.search(text)
    candidates = [text, fenced.group(1)] if fenced else [text]
    problem = "no JSON object in the answer"
    for candidate in candidates:
        try:
            return [_DECODER.decode(candidate)]
        except (ValueError, RecursionError) as exc:  # a number or a nesting without end is no JSONDecodeError
            problem = f"not valid JSON: {exc}"
    values = [value for candidate in reversed(candidates) for value in _embedded(candidate)]
    if not values:
        raise MalformedJSONError(problem)
    return values


def _embedded(text: str) -> Iterator[Any]:
    """Objects and arrays with prose around them; what is inside of one is not looked at by itself."""
    end = 0
    for match in islice(_OPENING.finditer(text), _MOST_OPENINGS):
        if match.start() < end:
            continue
        try:
            value, end = _DECODER.raw_decode(text, match.start())
        except ValueError:
            continue
        except RecursionError:  # what is inside is nested nearly as deep
            return
        yield value


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


_MOST_OPENINGS = 1000  # a text may be nothing but brackets
_OPENING = re.compile(r"[{\[]")
_DECODER = json.JSONDecoder(parse_constant=_refuse)
