"""The OpenAPI description: what FastAPI reads off the routes, and what it cannot know of them.

That is the key that callers need, HEAD, the headers of the answers, and an example of each answer, error and parameter;
those stand in examples.json beside this file, as a mock server once told them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from starlette.routing import compile_path

__all__ = ["allowed", "describe"]

_ABOUT = """\
Every failure is `{"error": {code, message, hint, request_id}}`. Each answer has an `X-Request-ID`, which is the
request's where that had one. Every GET can be asked as HEAD. Where the server has keys (SPARKLIO_API_KEYS), each
endpoint but `/health` and `/ready` wants one; where it has none, it hears its own machine only."""
_BEARER = {"type": "http", "scheme": "bearer", "description": "One of the server's SPARKLIO_API_KEYS."}
_NO_KEY = {"alive", "ready"}
_WITH_HEAD = {"get_image"}
_REPLAYED = "Idempotency-Replayed"
_HEADERS = {
    "X-Request-ID": "Names the request, in the server's log too.",
    _REPLAYED: "`true`: the answer was given before, to a request of this Idempotency-Key.",
    "Location": "Root-relative address of what was made.",
    "ETag": "Of the bytes, for If-None-Match.",
    "Allow": "The methods that there are.",
    "Retry-After": "Seconds after which to try again.",
    "WWW-Authenticate": "`Bearer`",
}
_BY_STATUS = {
    "201": ("Location",),
    "202": ("Location",),
    "304": ("ETag",),
    "401": ("WWW-Authenticate",),
    "405": ("Allow",),
    "429": ("Retry-After",),
    "503": ("Retry-After",),
}
_LINKS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("upload_photo", "201"): {"operationId": "get_image", "parameters": {"image_id": "$response.body#/photo"}},
    ("generate_image", "200"): {"operationId": "get_image", "parameters": {"image_id": "$response.body#/images/0/id"}},
    ("generate_image", "202"): {"operationId": "get_job", "parameters": {"job_id": "$response.body#/job_id"}},
    ("start_run", "202"): {"operationId": "follow_run", "parameters": {"run_id": "$response.body#/run_id"}},
}
"""Where an answer leads to."""


def describe(app: FastAPI) -> None:
    """Have ``app.openapi()``, and with it ``/openapi.json``, tell all of it."""
    read_off = app.openapi

    @cache
    def openapi() -> dict[str, Any]:
        return _completed(read_off())

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way, see "Extending OpenAPI"


def allowed(app: FastAPI, path: str) -> str:
    """The methods at ``path``, for ``Allow``; Starlette's own answer knows of one route at a path alone."""
    paths = app.openapi()["paths"].items()
    found = {method.upper() for known, methods in paths if compile_path(known)[0].match(path) for method in methods}
    return ", ".join(sorted(found | ({"HEAD"} if "GET" in found else set())))


def _completed(openapi: dict[str, Any]) -> dict[str, Any]:
    told = json.loads((files("sparklio.server") / "examples.json").read_text(encoding="utf-8"))
    openapi["info"]["description"] = _ABOUT
    components = openapi["components"]
    components["securitySchemes"] = {"bearer": _BEARER}
    components["headers"] = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()
    }
    openapi["security"] = [{"bearer": []}]
    for operation in _operations(openapi):
        _complete(operation, told)
    for methods in openapi["paths"].values():
        if (asked := methods.get("get", {}).get("operationId")) in _WITH_HEAD:
            methods["head"] = _bodiless(methods["get"], f"{asked}_head")
    return openapi


def _operations(openapi: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for methods in openapi["paths"].values():
        yield from methods.values()


def _complete(operation: dict[str, Any], told: Mapping[str, Any]) -> None:
    name, responses, known = operation["operationId"], operation["responses"], told["parameters"]
    if name in _NO_KEY:
        operation["security"] = []
        del responses["401"]
    for parameter in operation.get("parameters", ()):
        if (key := parameter["name"].lower()) in known:
            parameter["example"] = known[key]
    for status, response in responses.items():
        response["headers"] = {
            header: {"$ref": f"#/components/headers/{header}"} for header in _sent(operation, status)
        }
        if link := _LINKS.get((name, status)):
            response["links"] = {link["operationId"]: link}
        examples = told["answers"].get(name, {}).get(status) or {"application/json": told["errors"].get(status)}
        for media_type, content in response.get("content", {}).items():
            if examples.get(media_type) is not None:
                content["example"] = examples[media_type]


def _sent(operation: Mapping[str, Any], status: str) -> list[str]:
    """The headers of an answer."""
    headers = ["X-Request-ID", *_BY_STATUS.get(status, ())]
    if status == "200" and "304" in operation["responses"]:
        headers.append("ETag")
    if status < "300" and any(one["name"] == "Idempotency-Key" for one in operation.get("parameters", ())):
        headers.append(_REPLAYED)
    return headers


def _bodiless(asked: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The same answers, without their bodies."""
    head = deepcopy(dict(asked))
    for response in head["responses"].values():
        response.pop("content", None)
    return {**head, "operationId": name, "summary": f"{asked['summary']}: the headers alone"}
