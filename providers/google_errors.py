"""Google's errors, for its chat models and its images: by status, ``google.rpc`` details and finish reason.

Sources: ai.google.dev/gemini-api/docs/troubleshooting, ai.google.dev/api/generate-content#FinishReason and
cloud.google.com/apis/design/errors.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import httpx

from providers.errors import AuthenticationError, OverloadedError, PromptTooLongError, ProviderError, ServerError
from providers.http import LONGEST_RETRY_AFTER_S, error_type, retry_after
from providers.rented import Service

__all__ = ["DECLINED", "refusal_of", "refused_probe"]

# Finish reasons with which Gemini or its filters decline.
DECLINED = frozenset({"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"}) | {
    "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
}  # fmt: skip
# An INVALID_ARGUMENT without a reason of its own.
_TOO_LONG = re.compile(r"exceeds the maximum number of (input )?tokens", re.IGNORECASE)
_MAX_CHARS = 300
_DELAY = re.compile(r"(\d+(?:\.\d+)?)s")


def refusal_of(exc: Exception, service: Service, model: str | None) -> ProviderError | None:
    """Ours for an error that Google itself told, with a status or inside a stream; None where ``exc`` is none."""
    errors = sys.modules.get("google.genai.errors")
    told = next((told for told in (exc, exc.__cause__) if errors and isinstance(told, errors.APIError)), None)
    if told is None:
        return None
    headers = told.response.headers if isinstance(told.response, httpx.Response) else None
    return _refused(told.code, told.details, headers, service, model)


def refused_probe(response: httpx.Response, service: Service) -> ProviderError:
    """The error for the answer to a GET that has a status above 299."""
    try:
        body = response.json()
    except ValueError:
        body = {"message": response.text.strip()}
    return _refused(response.status_code, body, response.headers, service, None)


def _refused(
    status: int | None, body: Any, headers: httpx.Headers | None, service: Service, model: str | None
) -> ProviderError:
    """``headers`` are None for an error that came inside a stream."""
    error = _error_of(body)
    text = str(error.get("message") or error.get("status") or body)[:_MAX_CHARS]
    details = list(_details(error))
    if _TOO_LONG.search(text):
        return service.error(PromptTooLongError, text, "shorten the material, or use a model with a larger context")
    if any(detail.get("reason") == "API_KEY_INVALID" for detail in details):
        hint = f"check {service.key_name}: is it a key of {service.base_url_shown}, and may it use this model?"
        return service.error(AuthenticationError, f"{service.title} refused the key: {text}", hint, status=status)
    if status == 429 and _for_today(details):
        return service.used_up(text, status=status)
    delay = _retry_delay(details)
    if headers is None or status is None:
        leaf = OverloadedError if status is not None and error_type(status) is OverloadedError else ServerError
        message = f"{service.title} failed in the middle of an answer: {text}"
        return service.error(leaf, message, "try again", retry_after=delay)
    return service.refused(status, text, model=model, retry_after=delay if delay is not None else retry_after(headers))


def _error_of(body: Any) -> Mapping[str, Any]:
    """The error object; the SDK has its own in place of a body that is no JSON."""
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, Mapping):
        return {"message": str(body)}
    error = body.get("error", body)
    return error if isinstance(error, Mapping) else {"message": str(error)}


def _details(error: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    details = error.get("details")
    if isinstance(details, list):
        yield from (detail for detail in details if isinstance(detail, Mapping))


def _for_today(details: list[Mapping[str, Any]]) -> bool:
    """Whether a quota of the whole day is used up (``google.rpc.QuotaFailure``)."""
    return any("PerDay" in str(detail.get("violations")) for detail in details)  # in a `quotaId`


def _retry_delay(details: list[Mapping[str, Any]]) -> float | None:
    """Seconds of ``google.rpc.RetryInfo``, given there as ``"34.5s"``."""
    for detail in details:
        match = _DELAY.fullmatch(str(detail.get("retryDelay", "")))
        if match is not None:
            return min(float(match[1]), LONGEST_RETRY_AFTER_S)
    return None
