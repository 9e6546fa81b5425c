"""The text of a mock answer: what a flawless model would have written for the request."""

from __future__ import annotations

import json

from routing.contracts import LLMRequest
from routing.mock.calls import call_first_tool
from routing.mock.chat import prose
from routing.mock.english import ENGLISH
from routing.mock.korean import KOREAN
from routing.mock.pen import Pen
from routing.mock.writers import WRITERS, generic
from routing.tasks import find_task

__all__ = ["answer_text"]

_BOOKS = {book.language: book for book in (KOREAN, ENGLISH)}


def answer_text(request: LLMRequest) -> str:
    """JSON that passes the task's output model, tool calls as JSON, or prose, by the request's mode.

    Everything in it comes from the request's payload. The same request always gets the same text; ``options.seed``
    chooses other words.
    """
    pen = Pen(request.payload, _BOOKS[request.options.language], request.options.seed)
    if request.mode == "tools":
        return _json(call_first_tool(pen, request.options.tools))
    known = find_task(request.role, request.task) is not None and request.task in WRITERS
    fields = WRITERS[request.task](pen) if known else generic(pen, request.task)
    if request.mode == "json":
        return _json(fields)
    title = pen.say("chat.title", task=pen.say(f"task.{request.task}")) if known else pen.say("chat.generic")
    return prose(pen, fields, title)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
