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

import asyncio
import hashlib
import json
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler

from tests.standins.server import StandIn

__all__ = ["Fault", "OllamaStandIn", "default_answer", "estimated_prompt_tokens", "fabricate", "payload_of"]

Body = dict[str, Any]
Answer = str | dict[str, Any] | Callable[[Body], "str | dict[str, Any]"]

DEFAULT_MODELS = ("qwen2.5:7b", "qwen2.5:14b", "llama3.2:latest", "mistral-small:latest")
MODEL_BYTES = 4_700_000_000
LOAD_NS = 250_000_000


class Fault(StrEnum):
    """What goes wrong in one call to /api/chat or /api/generate."""

    NONE = "none"  # nothing; a place in the queue
    STATUS_400 = "status_400"
    STATUS_404 = "status_404"
    STATUS_429 = "status_429"  # with Retry-After, see `retry_after`
    STATUS_500 = "status_500"
    STATUS_503 = "status_503"  # with Retry-After
    REDIRECT = "redirect"
    HANG = "hang"  # never a byte
    STALL = "stall"  # half the answer, then never another byte
    CUT = "cut"  # half the answer, then the connection breaks
    HALF_JSON = "half_json"  # half the answer, then half a line and a clean end
    ERROR_LINE = "error_line"  # half the answer, then {"error": ...}
    NO_DONE = "no_done"  # the whole answer, without the last line
    LENGTH = "length"  # half the answer, done_reason "length"
    LOAD = "load"  # only a last line, done_reason "load"
    EMPTY = "empty"  # no text, done_reason "stop"
    PROSE_AROUND = "prose_around"
    FENCED = "fenced"
    THINK_TAGS = "think_tags"
    WRONG_SHAPE = "wrong_shape"  # JSON, but not of the schema


_STATUSES = {
    Fault.STATUS_400: (400, "model is required"),
    Fault.STATUS_404: (404, "model '{model}' not found"),
    Fault.STATUS_429: (429, "too many requests"),
    Fault.STATUS_500: (500, "llama runner process has terminated: exit status 2"),
    Fault.STATUS_503: (503, "server busy, please try again.  maximum pending requests exceeded"),
}
_REWRITES: Mapping[Fault, Callable[[str], str]] = {
    Fault.PROSE_AROUND: lambda text: f"물론입니다! 요청하신 결과입니다.\n\n{text}\n\n도움이 되었기를 바랍니다.",
    Fault.FENCED: lambda text: f"```json\n{text}\n```",
    Fault.THINK_TAGS: lambda text: f'<think>\n음, 먼저 {{"초안": 1}} 을 생각해 보자.\n</think>\n\n{text}',
    Fault.WRONG_SHAPE: lambda _: '{"unexpected": ["shape"]}',
    Fault.EMPTY: lambda _: "",
    Fault.LOAD: lambda _: "",
}
_BREAKS_HALFWAY = {Fault.STALL, Fault.CUT, Fault.HALF_JSON, Fault.ERROR_LINE, Fault.LENGTH}


class OllamaStandIn(StandIn):
    """Ollama without a model.

    Attributes:
        models: installed names; a bare name means ``:latest``. Others get Ollama's 404.
        answers, answers_for: answers to the next calls, for any schema and by its title; the latter come first.
        answerer: what answers when no answer is queued.
        delay_s: before the headers of every answer. ``token_delay_s``: before each line. Both in seconds.
        chunk_chars: characters of one streamed line.
        retry_after: ``Retry-After`` of 429 and 503; None leaves it out.
        prompt_eval_count: the count for a request's body; None leaves it out, as Ollama does for a cached prompt.
        vram_share: ``size_vram / size`` in /api/ps.
        version: what /api/version tells.
        chats: bodies of all calls to /api/chat, those refused or failed included. ``generates``: to /api/generate.
        by_model, by_task: how many of the chats asked for each.
        loads: (model, num_ctx) of each load; a changed num_ctx loads again.
        active: requests being served now. ``most_active``: the most of them at a time.
    """

    def __init__(self, models: Iterable[str] = DEFAULT_MODELS) -> None:
        super().__init__()
        self.models = list(models)
        self.answers: deque[Answer] = deque()
        self.answers_for: defaultdict[str, deque[Answer]] = defaultdict(deque)
        self.answerer: Callable[[Body], str | dict[str, Any]] = default_answer
        self.delay_s = 0.0
        self.token_delay_s = 0.0
        self.chunk_chars = 8
        self.retry_after: str | None = "0"
        self.prompt_eval_count: Callable[[Body], int | None] = estimated_prompt_tokens
        self.vram_share = 1.0
        self.version = "0.30.0"
        self.chats: list[Body] = []
        self.generates: list[Body] = []
        self.by_model: Counter[str] = Counter()
        self.by_task: Counter[str] = Counter()
        self.loads: list[tuple[str, int]] = []
        self.active = 0
        self.most_active = 0
        self._faults: list[tuple[Fault, str | None]] = []
        self._always: tuple[Fault, str | None] | None = None
        self._loaded: dict[str, int] = {}
        self._transports: list[asyncio.BaseTransport] = []
        self.app.middlewares.append(self._keep_books)
        self.app.add_routes(
            [
                web.post("/api/chat", self._chat),
                web.post("/api/generate", self._generate),
                web.get("/api/tags", self._tags),
                web.get("/api/ps", self._ps),
                web.get("/api/version", self._version),
            ]
        )

    # -- knobs and books -----------------------------------------------------------------------------------------------

    def fail(self, *faults: str, task: str | None = None) -> None:
        """Queue faults by name, one for each of the next calls; with ``task``, of the next calls with that schema."""
        self._faults.extend((Fault(fault), task) for fault in faults)

    def fail_always(self, fault: str | None, *, task: str | None = None) -> None:
        """The fault of every call for which none is queued; None ends it."""
        self._always = (Fault(fault), task) if fault else None

    @property
    def open_connections(self) -> int:
        """TCP connections that are open now, idle ones in a client's pool included."""
        return sum(not transport.is_closing() for transport in list(self._transports))

    @property
    def connections_made(self) -> int:
        """TCP connections that ever carried a request."""
        return len(self._transports)

    def forget(self) -> None:
        """Empty the books, the queues and the faults; what is loaded stays loaded."""
        for book in (self.chats, self.generates, self.by_model, self.by_task, self.loads):
            book.clear()
        self.answers.clear()
        self.answers_for.clear()
        self._faults.clear()
        self._always = None
        self.most_active = self.active

    # -- routes --------------------------------------------------------------------------------------------------------

    @web.middleware
    async def _keep_books(self, request: web.Request, handler: Handler) -> web.StreamResponse:
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
        book.append(body)
        if book is self.chats:
            self.by_model[body.get("model", "")] += 1
            self.by_task[_task(body)] += 1
        refusal = self._refusal(body)
        if refusal is not None:
            return refusal
        fault = self._next_fault(_task(body))
        await _wait(request, self.delay_s)
        if fault is Fault.HANG:
            await _wait(request, float("inf"))
        if fault is Fault.REDIRECT:
            return web.Response(status=307, headers={"Location": "/elsewhere"})
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
                await _wait(request, self.token_delay_s)
                await response.write(line)
            if call.fault is Fault.STALL:
                await _wait(request, float("inf"))
            if call.fault is Fault.CUT and request.transport is not None:
                request.transport.abort()
        return response

    def _next_fault(self, task: str) -> Fault:
        for index, (fault, wanted) in enumerate(self._faults):
            if wanted in (None, task):
                del self._faults[index]
                return fault
        if self._always is not None and self._always[1] in (None, task):
            return self._always[0]
        return Fault.NONE

    def next_answer(self, body: Body) -> str:
        """Text of the answer to ``body``: queued for its task, queued for any, or the answerer's."""
        queue = self.answers_for.get(_task(body)) or self.answers
        answer: Any = queue.popleft() if queue else self.answerer
        if callable(answer):
            answer = answer(body)
        return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)

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
        self.pieces = _split(self.text, standin.chunk_chars)
        if fault in _BREAKS_HALFWAY:
            self.pieces = self.pieces[: max(1, len(self.pieces) // 2)]

    @property
    def _is_load(self) -> bool:
        """A call without a message (or prompt) only loads or unloads the model."""
        return not self.body.get("messages") and not self.body.get("prompt")

    def _written(self) -> str:
        text = self._standin.next_answer(self.body)
        return _REWRITES[self.fault](text) if self.fault in _REWRITES else text

    def lines(self) -> Iterator[bytes]:
        """The stream, its fault included where that is a matter of lines."""
        if self.body.get("think"):
            yield _ndjson(self._line("", {"thinking": "잠시 생각해 보자."}) | self._head(done=False))
        if self.calls:
            yield _ndjson(self._line("", {"tool_calls": self.calls}) | self._head(done=False))
        if self.fault is not Fault.LOAD:
            for piece in self.pieces:
                yield _ndjson(self._line(piece, {}) | self._head(done=False))
        if self.fault is Fault.HALF_JSON:
            yield _ndjson(self._line("끊긴 줄", {}) | self._head(done=False))[:40]
        elif self.fault is Fault.ERROR_LINE:
            yield _ndjson({"error": "an error was encountered while running the model: CUDA error: out of memory"})
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
        if self.fault is Fault.LENGTH:
            return "length"
        if self.fault is Fault.LOAD:
            return "load"
        if self._is_load:
            return "unload" if self.body.get("keep_alive") == 0 else "load"
        return "stop"


async def _whole(request: web.Request, call: _Call) -> web.StreamResponse:
    """``stream: false``: faults of the stream become the nearest thing that one JSON object allows."""
    if call.fault is Fault.ERROR_LINE:
        return _error(500, "an error was encountered while running the model: CUDA error: out of memory")
    if call.fault is Fault.STALL:
        await _wait(request, float("inf"))
    data = json.dumps(call.whole() | ({"done": False} if call.fault is Fault.NO_DONE else {})).encode()
    if call.fault is Fault.HALF_JSON:
        data = data[: len(data) // 2]
    if call.fault is Fault.CUT and request.transport is not None:
        request.transport.abort()
    return web.Response(body=data, content_type="application/json")


async def _wait(request: web.Request, seconds: float) -> None:
    """Sleep, but no longer than the client stays."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if request.transport is None or request.transport.is_closing():
            return
        await asyncio.sleep(min(left, 0.01))


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


def _split(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


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
    text = "".join(message.get("content") or "" for message in body.get("messages") or ()) + body.get("prompt", "")
    ascii_chars = len(text.encode("ascii", "ignore"))
    tokens = 10 + ascii_chars // 4 + (len(text) - ascii_chars) * 3 // 4
    num_ctx: int = (body.get("options") or {}).get("num_ctx", 4096)
    return tokens if tokens <= num_ctx else num_ctx // 2 + 2


def default_answer(body: Body) -> str | dict[str, Any]:
    """An answer that fits ``format`` and, for Sparklio's own tasks, the payload too."""
    schema = body.get("format")
    if not schema:
        return "안녕하세요. 저는 흉내만 내는 모델입니다."
    if schema == "json":
        return {"answer": "흉내만 낸 답입니다."}
    answer: dict[str, Any] = fabricate(schema)
    task = _TASKS.get(_task(body))
    return answer | task(payload_of(body)) if task else answer


def payload_of(body: Body) -> dict[str, Any]:
    """The request's payload: the first JSON object in the last user turn (its fences are the prompt's affair)."""
    turns = [message for message in body.get("messages") or () if message.get("role") == "user"]
    text = turns[-1].get("content", "") if turns else body.get("prompt", "")
    decoder = json.JSONDecoder()
    for brace in re.finditer(r"\{", text):
        with suppress(json.JSONDecodeError):
            value = decoder.raw_decode(text, brace.start())[0]
            if isinstance(value, dict):
                return value
    return {}


def fabricate(
    schema: Mapping[str, Any], name: str = "value", index: int = 0, root: Mapping[str, Any] | None = None
) -> Any:
    """The plainest instance of a JSON schema, all of its properties present.

    Args:
        schema: the schema, or a part of it.
        name: of the property that the part belongs to; texts are made of it.
        index: place in its list; makes the items of a list differ.
        root: the whole schema, in which ``$ref`` points; None where ``schema`` is the whole.
    """
    root = schema if root is None else root
    if "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return fabricate(target, name, index, root)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][index % len(schema["enum"])]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return fabricate(schema[choice][0], name, index, root)
    return _BY_TYPE[schema.get("type", "string")](schema, name, index, root)


def _object(schema: Mapping[str, Any], name: str, index: int, root: Mapping[str, Any]) -> dict[str, Any]:
    return {key: fabricate(part, key, index, root) for key, part in schema.get("properties", {}).items()}


def _array(schema: Mapping[str, Any], name: str, index: int, root: Mapping[str, Any]) -> list[Any]:
    parts = list(schema.get("prefixItems", ()))
    wanted = max(len(parts), schema.get("minItems", 1))
    parts += [schema.get("items") or {"type": "string"}] * (min(wanted, schema.get("maxItems", wanted)) - len(parts))
    return [fabricate(part, name, place, root) for place, part in enumerate(parts)]


def _string(schema: Mapping[str, Any], name: str, index: int, root: Mapping[str, Any]) -> str:
    texts = [f"{name} 예시 {index + 1}", f"{name}-{index + 1}", f"#2F6B4{index % 10}", str(index + 1)]
    if name == "colors":
        texts = texts[2:]
    pattern = schema.get("pattern", "")
    fitting = [text for text in texts if re.search(pattern, text)]
    assert fitting, f"teach the stand-in a text of pattern {pattern!r}"
    return fitting[0][: schema.get("maxLength")]


def _number(schema: Mapping[str, Any], name: str, index: int, root: Mapping[str, Any]) -> int:
    low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    return int(min(max(low, index + 1), schema.get("maximum", index + 1)))


_BY_TYPE: Mapping[str, Callable[[Mapping[str, Any], str, int, Mapping[str, Any]], Any]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _number,
    "number": _number,
    "boolean": lambda *_: True,
    "null": lambda *_: None,
}


def _task(body: Body) -> str:
    schema = body.get("format")
    return schema.get("title", "") if isinstance(schema, dict) else ""


def _name_in(payload: Mapping[str, Any], *keys: str) -> str:
    """The first ``name`` in the payload's parts of these keys, or in the payload itself."""
    parts = [payload.get(key) for key in keys] + [payload]
    return next((part["name"] for part in parts if isinstance(part, dict) and part.get("name")), "샘플")


def _brand_summary(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": _name_in(payload, "brand", "brand_input"),
        "tone": "차분하고 믿음직한 말투로, 과장 없이 사실을 먼저 말합니다.",
        "values": ["정직", "건강", "꾸준함"],
        "colors": ["#2F6B4F", "#F4EFE6"],
    }


def _marketing_brief(payload: Mapping[str, Any]) -> dict[str, Any]:
    product = _name_in(payload, "product", "product_input")
    return {
        "target": "운동을 시작한 20-30대 직장인",
        "positioning": f"매일 부담 없이 챙기는 {product}",
        "key_messages": ["간편하게 챙깁니다", "부담 없이 가볍습니다", "성분을 투명하게 밝힙니다"],
    }


def _content_plan(payload: Mapping[str, Any]) -> dict[str, Any]:
    planned = {"hero": "첫인상", "features": "핵심 특징", "usage": "즐기는 방법", "cta": "지금 만나 보세요"}
    return {"sections": [{"id": kind, "type": kind, "title": title} for kind, title in planned.items()]}


def _product_detail(payload: Mapping[str, Any]) -> dict[str, Any]:
    planned = payload.get("sections") or _content_plan(payload)["sections"]
    product = _name_in(payload, "product", "product_input")
    return {
        "headline": f"{product}, 오늘의 균형",
        "subheadline": "바쁜 하루에도 가볍게 챙기는 한 번의 습관",
        "sections": [
            {
                "section_id": section["id"],
                "heading": section.get("title") or "소개",
                "body": f"{product}의 이야기를 담백하게 전합니다.",
                "bullets": ["간편하게", "가볍게"],
            }
            for section in planned
        ],
        "cta": "지금 만나 보세요",
    }


def _image_prompt(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": "studio product photograph on a sage green background, soft daylight, clean composition",
        "negative_prompt": "text, watermark, people",
    }


def _style_review(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {"approved": True, "score": 90, "issues": [], "summary": "브랜드의 말투와 잘 맞습니다."}


_TASKS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "BrandSummary": _brand_summary,
    "MarketingBrief": _marketing_brief,
    "ContentPlan": _content_plan,
    "ProductDetail": _product_detail,
    "ImagePrompt": _image_prompt,
    "StyleReview": _style_review,
}
