"""A stand-in of Anthropic's API: messages and models, faults included.

::

    with AnthropicStandIn() as anthropic:
        anthropic.url, anthropic.key                     # for ANTHROPIC_BASE_URL (without /v1) and ANTHROPIC_API_KEY
        anthropic.fail("status_503")                     # 529 here; see tests/standins/chat.py for queues and books

Shapes after https://platform.claude.com/docs/en/api/messages and .../build-with-claude/streaming; what a schema may
hold after .../build-with-claude/structured-outputs#json-schema-limitations. The key comes in ``x-api-key`` or, as the
SDK of today sends it, as ``Authorization: Bearer``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aiohttp import web

from tests.standins.answers import subschemas, text_of
from tests.standins.chat import Body, Fault
from tests.standins.rented import MODELS, Refusal, RentedStandIn, Reply, sse

__all__ = ["KEY", "AnthropicStandIn"]

KEY = "sk-ant-test-0123456789abcdef"

_KNOWN = """
    model messages max_tokens system stream temperature top_p top_k stop_sequences metadata tools tool_choice thinking
    output_config service_tier container inference_geo cache_control speed diagnostics
"""
_PARAMETERS = frozenset(_KNOWN.split())
_ANY = {"type", "title", "description", "enum", "const", "anyOf", "allOf", "$ref", "$defs", "definitions", "default"}
_OF_TYPE: Mapping[str, set[str]] = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems"},
    "string": {"format", "pattern"},
}
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}


def _error(message: str, kind: str = "invalid_request_error") -> Body:
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_0000000000000000"}


_SPENT = "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade."
_REFUSALS: Mapping[Fault, Refusal] = {
    Fault.STATUS_400: (400, _error("temperature: Input should be less than or equal to 1")),
    Fault.STATUS_401: (401, _error("invalid x-api-key", "authentication_error")),
    Fault.STATUS_403: (403, _error("Your API key does not have permission.", "permission_error")),
    Fault.STATUS_404: (404, _error("model: test-gone", "not_found_error")),
    Fault.STATUS_429: (429, _error("This request would exceed your rate limit.", "rate_limit_error")),
    Fault.STATUS_500: (500, _error("Internal server error", "api_error")),
    Fault.STATUS_503: (529, _error("Overloaded", "overloaded_error")),
    Fault.QUOTA: (400, _error(_SPENT)),
    Fault.CONTEXT_LENGTH: (400, _error("prompt is too long: 208310 tokens > 200000 maximum")),
    Fault.CONTENT_FILTER: (400, _error("Output blocked by content filtering policy")),
}
_OF_IMAGES = {Fault.IMAGE_REFUSED, Fault.IMAGE_PROHIBITED, Fault.NO_IMAGE, Fault.BROKEN_IMAGE}


class AnthropicStandIn(RentedStandIn):
    """Anthropic without a model."""

    faults = frozenset(Fault) - _OF_IMAGES - {Fault.REFUSAL_PROMPT}
    id_header = "request-id"

    def __init__(self, models: Iterable[str] = MODELS, *, key: str = KEY) -> None:
        super().__init__(key, models)
        self.app.add_routes(
            [
                web.post("/v1/messages", self._messages),
                web.get("/v1/models", self._list),
                web.get("/v1/models/{name}", self._one),
            ]
        )

    # -- what is asked -------------------------------------------------------------------------------------------------

    def schema_of(self, body: Body) -> Mapping[str, Any] | None:
        form = (body.get("output_config") or {}).get("format")
        if form:
            schema: Mapping[str, Any] = form["schema"]
            return schema
        tool = self.tool_of(body)
        return {"title": tool[0], **tool[1]} if tool else None

    def tool_of(self, body: Body) -> tuple[str, Mapping[str, Any]] | None:
        choice = body.get("tool_choice") or {"type": "auto"}
        last = (body.get("messages") or [{}])[-1].get("content")
        answered = isinstance(last, list) and any(part.get("type") == "tool_result" for part in last)
        if not body.get("tools") or choice["type"] == "none" or (answered and choice["type"] == "auto"):
            return None
        wanted = choice.get("name", body["tools"][0]["name"])
        chosen = next(tool for tool in body["tools"] if tool["name"] == wanted)
        return wanted, chosen["input_schema"]

    # -- what is refused -----------------------------------------------------------------------------------------------

    def refusals(self, fault: Fault) -> Refusal | None:
        return _REFUSALS.get(fault)

    def objection(self, request: web.Request, body: Body) -> Refusal | None:
        return self._stranger(request) or _bad_parameters(body) or self._unknown_model(body) or self._bad_prompt(body)

    def _stranger(self, request: web.Request) -> Refusal | None:
        given = request.headers.get("x-api-key") or request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not given:
            return 401, _error("x-api-key header is required", "authentication_error")
        if given != self.key:
            return 401, _error("invalid x-api-key", "authentication_error")
        if "anthropic-version" not in request.headers:
            return 400, _error("anthropic-version: header is required")
        return None

    def _unknown_model(self, body: Body) -> Refusal | None:
        if body["model"] in self.models:
            return None
        return 404, _error(f"model: {body['model']}", "not_found_error")

    def _bad_prompt(self, body: Body) -> Refusal | None:
        count = self.prompt_tokens(body)
        if count > self.max_prompt_tokens:
            return 400, _error(f"prompt is too long: {count} tokens > {self.max_prompt_tokens} maximum")
        return _bad_messages(body) or _bad_schemas(body)

    # -- what is answered ----------------------------------------------------------------------------------------------

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self.serve(request, body, stream=bool(body.get("stream")))

    def opening(self, reply: Reply) -> Iterator[bytes]:
        head = _message(reply, [], None) | {"usage": _usage(reply) | {"output_tokens": 1}}
        yield _event("message_start", message=head)
        if _has_content(reply):
            start = _tool_use(reply, {}) if reply.tool else {"type": "text", "text": ""}
            yield _event("content_block_start", index=0, content_block=start)
        yield _event("ping")

    def piece(self, reply: Reply, text: str) -> bytes:
        words = {"type": "text_delta", "text": text}
        delta = {"type": "input_json_delta", "partial_json": text} if reply.tool else words
        return _event("content_block_delta", index=0, delta=delta)

    def closing(self, reply: Reply) -> Iterator[bytes]:
        if _has_content(reply):
            yield _event("content_block_stop", index=0)
        delta = {"stop_reason": _stop_reason(reply), "stop_sequence": None, "stop_details": _stop_details(reply)}
        yield _event("message_delta", delta=delta, usage=_usage(reply))
        yield _event("message_stop")

    def error_event(self) -> bytes:
        return sse(_REFUSALS[Fault.STATUS_503][1], "error")

    def whole(self, reply: Reply) -> Body:
        block = _tool_use(reply, reply.arguments()) if reply.tool else {"type": "text", "text": reply.text}
        reason = None if reply.fault is Fault.NO_DONE else _stop_reason(reply)
        return _message(reply, [block] if _has_content(reply) else [], reason)

    async def _list(self, request: web.Request) -> web.Response:
        refusal = self._stranger(request)
        if refusal is not None:
            return self.refuse(refusal)
        entries = [_model(name) for name in self.models]
        ends = {"first_id": self.models[0], "last_id": self.models[-1]} if entries else {}
        return web.json_response({"data": entries, "has_more": False, "first_id": None, "last_id": None, **ends})

    async def _one(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        refusal = self._stranger(request) or self._unknown_model({"model": name})
        return web.json_response(_model(name)) if refusal is None else self.refuse(refusal)


# -- checks of a request -----------------------------------------------------------------------------------------------


def _bad_parameters(body: Body) -> Refusal | None:
    for name in ("model", "max_tokens", "messages"):
        if name not in body:
            return 400, _error(f"{name}: Field required")
    unknown = sorted(set(body) - _PARAMETERS)
    return (400, _error(f"{unknown[0]}: Extra inputs are not permitted")) if unknown else None


def _bad_messages(body: Body) -> Refusal | None:
    if not body["messages"]:
        return 400, _error("messages: at least one message is required")
    for place, message in enumerate(body["messages"]):
        if message["role"] not in ("user", "assistant"):
            words = f'messages.{place}: Unexpected role "{message["role"]}". Use the top-level `system` parameter.'
            return 400, _error(words)
        if message["role"] == "user" and isinstance(message["content"], str) and not text_of(message).strip():
            return 400, _error("messages: text content blocks must be non-empty")
    return None


def _bad_schemas(body: Body) -> Refusal | None:
    schemas = {f"tools.{i}.custom.input_schema": tool for i, tool in enumerate(body.get("tools") or ())}
    strict = {place: tool["input_schema"] for place, tool in schemas.items() if tool.get("strict")}
    form = (body.get("output_config") or {}).get("format")
    if form:
        strict["output_config.format.schema"] = form.get("schema") or {}
    for place, schema in strict.items():
        fault = next(filter(None, (_part_fault(part) for _, part in subschemas(schema))), None)
        if fault:
            return 400, _error(f"{place}: {fault}")
    return None


def _part_fault(part: Mapping[str, Any]) -> str | None:
    """What a part of a schema is refused for; None where it is well."""
    kind = part.get("type", "")
    known = _ANY | _OF_TYPE.get(kind, set())
    unknown = sorted(set(part) - known)
    if unknown:
        one = len(unknown) == 1
        listed = ", ".join(f"'{name}'" for name in unknown) if one else ", ".join(unknown)
        return (
            f"For '{kind}' type, {'property' if one else 'properties'} {listed} {'is' if one else 'are'} not supported"
        )
    if kind == "object" and part.get("additionalProperties") is not False:
        return "For 'object' type, 'additionalProperties' must be explicitly set to false"
    if part.get("minItems", 0) not in (0, 1):
        return f"For 'array' type, 'minItems' values other than 0 or 1 are not supported (got: {part['minItems']})"
    if part.get("format", "date") not in _FORMATS:
        return f"For 'string' type, 'format' {part['format']!r} is not supported"
    return None


# -- shapes of an answer -----------------------------------------------------------------------------------------------


def _event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, kind)


def _has_content(reply: Reply) -> bool:
    return bool(reply.pieces) and reply.fault is not Fault.REFUSAL


def _message(reply: Reply, content: list[Body], reason: str | None) -> Body:
    return {
        "id": f"msg_{reply.id}",
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "stop_details": _stop_details(reply) if reason else None,
        "usage": _usage(reply),
    }


def _tool_use(reply: Reply, arguments: Body) -> Body:
    return {"type": "tool_use", "id": f"toolu_{reply.id}", "name": reply.tool, "input": arguments}


def _stop_reason(reply: Reply) -> str:
    ends = {Fault.LENGTH: "max_tokens", Fault.REFUSAL: "refusal"}
    return ends.get(reply.fault, "tool_use" if reply.tool else "end_turn")


def _stop_details(reply: Reply) -> Body | None:
    if reply.fault is not Fault.REFUSAL:
        return None
    return {"type": "refusal", "category": "general_harms", "explanation": "The request was declined."}


def _usage(reply: Reply) -> Body:
    return {
        "input_tokens": reply.prompt_tokens,
        "output_tokens": reply.output_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }


def _model(name: str) -> Body:
    return {
        "type": "model",
        "id": name,
        "display_name": name.title(),
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
    }
