"""OpenAI's errors, for its chat models and its images: by status and code, as platform.openai.com/docs lists them."""

from __future__ import annotations

import sys

from providers.errors import OverloadedError, PromptTooLongError, ProviderError, RefusedError, ServerError
from providers.http import retry_after, said
from providers.rented import Service

__all__ = ["refusal_of"]

_TOO_LONG = {"context_length_exceeded", "string_above_max_length"}
_MODERATED = {"content_policy_violation", "moderation_blocked", "content_filter"}
_USED_UP = {"insufficient_quota", "billing_hard_limit_reached"}


def refusal_of(exc: Exception, service: Service, model: str | None) -> ProviderError | None:
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
    if status is None or status < 300:
        leaf = OverloadedError if exc.code == "rate_limit_exceeded" else ServerError
        return service.error(leaf, f"{service.title} failed in the middle of an answer: {text}", "try again")
    return service.refused(status, text, model=model, retry_after=retry_after(exc.response.headers))
