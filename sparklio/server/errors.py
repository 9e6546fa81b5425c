"""One form for every failure: ``{"error": {code, message, hint, request_id, ...}}`` with a status by its kind."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from providers.errors import (
    AttemptTimeoutError,
    BrokerError,
    BudgetError,
    ConfigError,
    ConflictError,
    DeadlineError,
    InputError,
    NoWorkerError,
    OverloadedError,
    ProviderError,
    QueueFullError,
    RunBusyError,
    RunExistsError,
    RunUnfinishedError,
    SparklioError,
    UnauthorizedError,
    UnknownNameError,
    UsageError,
    WorkerTimeLimitError,
)
from routing.logs import masked_description
from sparklio.server.described import allowed

__all__ = [
    "ERROR_ANSWERS",
    "ErrorBody",
    "add_error_handlers",
    "error_response",
    "plain_error",
    "status_of",
    "without_folder",
]

log = logging.getLogger(__name__)

_STATUSES: tuple[tuple[type[SparklioError], int], ...] = (
    (InputError, 422),
    (ConfigError, 503),
    (RunExistsError, 409),
    (RunUnfinishedError, 409),
    (ConflictError, 409),
    (UsageError, 400),
    (UnauthorizedError, 401),
    (BudgetError, 402),
    (RunBusyError, 409),
    (QueueFullError, 429),
    (NoWorkerError, 503),
    (BrokerError, 503),
    (OverloadedError, 503),
    (WorkerTimeLimitError, 504),
    (DeadlineError, 504),
    (AttemptTimeoutError, 504),
    (ProviderError, 502),
)
"""The first class that fits decides; what fits none is a defect or a failing disk, 500."""

_THINGS = {"run", "workflow", "image", "job", "photo", "provider"}
"""Unknown ones of these are 404: the request was right, and the thing is not there. Other unknown words are 400."""

_CODES = {
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
    415: "unsupported_media_type",
    503: "stopping",
}
_HINTS = {
    404: "see docs/http-api.md for the endpoints",
    405: "see docs/http-api.md for the methods of this endpoint",
    413: "send less; JSON may have 4 MB, an upload SPARKLIO_MAX_BODY_MB",
}


class ErrorDetail(BaseModel):
    """``message`` says what happened in one sentence, ``hint`` what to do about it."""

    model_config = ConfigDict(extra="forbid")

    code: str
    message: str
    hint: str
    request_id: str | None
    run_id: str | None = None
    details: dict[str, Any] | None = None


class ErrorBody(BaseModel):
    """What every failing request gets."""

    model_config = ConfigDict(extra="forbid")

    error: ErrorDetail


def _documented(status: int) -> dict[str, Any]:
    return {"model": ErrorBody, "description": HTTPStatus(status).phrase}


ERROR_ANSWERS: dict[int | str, dict[str, Any]] = {
    status: _documented(status) for status in (400, 401, 402, 404, 405, 408, 409, 413, 422, 429, 500, 502, 503, 504)
}
"""What any endpoint may answer with; for FastAPI's ``responses``."""


def status_of(error: BaseException) -> int:
    """The HTTP status of an error's kind."""
    if isinstance(error, UnknownNameError) and error.details.get("kind") in _THINGS:
        return 404
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)


def without_folder(told: Any, folder: Path) -> Any:
    """JSON with ``<data folder>`` where the path of the data folder stands: where that lies, the server's log tells."""
    if folder == folder.parent:
        return told
    names = sorted({folder.as_uri(), str(folder), str(folder.resolve())}, key=len, reverse=True)
    return _replaced(told, re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, names))})(?![\w-])"))


def _replaced(told: Any, path: re.Pattern[str]) -> Any:
    if isinstance(told, str):
        return path.sub("<data folder>", told)
    if isinstance(told, Mapping):
        return {key: _replaced(value, path) for key, value in told.items()}
    if isinstance(told, list):
        return [_replaced(value, path) for value in told]
    return told


def error_response(
    error: BaseException, request_id: str | None, secrets: tuple[str, ...] = (), home: Path | None = None
) -> JSONResponse:
    """The answer to a request that failed with ``error``; one that is not ours tells nothing of the inside.

    ``home`` is the data folder, whose path no answer names.
    """
    if isinstance(error, SparklioError):
        body = masked_description(error, secrets)
        body = without_folder(body, home) if home else body
    else:
        body = {"code": "internal", "message": "something went wrong inside", "hint": "the server's log has the trace"}
    return _response(status_of(error), body, request_id, _headers(error))


def plain_error(
    status: int, message: str, request_id: str | None, *, hint: str = "", headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The answer to a request that HTTP itself, and nothing of ours, refuses."""
    body = {"code": _CODES.get(status, "bad_request"), "message": message, "hint": hint or _HINTS.get(status, "")}
    return _response(status, body, request_id, headers or {})


def add_error_handlers(app: FastAPI) -> None:
    """Answer every failure of a route, and of the routing itself, in the one form."""

    async def ours(request: Request, error: Exception) -> JSONResponse:
        if status_of(error) >= 500:
            place = request.method, request.url.path, _request_id(request)
            log.error("%s %s failed (request %s)", *place, exc_info=error)
        settings = request.app.state.settings
        return error_response(error, _request_id(request), settings.secrets, settings.home)

    async def unreadable(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101  # registered for nothing else
        return _unreadable(error, _request_id(request))

    async def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101  # registered for nothing else
        headers = {"allow": allowed(app, request.url.path)} if error.status_code == 405 else error.headers
        return plain_error(error.status_code, str(error.detail), _request_id(request), headers=headers)

    app.add_exception_handler(SparklioError, ours)
    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(HTTPException, of_http)


def _unreadable(error: RequestValidationError, request_id: str | None) -> JSONResponse:
    """JSON that is none is 400, JSON that says the wrong things 422; the values themselves are not sent back."""
    problems = [{"where": ".".join(map(str, one["loc"])), "problem": str(one["msg"])} for one in error.errors()]
    if any(one["type"] == "json_invalid" for one in error.errors()):
        return plain_error(400, "the body is no JSON", request_id, hint=problems[0]["problem"])
    first = problems[0]
    body = {
        "code": InputError.code,
        "message": f"{first['where']}: {first['problem']}",
        "hint": "see docs/http-api.md, or /openapi.json",
        "details": {"problems": problems},
    }
    return _response(422, body, request_id, {})


def _headers(error: BaseException) -> dict[str, str]:
    wait_s = getattr(error, "retry_after", None)
    headers = {} if wait_s is None else {"retry-after": str(math.ceil(wait_s))}
    if isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    return headers


def _response(status: int, body: Mapping[str, Any], request_id: str | None, headers: Mapping[str, str]) -> JSONResponse:
    error = {**body, "request_id": body.get("request_id") or request_id}
    return JSONResponse({"error": error}, status, headers=dict(headers))


def _request_id(request: Request) -> str | None:
    """The id that the guard gave it."""
    return getattr(request.state, "request_id", None)
