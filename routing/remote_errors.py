"""What another Sparklio's server says when it fails, as the same typed errors that its gateways raised there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

from providers.errors import (
    AuthenticationError,
    OverloadedError,
    ProviderError,
    SparklioError,
    UnauthorizedError,
    UnreachableError,
    error_from,
)
from providers.http import error_type, retry_after

__all__ = ["GATEWAY", "error_in", "error_of", "told_error"]

GATEWAY = "gateway"
"""Whose errors they are that happen on the way to the server; those of its providers keep their names."""

_NOBODY_BEHIND = {502, 504}  # what a proxy says while a server is started anew


async def told_error(response: httpx.Response) -> SparklioError | None:
    """The error that the server tells, None where it tells none.

    Raises:
        ProviderError: somebody else answers there with an error, e.g. a proxy that finds no server behind it; or the
            server is about to stop.
    """
    if response.status_code < 300:
        return None
    error = error_in(await response.aread(), response.status_code)
    if error is None:
        raise _foreign(response)
    if isinstance(error, OverloadedError) and error.provider == GATEWAY:  # the server itself, because it stops
        error.retry_after = retry_after(response.headers)
        raise error
    return error


def error_in(text: str | bytes, status: int = 500) -> SparklioError | None:
    """The error that an error object describes; None where ``text`` is no such object."""
    try:
        body = json.loads(text)["error"]
        return error_of(body, status) if isinstance(body["code"], str) else None
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def error_of(body: Mapping[str, Any], status: int = 500) -> SparklioError:
    """The error that the inside of an error object describes, as a caller of the gateways knows it."""
    error = error_from(body)
    if isinstance(error, UnauthorizedError):
        return _refused(error)
    if type(error) is SparklioError:  # a code of HTTP's, or of a newer version
        named = error_type(status)(error.message, provider=GATEWAY, hint=error.hint, status=status)
        named.request_id, named.run_id, named.details = error.request_id, error.run_id, error.details
        return named
    return error


def _refused(error: UnauthorizedError) -> AuthenticationError:
    refused = AuthenticationError(
        f"the gateway refuses the key: {error.message}",
        provider=GATEWAY,
        hint="set SPARKLIO_GATEWAY_KEY to one of the server's SPARKLIO_API_KEYS",
        status=401,
    )
    refused.request_id = error.request_id
    return refused


def _foreign(response: httpx.Response) -> ProviderError:
    status = response.status_code
    to = f", to {response.headers.get('location')}" if response.is_redirect else ""
    kind = UnreachableError if status in _NOBODY_BEHIND else error_type(status)
    return kind(
        f"no Sparklio server answers there, but HTTP {status}{to}",
        provider=GATEWAY,
        status=status,
        retry_after=retry_after(response.headers),
        hint="set SPARKLIO_GATEWAY_URL to where `sparklio serve` listens",
    )
