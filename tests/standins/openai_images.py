"""The half of OpenAI's stand-in that draws: ``POST /v1/images/generations`` and ``/v1/images/edits``."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable
from typing import Any

from aiohttp import web
from aiohttp.web_request import FileField

from tests.standins.chat import Body, Fault
from tests.standins.pictures import GREEN, drawn, mean_colour, picture_format
from tests.standins.rented import IMAGES, Refusal, RentedStandIn

__all__ = ["OpenAIImages", "error"]

SIZES = ("1024x1024", "1536x1024", "1024x1536", "auto")
MIME_TYPES = ("image/jpeg", "image/png", "image/webp")

_BOTH = {"model", "prompt", "n", "size", "quality", "user", "image", "mask"}
_GPT_IMAGE = _BOTH | {
    "background",
    "moderation",
    "output_format",
    "output_compression",
    "safety_identifier",
    "input_fidelity",
}
_DALL_E = _BOTH | {"style", "response_format"}
_QUALITIES = {True: ("low", "medium", "high", "auto"), False: ("standard", "hd")}


def error(message: str, kind: str = "invalid_request_error", param: str | None = None, code: str | None = None) -> Body:
    """The body of OpenAI's errors."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


class OpenAIImages(RentedStandIn):
    """The half of OpenAI's stand-in that draws.

    Attributes:
        image_sizes: sizes that are let through; None for any of sides divisible by 16, 1:3 to 3:1.
        images_always_b64: as GPT Image models do; False is the way of the retired DALL-E models, which answer a URL
            unless ``response_format`` asks otherwise, and know other parameters.
        images: bodies of the calls for an image, form fields of an edit included.
        photos: the files that edits brought.
    """

    def __init__(self, key: str, models: Iterable[str]) -> None:
        super().__init__(key, models)
        self.image_sizes: set[str] | None = set(SIZES)
        self.images_always_b64 = True
        self.images: list[Body] = []
        self.photos: list[bytes] = []
        self._drawn: list[bytes] = []
        self.app.add_routes(
            [
                web.post("/v1/images/generations", self._generations),
                web.post("/v1/images/edits", self._edits),
                web.get("/files/{place}", self._file),
            ]
        )

    def forget(self) -> None:
        super().forget()
        self.images.clear()
        self.photos.clear()

    def stranger(self, request: web.Request) -> Refusal | None:
        """The error for who brings no key or a wrong one."""
        given = request.headers.get("Authorization", "")
        if given == f"Bearer {self.key}":
            return None
        if not given:
            return 401, error("You didn't provide an API key. You need to provide it in an Authorization header.")
        return 401, error("Incorrect API key provided: sk-wr******.", code="invalid_api_key")

    def unknown_model(self, body: Body) -> Refusal | None:
        model = body.get("model")
        if not model:
            return 400, error("you must provide a model parameter")
        if model not in self.models:
            words = f"The model `{model}` does not exist or you do not have access to it."
            return 404, error(words, code="model_not_found")
        return None

    async def _generations(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.images.append(body)
        return await self._draw(request, body, None)

    async def _edits(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        body: Body = {name: value for name, value in form.items() if isinstance(value, str)}
        files = [value for value in form.values() if isinstance(value, FileField)]
        self.images.append(body)
        photos = [file.file.read() for file in files]
        self.photos += photos
        return await self._draw(request, body, _bad_files(files, photos), photos)

    async def _draw(
        self, request: web.Request, body: Body, objection: Refusal | None, photos: list[bytes] | None = None
    ) -> web.StreamResponse:
        refusal = self.stranger(request) or self.unknown_model(body) or objection or self._bad_image_call(body)
        if refusal is not None:
            return self.refuse(refusal)
        fault = Fault(self.next_fault(IMAGES))
        met = await self.meet(request, fault)
        if met is not None:
            return met
        width, height = (1024, 1024) if body.get("size", "auto") == "auto" else map(int, body["size"].split("x"))
        form = body.get("output_format", "png")
        colour = mean_colour(photos[0]) if photos else GREEN
        picture = drawn(width, height, colour=colour, form=form.upper())
        data = picture[: len(picture) // 2] if fault is Fault.BROKEN_IMAGE else picture
        count = 0 if fault is Fault.NO_IMAGE else int(body.get("n", 1))
        entries = [self._entry(body, data) for _ in range(count)]
        answer = _answer(body, entries, f"{width}x{height}", form, self.prompt_tokens({"system": body["prompt"]}))
        return await self.send(request, json.dumps(answer).encode(), fault)

    def _entry(self, body: Body, data: bytes) -> Body:
        if self.images_always_b64 or body.get("response_format") == "b64_json":
            return {"b64_json": base64.b64encode(data).decode()}
        self._drawn.append(data)
        return {"url": f"http://127.0.0.1:{self.port}/files/{len(self._drawn) - 1}", "revised_prompt": body["prompt"]}

    async def _file(self, request: web.Request) -> web.Response:
        return web.Response(body=self._drawn[int(request.match_info["place"])], content_type="image/png")

    def _bad_image_call(self, body: Body) -> Refusal | None:
        if not body.get("prompt"):
            return 400, error(
                "Missing required parameter: 'prompt'.", param="prompt", code="missing_required_parameter"
            )
        unknown = sorted(set(body) - (_GPT_IMAGE if self.images_always_b64 else _DALL_E))
        if unknown:
            return 400, error(f"Unknown parameter: '{unknown[0]}'.", param=unknown[0], code="unknown_parameter")
        qualities = _QUALITIES[self.images_always_b64]
        if body.get("quality", qualities[0]) not in qualities:
            return 400, _bad_value("quality", body["quality"], qualities)
        if not self._size_fits(body.get("size", "auto" if self.images_always_b64 else "1024x1024")):
            return 400, _bad_value("size", body["size"], sorted(self.image_sizes or ("WIDTHxHEIGHT",)))
        return None

    def _size_fits(self, size: str) -> bool:
        if self.image_sizes is not None or size == "auto":
            return self.image_sizes is None or size in self.image_sizes
        width, _, height = size.partition("x")
        if not (width.isdigit() and height.isdigit()):
            return False
        sides = sorted((int(width), int(height)))
        return all(side and side % 16 == 0 for side in sides) and sides[1] <= 3 * sides[0]


def _bad_value(name: str, value: Any, known: Iterable[str]) -> Body:
    listed = ", ".join(f"'{word}'" for word in known)
    words = f"Invalid value: '{value}'. Supported values are: {listed}."
    return error(words, param=name, code="invalid_value")


def _bad_files(files: list[FileField], photos: list[bytes]) -> Refusal | None:
    if not any(file.name.removesuffix("[]") == "image" for file in files):
        return 400, error("Missing required parameter: 'image'.", param="image", code="missing_required_parameter")
    for file, photo in zip(files, photos, strict=True):
        if file.content_type not in MIME_TYPES:
            words = f"Invalid file '{file.name}': unsupported mimetype ('{file.content_type}')."
            return 400, error(words, param=file.name, code="unsupported_file_mimetype")
        if picture_format(photo) is None:
            words = "Invalid image file or mode for image 1, please check your image file."
            return 400, error(words, "image_generation_user_error", code="invalid_image_file")
    return None


def _answer(body: Body, entries: list[Body], size: str, form: str, prompt_tokens: int) -> Body:
    if any("url" in entry for entry in entries) or "response_format" in body:
        return {"created": int(time.time()), "data": entries}
    usage = {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"text_tokens": prompt_tokens, "image_tokens": 0},
        "output_tokens": 1056 * len(entries),
        "total_tokens": prompt_tokens + 1056 * len(entries),
    }
    return {
        "created": int(time.time()),
        "background": "opaque",
        "output_format": form,
        "quality": "medium",
        "size": size,
        "data": entries,
        "usage": usage,
    }
