"""A stand-in of OpenAI's API: chat completions, images and models, faults included.

::

    with OpenAIStandIn() as openai:
        openai.url, openai.key                           # for OPENAI_BASE_URL (ends in /v1) and OPENAI_API_KEY
        openai.fail("refusal", task="ProductDetail")     # see tests/standins/chat.py for queues, faults and books
        openai.fail("image_refused", task=IMAGES)
        openai.images[-1]["prompt"], openai.photos[-1]   # the books of images

Shapes after https://platform.openai.com/docs/api-reference; what a strict schema may hold after
https://platform.openai.com/docs/guides/structured-outputs#supported-schemas.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aiohttp import web

from tests.standins.answers import subschemas, text_of
from tests.standins.chat import Body, Fault
from tests.standins.openai_images import OpenAIImages, error
from tests.standins.rented import MODELS, Refusal, Reply, sse

__all__ = ["KEY", "OpenAIStandIn"]

KEY = "sk-test-openai-0123456789abcdef"
DECLINED = "I'm sorry, but I can't help with that request."

_SUPPORTED = """
    type properties required additionalProperties items enum const anyOf $ref $defs definitions title description
    pattern format multipleOf maximum exclusiveMaximum minimum exclusiveMinimum minItems maxItems
"""
_KEYWORDS = frozenset(_SUPPORTED.split())
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})


_SPENT = "You exceeded your current quota, please check your plan and billing details."
_TOO_LONG = (
    "This model's maximum context length is {limit} tokens. However, your messages resulted in {count} tokens. "
    "Please reduce the length of the messages."
)
_REFUSALS: Mapping[Fault, Refusal] = {
    Fault.STATUS_400: (400, error("Invalid value for 'temperature'.", param="temperature", code="invalid_value")),
    Fault.STATUS_401: (401, error("Incorrect API key provided: sk-te******cdef.", code="invalid_api_key")),
    Fault.STATUS_403: (
        403,
        error(
            "Country, region, or territory not supported",
            "request_forbidden",
            code="unsupported_country_region_territory",
        ),
    ),
    Fault.STATUS_404: (404, error("The model does not exist or you do not have access.", code="model_not_found")),
    Fault.STATUS_429: (429, error("Rate limit reached for requests.", "requests", code="rate_limit_exceeded")),
    Fault.STATUS_500: (500, error("The server had an error while processing your request.", "server_error")),
    Fault.STATUS_503: (503, error("The engine is currently overloaded, please try again later.", "server_error")),
    Fault.QUOTA: (429, error(_SPENT, "insufficient_quota", code="insufficient_quota")),
    Fault.CONTEXT_LENGTH: (
        400,
        error(_TOO_LONG.format(limit=128000, count=130512), param="messages", code="context_length_exceeded"),
    ),
    Fault.IMAGE_REFUSED: (
        400,
        error(
            "Your request was rejected by the safety system.", "image_generation_user_error", None, "moderation_blocked"
        ),
    ),
    Fault.IMAGE_PROHIBITED: (
        400,
        error(
            "This request may contain text that is not allowed by our safety system.", code="content_policy_violation"
        ),
    ),
}


class OpenAIStandIn(OpenAIImages):
    """OpenAI without a model; the routes of images are in :class:`OpenAIImages`."""

    faults = frozenset(Fault) - {Fault.REFUSAL_PROMPT}
    id_header = "x-request-id"

    def __init__(self, models: Iterable[str] = MODELS, *, key: str = KEY) -> None:
        super().__init__(key, models)
        self.app.add_routes(
            [
                web.post("/v1/chat/completions", self._completions),
                web.get("/v1/models", self._list),
                web.get("/v1/models/{name:.+}", self._one),
            ]
        )

    @property
    def url(self) -> str:
        return super().url + "/v1"

    # -- what is asked -------------------------------------------------------------------------------------------------

    def schema_of(self, body: Body) -> Mapping[str, Any] | None:
        form = body.get("response_format") or {}
        if form.get("type") == "json_schema":
            named: Mapping[str, Any] = {"title": form["json_schema"].get("name", "")}
            return {**named, **form["json_schema"].get("schema", {})}
        if form.get("type") == "json_object":
            return {"type": "object", "properties": {"answer": {"type": "string"}}}
        tool = self.tool_of(body)
        return {"title": tool[0], **tool[1]} if tool else None

    def tool_of(self, body: Body) -> tuple[str, Mapping[str, Any]] | None:
        choice = body.get("tool_choice", "auto")
        answered = (body.get("messages") or [{}])[-1].get("role") == "tool"
        if not body.get("tools") or choice == "none" or (answered and choice == "auto"):
            return None
        functions = [tool["function"] for tool in body["tools"]]
        wanted = choice["function"]["name"] if isinstance(choice, dict) else functions[0]["name"]
        chosen = next(function for function in functions if function["name"] == wanted)
        return wanted, chosen.get("parameters") or {"type": "object"}

    # -- what is refused -----------------------------------------------------------------------------------------------

    def refusals(self, fault: Fault) -> Refusal | None:
        return _REFUSALS.get(fault)

    def objection(self, request: web.Request, body: Body) -> Refusal | None:
        return self.stranger(request) or self.unknown_model(body) or self._bad_chat(body)

    def _bad_chat(self, body: Body) -> Refusal | None:
        if not body.get("messages"):
            words = "Missing required parameter: 'messages'."
            return 400, error(words, param="messages", code="missing_required_parameter")
        count = self.prompt_tokens(body)
        if count > self.max_prompt_tokens:
            words = _TOO_LONG.format(limit=self.max_prompt_tokens, count=count)
            return 400, error(words, param="messages", code="context_length_exceeded")
        return _bad_format(body) or _bad_tools(body)

    # -- what is answered ----------------------------------------------------------------------------------------------

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        return await self.serve(request, body, stream=bool(body.get("stream")))

    def opening(self, reply: Reply) -> Iterator[bytes]:
        first: Body = {"role": "assistant", "content": None if reply.tool else "", "refusal": None}
        if reply.tool:
            function = {"name": reply.tool, "arguments": ""}
            first["tool_calls"] = [{"index": 0, "id": f"call_{reply.id}", "type": "function", "function": function}]
        yield _chunk(reply, first)

    def piece(self, reply: Reply, text: str) -> bytes:
        if reply.tool:
            return _chunk(reply, {"tool_calls": [{"index": 0, "function": {"arguments": text}}]})
        return _chunk(reply, {"content": text})

    def closing(self, reply: Reply) -> Iterator[bytes]:
        if reply.fault is Fault.REFUSAL:
            yield from (_chunk(reply, {"refusal": text}) for text in (DECLINED[:20], DECLINED[20:]))
        yield _chunk(reply, {}, _finish_reason(reply))
        if (reply.body.get("stream_options") or {}).get("include_usage"):
            yield sse({**_head(reply, "chat.completion.chunk"), "choices": [], "usage": _usage(reply)})
        yield sse("[DONE]")

    def error_event(self) -> bytes:
        return sse(_REFUSALS[Fault.STATUS_500][1])

    def whole(self, reply: Reply) -> Body:
        refused = reply.fault is Fault.REFUSAL
        message: Body = {"role": "assistant", "content": reply.text, "refusal": None}
        if refused:
            message |= {"content": None, "refusal": DECLINED}
        elif reply.tool:
            function = {"name": reply.tool, "arguments": reply.text}
            call = {"id": f"call_{reply.id}", "type": "function", "function": function}
            message |= {"content": None, "tool_calls": [call]}
        reason = None if reply.fault is Fault.NO_DONE else _finish_reason(reply)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {**_head(reply, "chat.completion"), "choices": [choice], "usage": _usage(reply)}

    async def _list(self, request: web.Request) -> web.Response:
        refusal = self.stranger(request)
        if refusal is not None:
            return self.refuse(refusal)
        return web.json_response({"object": "list", "data": [_model(name) for name in self.models]})

    async def _one(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        refusal = self.stranger(request) or self.unknown_model({"model": name})
        return web.json_response(_model(name)) if refusal is None else self.refuse(refusal)


# -- checks of a request -----------------------------------------------------------------------------------------------


def _bad_format(body: Body) -> Refusal | None:
    form = body.get("response_format") or {"type": "text"}
    if form.get("type") == "json_object" and "json" not in "".join(map(text_of, body["messages"])).lower():
        words = "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
        return 400, error(words, param="messages")
    if form.get("type") != "json_schema":
        return None
    asked = form.get("json_schema") or {}
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", asked.get("name", "")):
        words = "Invalid 'response_format.json_schema.name': string does not match pattern '^[a-zA-Z0-9_-]+$'."
        return 400, error(words, param="response_format.json_schema.name", code="invalid_value")
    fault = strict_fault(asked.get("schema") or {}) if asked.get("strict") else None
    words = f"Invalid schema for response_format '{asked['name']}': {fault}"
    return (400, error(words, param="response_format")) if fault else None


def _bad_tools(body: Body) -> Refusal | None:
    for place, tool in enumerate(body.get("tools") or ()):
        function = tool["function"]
        fault = strict_fault(function.get("parameters") or {}) if function.get("strict") else None
        if fault:
            words = f"Invalid schema for function '{function['name']}': {fault}"
            param = f"tools[{place}].function.parameters"
            return 400, error(words, param=param, code="invalid_function_parameters")
    return None


def strict_fault(schema: Mapping[str, Any]) -> str | None:
    """What a schema of ``strict: true`` is refused for; None where it is well."""
    if schema.get("type") != "object" or "anyOf" in schema:
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{schema.get('type')}\"'."
    for path, part in subschemas(schema):
        fault = _part_fault(part)
        if fault:
            return f"In context={path}, {fault}"
    return None


def _part_fault(part: Mapping[str, Any]) -> str | None:
    unknown = sorted(set(part) - _KEYWORDS)
    if unknown:
        return f"'{unknown[0]}' is not permitted."
    if "$ref" in part and len(set(part) - {"$defs", "definitions"}) > 1:
        return f"$ref cannot have keywords {set(part) - {'$ref'}}."
    if part.get("format", "date") not in _FORMATS:
        return f"'{part['format']}' is not a valid format."
    if part.get("type") == "object" and part.get("additionalProperties") is not False:
        return "'additionalProperties' is required to be supplied and to be false."
    missing = [key for key in part.get("properties", {}) if key not in part.get("required", ())]
    if missing:
        rule = "'required' is required to be supplied and to be an array including every key in properties."
        return f"{rule} Missing '{missing[0]}'."
    if not {"type", "enum", "const", "anyOf", "$ref"} & set(part):
        return "schema must have a 'type' key."
    return None


# -- shapes of an answer -----------------------------------------------------------------------------------------------


def _head(reply: Reply, kind: str) -> Body:
    created = int(time.time())
    return {"id": f"chatcmpl-{reply.id}", "object": kind, "created": created, "model": reply.model}


def _chunk(reply: Reply, delta: Body, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    usage: Body = {"usage": None} if (reply.body.get("stream_options") or {}).get("include_usage") else {}
    return sse({**_head(reply, "chat.completion.chunk"), "choices": [choice], **usage})


def _finish_reason(reply: Reply) -> str:
    ends = {Fault.LENGTH: "length", Fault.CONTENT_FILTER: "content_filter", Fault.REFUSAL: "stop"}
    return ends.get(reply.fault, "tool_calls" if reply.tool else "stop")


def _usage(reply: Reply) -> Body:
    return {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.prompt_tokens + reply.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _model(name: str) -> Body:
    return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "system"}
