"""OpenAI's API, for its chat models and its images: how it is probed, and what its errors mean.

Errors go by status and code, as platform.openai.com/docs lists them.
"""

from __future__ import annotations

import sys
from typing import Any

from providers.errors import (
    OverloadedError,
    PromptTooLongError,
    ProviderError,
    RefusedError,
    RejectedError,
    ServerError,
)
from providers.http import retry_after, said
from providers.rented import Rented, Service

__all__ = ["HOME", "OpenAIApi"]

HOME = "https://api.openai.com/v1"

_TOO_LONG = {"context_length_exceeded", "string_above_max_length"}
_MODERATED = {"content_policy_violation", "moderation_blocked", "content_filter"}
_NOT_FOR_THIS_MODEL = {"unsupported_parameter", "unsupported_value"}
_USED_UP = {"insufficient_quota", "billing_hard_limit_reached"}


class OpenAIApi(Rented):
    """What is the same for chat and images."""

    def _api_key(self) -> str:
        return self.service.key()

    def _headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._api_key()}"}

    def _offered(self, body: Any) -> set[str]:
        return {entry["id"] for entry in body["data"]}

    def _sdk_errors(self) -> tuple[type[Exception], ...]:
        openai = sys.modules.get("openai")
        return (openai.OpenAIError,) if openai else ()

    def _refused(self, exc: Exception, model: str | None) -> ProviderError | None:
        return _refusal_of(exc, self.service, model)


def _refusal_of(exc: Exception, service: Service, model: str | None) -> ProviderError | None:
    """Ours for an error that OpenAI itself told, with a status or inside a stream; None where ``exc`` is none."""
    openai = sys.modules.get("openai")
    if openai is None or not isinstance(exc, openai.APIError) or isinstance(exc, openai.APIConnectionError):
        return None
    text = said(exc)
    status = exc.status_code if isinstance(exc, openai.APIStatusError) else None
    if exc.code in _TOO_LONG:
        return service.error(PromptTooLongError, text, "shorten the material, or use a model with a larger context")
    if exc.code in _MODERATED:
        return service.error(RefusedError, f"{service.title} declined: {text}", "change what the text asks for")
    if exc.code in _USED_UP:
        return service.used_up(text, status=status or 429)
    if status == 400 and exc.code in _NOT_FOR_THIS_MODEL and exc.param:
        hint = f"`{exc.param}: null` under `models.{service.config.name}.{model}` in provider_config.yaml leaves it out"
        return service.error(RejectedError, f"{service.title} refused the request: {text}", hint, status=status)
    if status is None or status < 300:
        leaf = OverloadedError if exc.code == "rate_limit_exceeded" else ServerError
        return service.error(leaf, f"{service.title} failed in the middle of an answer: {text}", "try again")
    return service.refused(status, text, model=model, retry_after=retry_after(exc.response.headers))
