"""From a model's text to the output of an answer: think blocks and fences stripped, JSON parsed and validated."""

from __future__ import annotations

import json
import re
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
    value = _decode(text)
    if task is None or task.output is None:
        return value
    try:
        return task.output.model_validate(value, context=payload).model_dump(mode="json")
    except ValidationError as exc:
        problems = (f"{'.'.join(map(str, error['loc'])) or 'answer'}: {error['msg']}" for error in exc.errors()[:5])
        raise MalformedJSONError("; ".join(problems)) from exc


def _decode(text: str) -> Any:
    """The first JSON object or array in the text: bare, fenced or with prose around it."""
    fenced = _FENCE.search(text)
    candidates = [text, fenced.group(1)] if fenced else [text]
    problem = "no JSON object in the answer"
    for candidate in candidates:
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError) as exc:  # a number or a nesting without end is no JSONDecodeError
            problem = f"not valid JSON: {exc}"
    decoder = json.JSONDecoder()
    for candidate in reversed(candidates):
        for start in (match.start() for match in re.finditer(r"[{\[]", candidate)):
            try:
                return decoder.raw_decode(candidate, start)[0]
            except (ValueError, RecursionError):
                continue
    raise MalformedJSONError(problem)
