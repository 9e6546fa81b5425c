"""A stand-in of Ollama: its wire format on a loopback port, answers that fit the schema, and faults on demand.

::

    with OllamaStandIn() as ollama:
        ollama.url                                       # for OLLAMA_BASE_URL
        ollama.answers.append({"summary": "..."})        # the next answer: str, dict or function(body) -> str | dict
        ollama.answers_for["StyleReview"].append({...})  # the next answer to that schema, whatever runs beside it
        ollama.fail("status_503", "none", "cut")         # faults of the next calls, one each
        ollama.fail("hang", task="ProductDetail")        # of the next call with that schema
        ollama.fail_always("status_500")                 # of every call; fail_always(None) ends it
        ollama.chats[-1]["options"]["num_ctx"]           # the books

A task is named by the ``title`` of the schema in ``format``, which is the class's name in ``routing.artifacts``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain, islice, repeat
from typing import Any

from aiohttp import web

from tests.standins.answers import answer_to, estimated_tokens, text_of
from tests.standins.chat import BREAKS_HALFWAY, REWRITES, Body, ChatStandIn, fabricate, payload_of, split, wait

__all__ = [
    "CONTEXT_ERRORS",
    "THOUGHT",
    "Fault",
    "OllamaStandIn",
    "default_answer",
    "estimated_prompt_tokens",
    "fabricate",
    "payload_of",
]

DEFAULT_MODELS = ("qwen2.5:7b", "qwen2.5:14b", "llama3.2:latest", "mistral-small:latest")
MODEL_BYTES = 4_700_000_000
LOAD_NS = 250_000_000
THOUGHT = "잠시 생각해 보자."
RUNNER_ERROR = "an error was encountered while running the model: CUDA error: out of memory"
CONTEXT_ERRORS = (
    "the input length exceeds the context length",
    "the prompt is longer than the context length currently available to the model; shorten the prompt",
    '{"error":{"code":400,"message":"request (26528 tokens) exceeds the available context size (16384 tokens)"}}',
)
"""Of a prompt that is too long, as older versions say it, 0.30, and the llama-server inside of 0.30."""


class Fault(StrEnum):
    """What goes wrong in one call to /api/chat or /api/generate."""

    NONE = "none"  # nothing; a place in the queue
    STATUS_400 = "status_400"
    STATUS_401 = "status_401"
    STATUS_403 = "status_403"
    STATUS_404 = "status_404"
    STATUS_429 = "status_429"  # with Retry-After, see `retry_after`
    STATUS_500 = "status_500"
    STATUS_503 = "status_503"  # with Retry-After
    CONTEXT_LENGTH = "context_length"  # a 400 with the words of `context_error`
    REDIRECT = "redirect"
    HANG = "hang"  # never a byte
    STALL = "stall"  # half the answer, then never another byte
    CUT = "cut"  # half the answer, then the connection breaks
    HALF_JSON = "half_json"  # half the answer, then half a line and a clean end
    ERROR_LINE = "error_line"  # half the answer, then {"error": ...}
    ERROR_LINE_CUT = "error_line_cut"  # the same, and then the connection breaks
    NO_DONE = "no_done"  # the whole answer, without the last line
    LENGTH = "length"  # half the answer, done_reason "length"
    LENGTH_EMPTY = "length_empty"  # no text, done_reason "length"
    BLANKS = "blanks"  # white space without an end; only the request's num_predict stops it
    REPETITION = "repetition"  # half the answer, then its last piece again and again, as above
    LOAD = "load"  # only a last line, done_reason "load"
    EMPTY = "empty"  # no text, done_reason "stop"
    THINKS = "thinks"  # message.thinking before the answer, whatever `think` asks for
    THINKS_ONLY = "thinks_only"  # message.thinking and no text, done_reason "stop"
    PROSE_AROUND = "prose_around"
    FENCED = "fenced"
    THINK_TAGS = "think_tags"
    WRONG_SHAPE = "wrong_shape"  # JSON, but not of the schema


_STATUSES = {
    Fault.STATUS_400: (400, "model is required"),
    Fault.STATUS_401: (401, "unauthorized"),
    Fault.STATUS_403: (403, "this model needs a subscription"),
    Fault.STATUS_404: (404, "model '{model}' not found"),
    Fault.STATUS_429: (429, "too many requests"),
    Fault.STATUS_500: (500, "llama runner process has terminated: exit status 2"),
    Fault.STATUS_503: (503, "server busy, please try again.  maximum pending requests exceeded"),
}
_WORDLESS = (Fault.LOAD, Fault.LENGTH_EMPTY, Fault.THINKS_ONLY)
_REWRITES: Mapping[str, Callable[[str], str]] = {**REWRITES, **dict.fromkeys(_WORDLESS, lambda _: "")}
_LOOPS = (Fault.BLANKS, Fault.REPETITION)
_HALVES = BREAKS_HALFWAY | {Fault.ERROR_LINE_CUT, Fault.REPETITION}
_CUTS = (Fault.CUT, Fault.ERROR_LINE_CUT)


class OllamaStandIn(ChatStandIn):
    """Ollama without a model.

    Attributes:
        models: installed names; a bare name means ``:latest``. Others get Ollama's 404.
        prompt_eval_count: the count for a request's body; None leaves it out, as Ollama does for a cached prompt.
        vram_share: ``size_vram / size`` in /api/ps.
        version: what /api/version tells.
        context_error: the words of the fault ``context_length``, one of CONTEXT_ERRORS.
        answered: bodies of the chats whose answer went out to its last line, streamed ones only.
        generates: bodies of all calls to /api/generate.
        loads: (model, num_ctx) of each load; a changed num_ctx loads again.
    """

    faults = frozenset(Fault)

    def __init__(self, models: Iterable[str] = DEFAULT_MODELS) -> None:
        super().__init__()
        self.models = list(models)
        self.prompt_eval_count: Callable[[Body], int | None] = estimated_prompt_tokens
        self.vram_share = 1.0
        self.version = "0.30.0"
        self.context_error = CONTEXT_ERRORS[0]
        self.answered: list[Body] = []
        self.generates: list[Body] = []
        self.loads: list[tuple[str, int]] = []
        self._loaded: dict[str, int] = {}
        self.app.add_routes(
            [
                web.post("/api/chat", self._chat),
                web.post("/api/generate", self._generate),
                web.get("/api/tags", self._tags),
                web.get("/api/ps", self._ps),
                web.get("/api/version", self._version),
            ]
        )

    def schema_of(self, body: Body) -> Mapping[str, Any] | None:
        return _schema(body)

    def default_answer(self, body: Body) -> str | dict[str, Any]:
        return default_answer(body)

    def forget(self) -> None:
        """Empty the books, the queues and the faults; what is loaded stays loaded."""
        super().forget()
        self.answered.clear()
        self.generates.clear()
        self.loads.clear()

    # -- routes --------------------------------------------------------------------------------------------------------

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._serve_call(request, self.chats, _chat_line)

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        return await self._serve_call(request, self.generates, _generate_line)

    async def _tags(self, request: web.Request) -> web.Response:
        return web.json_response({"models": [_model_entry(_tagged(name)) for name in self.models]})

    async def _ps(self, request: web.Request) -> web.Response:
        entries = [
            _model_entry(name)
            | {"size_vram": int(MODEL_BYTES * self.vram_share), "context_length": num_ctx, "expires_at": _now()}
            for name, num_ctx in self._loaded.items()
        ]
        return web.json_response({"models": entries})

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": self.version})

    async def _serve_call(self, request: web.Request, book: list[Body], line: _Line) -> web.StreamResponse:
        try:
            body = await request.json()
        except json.JSONDecodeError as exc:
            return _error(400, str(exc))
        if book is self.chats:
            self.enter(body)
        else:
            book.append(body)
        refusal = self._refusal(body)
        if refusal is not None:
            return refusal
        fault = Fault(self.next_fault(self.task_of(body)))
        await wait(request, self.delay_s)
        if fault is Fault.HANG:
            await wait(request, float("inf"))
        if fault is Fault.REDIRECT:
            return web.Response(status=307, headers={"Location": "/elsewhere"})
        if fault is Fault.CONTEXT_LENGTH:
            return _error(400, self.context_error)
        if fault in _STATUSES:
            status, words = _STATUSES[fault]
            return _error(status, words.format(model=body["model"]), self.retry_after)
        return await self._answer(request, _Call(self, body, fault, line))

    def _refusal(self, body: Body) -> web.Response | None:
        model = body.get("model")
        if not model:
            return _error(400, "model is required")
        if _tagged(model) not in map(_tagged, self.models):
            return _error(404, f"model '{model}' not found")
        return None

    async def _answer(self, request: web.Request, call: _Call) -> web.StreamResponse:
        if call.body.get("stream") is False:
            return await _whole(request, call)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        with suppress(ConnectionResetError):  # the client has gone
            await response.prepare(request)
            for line in call.lines():
                await wait(request, self.token_delay_s)
                await response.write(line)
            self.answered.append(call.body)
            if call.fault is Fault.STALL:
                await wait(request, float("inf"))
            if call.fault in _CUTS and request.transport is not None:
                request.transport.abort()
        return response

    def load(self, body: Body) -> int:
        """Load the body's model if it is not there with this num_ctx; nanoseconds that it took."""
        name, num_ctx = _tagged(body["model"]), (body.get("options") or {}).get("num_ctx", 4096)
        if body.get("keep_alive") == 0:
            self._loaded.pop(name, None)
            return 0
        if self._loaded.get(name) == num_ctx:
            return 1_000_000
        self._loaded[name] = num_ctx
        self.loads.append((name, num_ctx))
        return LOAD_NS


# -- one call ----------------------------------------------------------------------------------------------------------

_Line = Callable[[str, Body], Body]


class _Call:
    """The lines of one answer."""

    def __init__(self, standin: OllamaStandIn, body: Body, fault: Fault, line: _Line) -> None:
        self.body = body
        self.fault = fault
        self._line = line
        self._standin = standin
        self._started = time.monotonic_ns()
        self._load_ns = standin.load(body)
        self.calls: list[Body] = [] if self._is_load else _tool_calls(body)
        self.text = "" if self._is_load or self.calls else self._written()
        self.pieces = split(self.text, standin.chunk_chars)
        if fault in _HALVES:
            self.pieces = self.pieces[: max(1, len(self.pieces) // 2)]
        if fault in _LOOPS:
            self.pieces = self._without_end()

    @property
    def _is_load(self) -> bool:
        """A call without a message (or prompt) only loads or unloads the model."""
        return not self.body.get("messages") and not self.body.get("prompt")

    def _written(self) -> str:
        text = self._standin.next_answer(self.body)
        return _REWRITES[self.fault](text) if self.fault in _REWRITES else text

    def _without_end(self) -> list[str]:
        """As many pieces as the request allows; ten contexts of them where it sets no bound, as Ollama does."""
        options = self.body.get("options") or {}
        bound = options.get("num_predict", 10 * options.get("num_ctx", 4096))
        endless = repeat("\n  ") if self.fault is Fault.BLANKS else chain(self.pieces, repeat(self.pieces[-1]))
        return list(islice(endless, bound))

    def lines(self) -> Iterator[bytes]:
        """The stream, its fault included where that is a matter of lines."""
        if self.body.get("think") or self.fault in (Fault.THINKS, Fault.THINKS_ONLY):
            yield _ndjson(self._line("", {"thinking": THOUGHT}) | self._head(done=False))
        if self.calls:
            yield _ndjson(self._line("", {"tool_calls": self.calls}) | self._head(done=False))
        if self.fault is not Fault.LOAD:
            for piece in self.pieces:
                yield _ndjson(self._line(piece, {}) | self._head(done=False))
        if self.fault is Fault.HALF_JSON:
            yield _ndjson(self._line("끊긴 줄", {}) | self._head(done=False))[:40]
        elif self.fault in (Fault.ERROR_LINE, Fault.ERROR_LINE_CUT):
            yield _ndjson({"error": RUNNER_ERROR})
        elif self.fault not in (Fault.STALL, Fault.CUT, Fault.NO_DONE):
            yield _ndjson(self._line("", {}) | self.end())

    def end(self) -> Body:
        """Fields of the last line; durations in nanoseconds."""
        total = time.monotonic_ns() - self._started + self._load_ns
        count = self._standin.prompt_eval_count(self.body)
        return self._head(done=True) | {
            "done_reason": self._done_reason(),
            "total_duration": total,
            "load_duration": self._load_ns,
            **({} if count is None else {"prompt_eval_count": count}),
            "prompt_eval_duration": total // 10,
            "eval_count": len(self.pieces),
            "eval_duration": total // 2,
        }

    def whole(self) -> Body:
        """The answer to ``stream: false``."""
        extra: Body = {"tool_calls": self.calls} if self.calls else {}
        return self._line("".join(self.pieces), extra) | self.end()

    def _head(self, *, done: bool) -> Body:
        return {"model": self.body["model"], "created_at": _now(), "done": done}

    def _done_reason(self) -> str:
        if self.fault in (Fault.LENGTH, Fault.LENGTH_EMPTY, *_LOOPS):
            return "length"
        if self.fault is Fault.LOAD:
            return "load"
        if self._is_load:
            return "unload" if self.body.get("keep_alive") == 0 else "load"
        return "stop"


async def _whole(request: web.Request, call: _Call) -> web.StreamResponse:
    """``stream: false``: faults of the stream become the nearest thing that one JSON object allows."""
    if call.fault is Fault.ERROR_LINE:
        return _error(500, RUNNER_ERROR)
    if call.fault is Fault.STALL:
        await wait(request, float("inf"))
    data = json.dumps(call.whole() | ({"done": False} if call.fault is Fault.NO_DONE else {})).encode()
    if call.fault is Fault.HALF_JSON:
        data = data[: len(data) // 2]
    if call.fault in _CUTS and request.transport is not None:
        request.transport.abort()
    return web.Response(body=data, content_type="application/json")


def _chat_line(text: str, extra: Body) -> Body:
    return {"message": {"role": "assistant", "content": text, **extra}}


def _generate_line(text: str, extra: Body) -> Body:
    return {"response": text, **extra}


def _ndjson(line: Body) -> bytes:
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _error(status: int, words: str, retry_after: str | None = None) -> web.Response:
    headers = {"Retry-After": retry_after} if retry_after is not None and status in (429, 503) else None
    return web.json_response({"error": words}, status=status, headers=headers)


def _tool_calls(body: Body) -> list[Body]:
    """A call of the first tool, with arguments that fit its parameters."""
    if not body.get("tools"):
        return []
    tool = body["tools"][0]["function"]
    return [{"function": {"name": tool["name"], "arguments": fabricate(tool.get("parameters") or {"type": "object"})}}]


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _tagged(name: str) -> str:
    return name if ":" in name else f"{name}:latest"


def _model_entry(name: str) -> Body:
    return {
        "name": name,
        "model": name,
        "modified_at": _now(),
        "size": MODEL_BYTES,
        "digest": hashlib.sha256(name.encode()).hexdigest(),
        "details": {"format": "gguf", "family": "qwen2", "parameter_size": "7.6B", "quantization_level": "Q4_K_M"},
    }


# -- answers -----------------------------------------------------------------------------------------------------------


def estimated_prompt_tokens(body: Body) -> int:
    """About what Qwen's tokenizer counts; a prompt that does not fit is cut to half the context (ollama#17427)."""
    tokens = estimated_tokens("".join(map(text_of, body.get("messages") or ())) + body.get("prompt", ""))
    num_ctx: int = (body.get("options") or {}).get("num_ctx", 4096)
    return tokens if tokens <= num_ctx else num_ctx // 2 + 2


def default_answer(body: Body) -> str | dict[str, Any]:
    """An answer that fits ``format`` and, for Sparklio's own tasks, the payload too."""
    if body.get("format") == "json":
        return {"answer": "흉내만 낸 답입니다."}
    schema = _schema(body)
    return answer_to(schema, (schema or {}).get("title", ""), payload_of(body))


def _schema(body: Body) -> Mapping[str, Any] | None:
    schema = body.get("format")
    return schema if isinstance(schema, dict) else None
