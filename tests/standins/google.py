"""A stand-in of Google's Gemini API: contents, images and models, faults included.

::

    with GoogleStandIn() as google:
        google.url, google.key                           # base address (without /v1beta) and key
        google.fail("refusal_prompt")                    # see tests/standins/chat.py for queues, faults and books
        google.chats[-1]["model"]                        # a body, with the model of its path put in
        google.fail("image_refused", task=IMAGES)
        google.images[-1]["contents"], google.photos[-1] # the books of images

Shapes after https://ai.google.dev/api/generate-content; errors after https://ai.google.dev/gemini-api/docs/troubleshooting
and the error model of https://cloud.google.com/apis/design/errors.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aiohttp import web

from tests.standins.chat import Body, Fault
from tests.standins.google_checks import bad_request, error
from tests.standins.pictures import GREEN, drawn, mean_colour, picture_size
from tests.standins.rented import IMAGES, MODELS, Refusal, RentedStandIn, Reply, sse

__all__ = ["KEY", "RATIOS", "GoogleStandIn"]

KEY = "AIzaTest-0123456789abcdef"

RATIOS: Mapping[str, tuple[int, int]] = {
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:2": (1248, 832),
    "3:4": (864, 1184),
    "4:3": (1184, 864),
    "4:5": (896, 1152),
    "5:4": (1152, 896),
    "9:16": (768, 1344),
    "16:9": (1344, 768),
    "21:9": (1536, 672),
}
"""Aspect ratio -> width and height in pixels of the size 1K, after https://ai.google.dev/gemini-api/docs/image-generation."""
SCALES = {"1K": 1, "2K": 2, "4K": 4}

_ENDS = {
    Fault.LENGTH: "MAX_TOKENS",
    Fault.REFUSAL: "SAFETY",
    Fault.CONTENT_FILTER: "PROHIBITED_CONTENT",
    Fault.IMAGE_REFUSED: "IMAGE_SAFETY",
    Fault.IMAGE_PROHIBITED: "PROHIBITED_CONTENT",
}


class GoogleStandIn(RentedStandIn):
    """Gemini without a model.

    Attributes:
        images: bodies of the calls for an image; they are in no other book.
        photos: the pictures that any call brought.
    """

    faults = frozenset(Fault)
    id_header = "x-request-id"
    streams_arguments = False

    def __init__(self, models: Iterable[str] = MODELS, *, key: str = KEY) -> None:
        super().__init__(key, models)
        self.images: list[Body] = []
        self.photos: list[bytes] = []
        self.app.add_routes(
            [
                web.post("/v1beta/models/{name:[^/:]+}:{method}", self._generate),
                web.get("/v1beta/models", self._list),
                web.get("/v1beta/models/{name}", self._one),
            ]
        )

    def forget(self) -> None:
        super().forget()
        self.images.clear()
        self.photos.clear()

    # -- what is asked -------------------------------------------------------------------------------------------------

    def schema_of(self, body: Body) -> Mapping[str, Any] | None:
        config = body.get("generationConfig") or {}
        schema: Mapping[str, Any] | None = config.get("responseJsonSchema") or config.get("responseSchema")
        if schema:
            return schema
        tool = self.tool_of(body)
        return {"title": tool[0], **tool[1]} if tool else None

    def tool_of(self, body: Body) -> tuple[str, Mapping[str, Any]] | None:
        choice = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
        answered = any("functionResponse" in part for part in (body.get("contents") or [{}])[-1].get("parts", ()))
        functions = [function for tool in body.get("tools") or () for function in tool.get("functionDeclarations", ())]
        mode = choice.get("mode", "AUTO")
        if not functions or mode == "NONE" or (answered and mode == "AUTO"):
            return None
        wanted = (choice.get("allowedFunctionNames") or [functions[0]["name"]])[0]
        chosen = next(function for function in functions if function["name"] == wanted)
        return wanted, chosen.get("parametersJsonSchema") or chosen.get("parameters") or {"type": "object"}

    # -- what is refused -----------------------------------------------------------------------------------------------

    def refusals(self, fault: Fault) -> Refusal | None:
        return _refusals(self.retry_after).get(fault)

    def retry_headers(self, status: int) -> dict[str, str]:
        return {}  # Google tells it in the body

    def objection(self, request: web.Request, body: Body) -> Refusal | None:
        return (
            self._stranger(request) or self._unknown_model(body["model"]) or self._too_long(body) or bad_request(body)
        )

    def _stranger(self, request: web.Request) -> Refusal | None:
        given = request.headers.get("x-goog-api-key") or request.query.get("key")
        if given is None:
            words = "Method doesn't allow unregistered callers (callers without established identity)."
            return error(403, words, "PERMISSION_DENIED")
        return None if given == self.key else _WRONG_KEY

    def _unknown_model(self, name: str) -> Refusal | None:
        if name in self.models:
            return None
        words = f"models/{name} is not found for API version v1beta, or is not supported for generateContent."
        return error(404, words, "NOT_FOUND")

    def _too_long(self, body: Body) -> Refusal | None:
        count = self.prompt_tokens(body)
        return _too_many(count, self.max_prompt_tokens) if count > self.max_prompt_tokens else None

    # -- what is answered ----------------------------------------------------------------------------------------------

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body: Body = {"model": request.match_info["name"], **await request.json()}
        method = request.match_info["method"]
        if method not in ("generateContent", "streamGenerateContent"):
            return self.refuse(error(404, f"unknown method {method}", "NOT_FOUND"))
        photos = list(_photos(body))
        self.photos += photos
        stream = method == "streamGenerateContent"
        modalities = (body.get("generationConfig") or {}).get("responseModalities") or ()
        if "IMAGE" in map(str.upper, modalities):
            return await self._draw(request, body, photos, stream=stream)
        return await self.serve(request, body, stream=stream)

    def piece(self, reply: Reply, text: str) -> bytes:
        return sse(_chunk(reply, [_part(reply, text)]))

    def closing(self, reply: Reply) -> Iterator[bytes]:
        yield sse(self.whole(reply) if not _has_content(reply) else _chunk(reply, [{"text": ""}], _end(reply)))

    def error_event(self) -> bytes:
        """Not as an event: Google breaks a stream off with an indented object on lines of its own."""
        return json.dumps(_refusals(None)[Fault.STATUS_503][1], indent=2).encode() + b"\n"

    def whole(self, reply: Reply) -> Body:
        if reply.fault is Fault.REFUSAL_PROMPT:
            return _head(reply) | {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}
        parts = [_part(reply, reply.text)] if _has_content(reply) else []
        return _chunk(reply, parts, None if reply.fault is Fault.NO_DONE else _end(reply))

    async def _list(self, request: web.Request) -> web.Response:
        refusal = self._stranger(request)
        if refusal is not None:
            return self.refuse(refusal)
        return web.json_response({"models": [_model(name) for name in self.models]})

    async def _one(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        refusal = self._stranger(request) or self._unknown_model(name)
        return web.json_response(_model(name)) if refusal is None else self.refuse(refusal)

    # -- images --------------------------------------------------------------------------------------------------------

    async def _draw(self, request: web.Request, body: Body, photos: list[bytes], *, stream: bool) -> web.StreamResponse:
        self.images.append(body)
        objection = self.objection(request, body) or _bad_image_config(body)
        if objection is not None:
            return self.refuse(objection)
        fault = Fault(self.next_fault(IMAGES))
        met = await self.meet(request, fault)
        if met is not None:
            return met
        reply = Reply(self.next_id(""), body, fault, "", [], None, self.prompt_tokens(body))
        answer = (
            self.whole(reply) if fault is Fault.REFUSAL_PROMPT else _chunk(reply, _drawn(reply, photos), _end(reply))
        )
        if stream:
            return web.Response(body=sse(answer), content_type="text/event-stream")
        return await self.send(request, json.dumps(answer).encode(), fault)


def _photos(body: Body) -> Iterator[bytes]:
    for turn in body.get("contents") or ():
        for part in turn.get("parts", ()):
            if "inlineData" in part:
                # as Google's JSON does, both alphabets are read: the SDK sends the one for URLs
                yield base64.b64decode(part["inlineData"]["data"].replace("-", "+").replace("_", "/"), validate=True)


def _bad_image_config(body: Body) -> Refusal | None:
    config = body["generationConfig"].get("imageConfig") or {}
    if config.get("aspectRatio", "1:1") not in RATIOS:
        return error(400, f"aspect_ratio must be one of {', '.join(RATIOS)}.", "INVALID_ARGUMENT")
    if config.get("imageSize", "1K") not in SCALES:
        return error(400, f"image_size must be one of {', '.join(SCALES)}.", "INVALID_ARGUMENT")
    return None


def _drawn(reply: Reply, photos: list[bytes]) -> list[Body]:
    """The parts of an answer with a picture."""
    if reply.fault in _ENDS:
        return []
    if reply.fault is Fault.NO_IMAGE:
        return [{"text": "Here is how the picture might look."}]
    config = reply.body["generationConfig"].get("imageConfig") or {}
    width, height = RATIOS[config.get("aspectRatio") or _nearest_ratio(photos)]
    scale = SCALES[config.get("imageSize", "1K")]
    picture = drawn(width * scale, height * scale, colour=mean_colour(photos[0]) if photos else GREEN)
    data = picture[: len(picture) // 2] if reply.fault is Fault.BROKEN_IMAGE else picture
    return [{"inlineData": {"mimeType": "image/png", "data": base64.b64encode(data).decode()}}]


def _nearest_ratio(photos: list[bytes]) -> str:
    """Of the first photo; a square where there is none."""
    width, height = picture_size(photos[0]) if photos else (1, 1)
    return min(RATIOS, key=lambda name: abs(RATIOS[name][0] / RATIOS[name][1] - width / height))


# -- errors ------------------------------------------------------------------------------------------------------------

_TYPES = "type.googleapis.com/google.rpc."
_WRONG_KEY = error(
    400,
    "API key not valid. Please pass a valid API key.",
    "INVALID_ARGUMENT",
    {
        "@type": f"{_TYPES}ErrorInfo",
        "reason": "API_KEY_INVALID",
        "domain": "googleapis.com",
        "metadata": {"service": "generativelanguage.googleapis.com"},
    },
)


def _too_many(count: int, limit: int) -> Refusal:
    words = f"The input token count ({count}) exceeds the maximum number of tokens allowed ({limit})."
    return error(400, words, "INVALID_ARGUMENT")


def _exhausted(quota: str, retry_after: str | None) -> Refusal:
    violation = {"quotaMetric": "generativelanguage.googleapis.com/generate_content_requests", "quotaId": quota}
    details: list[Body] = [{"@type": f"{_TYPES}QuotaFailure", "violations": [violation]}]
    if retry_after is not None:
        details.append({"@type": f"{_TYPES}RetryInfo", "retryDelay": f"{retry_after}s"})
    words = "You exceeded your current quota, please check your plan and billing details."
    return error(429, words, "RESOURCE_EXHAUSTED", *details)


def _refusals(retry_after: str | None) -> Mapping[Fault, Refusal]:
    return {
        Fault.STATUS_400: error(400, "Request contains an invalid argument.", "INVALID_ARGUMENT"),
        Fault.STATUS_401: _WRONG_KEY,
        Fault.STATUS_403: error(403, "The caller does not have permission", "PERMISSION_DENIED"),
        Fault.STATUS_404: error(404, "models/test-gone is not found for API version v1beta.", "NOT_FOUND"),
        Fault.STATUS_429: _exhausted("GenerateRequestsPerMinutePerProjectPerModel", retry_after),
        Fault.STATUS_500: error(500, "An internal error has occurred. Please retry.", "INTERNAL"),
        Fault.STATUS_503: error(503, "The model is overloaded. Please try again later.", "UNAVAILABLE"),
        Fault.QUOTA: _exhausted("GenerateRequestsPerDayPerProjectPerModel-FreeTier", None),
        Fault.CONTEXT_LENGTH: _too_many(1_200_000, 1_048_576),
    }


# -- shapes of an answer -----------------------------------------------------------------------------------------------


def _has_content(reply: Reply) -> bool:
    return bool(reply.pieces) and reply.fault not in (Fault.REFUSAL, Fault.REFUSAL_PROMPT)


def _head(reply: Reply) -> Body:
    usage = {
        "promptTokenCount": reply.prompt_tokens,
        "candidatesTokenCount": reply.output_tokens,
        "totalTokenCount": reply.prompt_tokens + reply.output_tokens,
    }
    return {"usageMetadata": usage, "modelVersion": reply.model, "responseId": f"resp-{reply.id}"}


def _chunk(reply: Reply, parts: list[Body], end: str | None = None) -> Body:
    content: Body = {"content": {"parts": parts, "role": "model"}} if parts else {}
    ended: Body = {"finishReason": end} if end else {}
    return {"candidates": [{**content, **ended, "index": 0}], **_head(reply)}


def _part(reply: Reply, text: str) -> Body:
    return {"functionCall": {"name": reply.tool, "args": reply.arguments()}} if reply.tool else {"text": text}


def _end(reply: Reply) -> str:
    return _ENDS.get(reply.fault, "STOP")


def _model(name: str) -> Body:
    return {
        "name": f"models/{name}",
        "version": "001",
        "displayName": name.title(),
        "inputTokenLimit": 1_048_576,
        "outputTokenLimit": 65_536,
        "supportedGenerationMethods": ["generateContent", "countTokens"],
    }
