"""What every stand-in of a language model has in common: queues of answers, faults on demand, and the books.

::

    standin.answers.append({"summary": "..."})        # the next answer: str, dict or function(body) -> str | dict
    standin.answers_for["StyleReview"].append({...})  # the next answer to that schema, whatever runs beside it
    standin.fail("status_503", "none", "cut")         # faults of the next calls, one each
    standin.fail("hang", task="ProductDetail")        # of the next call with that schema
    standin.fail_always("status_500")                 # of every call; fail_always(None) ends it
    standin.chats[-1]["messages"]                     # the books

A task is named by the ``title`` of the schema that the call asks for, which is the class's name in
``routing.artifacts``.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import Any, ClassVar

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.standins.answers import answer_to, fabricate, payload_of
from tests.standins.server import StandIn

__all__ = ["BREAKS_HALFWAY", "REWRITES", "Body", "ChatStandIn", "Fault", "fabricate", "payload_of", "split", "wait"]

Body = dict[str, Any]
Answer = str | dict[str, Any] | Callable[[Body], "str | dict[str, Any]"]


class Fault(StrEnum):
    """What goes wrong in one call to a rented model; each stand-in tells in ``faults`` which of them it knows."""

    NONE = "none"  # nothing; a place in the queue
    STATUS_400 = "status_400"
    STATUS_401 = "status_401"  # a wrong key, in the vendor's own status
    STATUS_403 = "status_403"
    STATUS_404 = "status_404"
    STATUS_429 = "status_429"  # with `retry_after`, where the vendor tells it
    STATUS_500 = "status_500"
    STATUS_503 = "status_503"  # overloaded, in the vendor's own status; with `retry_after`
    QUOTA = "quota"  # the money is spent, in the vendor's own status
    CONTEXT_LENGTH = "context_length"  # the vendor's 400 for a prompt that is too long
    REDIRECT = "redirect"
    MALFORMED = "malformed"  # 200 with a page of HTML
    HANG = "hang"  # never a byte
    STALL = "stall"  # half the answer, then never another byte
    CUT = "cut"  # half the answer, then the connection breaks
    HALF_JSON = "half_json"  # half the answer, then an event of half a JSON object and a clean end
    ERROR_LINE = "error_line"  # half the answer, then the vendor's error event
    NO_DONE = "no_done"  # the whole answer, without the vendor's end
    LENGTH = "length"  # half the answer, then the vendor's end for the token limit
    REFUSAL = "refusal"  # the model declines, in the vendor's own way
    REFUSAL_PROMPT = "refusal_prompt"  # the vendor declines the prompt before any answer
    CONTENT_FILTER = "content_filter"  # half the answer, then the vendor's end for its filter
    EMPTY = "empty"  # no text and a regular end
    PROSE_AROUND = "prose_around"
    FENCED = "fenced"
    THINK_TAGS = "think_tags"
    WRONG_SHAPE = "wrong_shape"  # JSON, but not of the schema
    # of calls for an image
    IMAGE_REFUSED = "image_refused"  # by the check of the picture
    IMAGE_PROHIBITED = "image_prohibited"  # by the vendor's policy on contents
    NO_IMAGE = "no_image"  # a regular answer without a picture
    BROKEN_IMAGE = "broken_image"  # half the bytes of a picture


REWRITES: Mapping[str, Callable[[str], str]] = {
    Fault.PROSE_AROUND: lambda text: f"물론입니다! 요청하신 결과입니다.\n\n{text}\n\n도움이 되었기를 바랍니다.",
    Fault.FENCED: lambda text: f"```json\n{text}\n```",
    Fault.THINK_TAGS: lambda text: f'<think>\n음, 먼저 {{"초안": 1}} 을 생각해 보자.\n</think>\n\n{text}',
    Fault.WRONG_SHAPE: lambda _: '{"unexpected": ["shape"]}',
    Fault.EMPTY: lambda _: "",
}
BREAKS_HALFWAY: frozenset[str] = frozenset(
    {Fault.STALL, Fault.CUT, Fault.HALF_JSON, Fault.ERROR_LINE, Fault.LENGTH, Fault.CONTENT_FILTER}
)


class ChatStandIn(StandIn):
    """A language model's server without a model. Subclasses add routes and say where a body keeps its schema.

    Attributes:
        faults: the faults that it knows.
        answers, answers_for: answers to the next calls, for any schema and by its title; the latter come first.
        answerer: what answers when no answer is queued.
        delay_s: before the headers of every answer. ``token_delay_s``: before each piece. Both in seconds.
        chunk_chars: characters of one streamed piece.
        retry_after: seconds that a 429 or 503 asks for; None leaves it out.
        chance: the fault of a call to that task for which none is queued or set for all; asked in the server's thread.
        requests: (method, path) of every request. ``headers``: its headers, names in lower case.
        chats: bodies of all chat calls, those refused or failed included.
        by_model, by_task: how many of the chats asked for each.
        active: requests being served now. ``most_active``: the most of them at a time.
    """

    faults: ClassVar[Collection[str]]

    def __init__(self) -> None:
        super().__init__()
        self.answers: deque[Answer] = deque()
        self.answers_for: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self.answerer: Callable[[Body], str | dict[str, Any]] = self.default_answer
        self.delay_s = 0.0
        self.token_delay_s = 0.0
        self.chunk_chars = 8
        self.retry_after: str | None = "0"
        self.chance: Callable[[str], str | None] = lambda task: None
        self.requests: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.chats: list[Body] = []
        self.by_model: Counter[str] = Counter()
        self.by_task: Counter[str] = Counter()
        self.active = 0
        self.most_active = 0
        self._queued: list[tuple[str, str | None]] = []
        self._always: tuple[str, str | None] | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self.app.middlewares.append(self._keep_books)

    def schema_of(self, body: Body) -> Mapping[str, Any] | None:
        """The schema that an answer to ``body`` is to fit."""
        raise NotImplementedError

    def task_of(self, body: Body) -> str:
        """The schema's title, or nothing."""
        title: str = (self.schema_of(body) or {}).get("title", "")
        return title

    def default_answer(self, body: Body) -> str | dict[str, Any]:
        """An answer that fits the schema and, for Sparklio's own tasks, the payload too."""
        return answer_to(self.schema_of(body), self.task_of(body), payload_of(body))

    # -- knobs and books -----------------------------------------------------------------------------------------------

    def fail(self, *faults: str, task: str | None = None) -> None:
        """Queue faults by name, one for each of the next calls; with ``task``, of the next calls with that schema."""
        self._queued.extend((self._known(fault), task) for fault in faults)

    def fail_always(self, fault: str | None, *, task: str | None = None) -> None:
        """The fault of every call for which none is queued; None ends it."""
        self._always = (self._known(fault), task) if fault else None

    def _known(self, fault: str) -> str:
        if fault not in self.faults:
            raise ValueError(f"{type(self).__name__} knows no fault {str(fault)!r}")
        return fault

    @property
    def open_connections(self) -> int:
        """TCP connections that are open now, idle ones in a client's pool included."""
        return sum(not transport.is_closing() for transport in list(self._transports))

    @property
    def connections_made(self) -> int:
        """TCP connections that ever carried a request."""
        return len(self._transports)

    def forget(self) -> None:
        """Empty the books, the queues and the faults."""
        for book in (self.requests, self.headers, self.chats, self.by_model, self.by_task, self._queued):
            book.clear()
        self.answers.clear()
        self.answers_for.clear()
        self._always = None
        self.most_active = self.active

    # -- what subclasses call ------------------------------------------------------------------------------------------

    @web.middleware
    async def _keep_books(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        if request.transport is not None and request.transport not in self._transports:
            self._transports.append(request.transport)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            return await handler(request)
        except ConnectionResetError:  # the client has gone
            return web.Response(status=499)
        finally:
            self.active -= 1

    def enter(self, body: Body) -> None:
        """Write a chat into the books."""
        self.chats.append(body)
        self.by_model[body.get("model", "")] += 1
        self.by_task[self.task_of(body)] += 1

    def next_fault(self, task: str) -> str:
        for index, (fault, wanted) in enumerate(self._queued):
            if wanted in (None, task):
                del self._queued[index]
                return fault
        if self._always is not None and self._always[1] in (None, task):
            return self._always[0]
        return self.chance(task) or Fault.NONE

    def next_answer(self, body: Body) -> str:
        """Text of the answer to ``body``: queued for its task, queued for any, or the answerer's."""
        queue = self.answers_for.get(self.task_of(body)) or self.answers
        answer: Any = queue.popleft() if queue else self.answerer
        if callable(answer):
            answer = answer(body)
        return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


async def wait(request: web.Request, seconds: float) -> None:
    """Sleep, but no longer than the client stays."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if request.transport is None or request.transport.is_closing():
            return
        await asyncio.sleep(min(left, 0.01))


def split(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]
