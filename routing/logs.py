"""What every log of Sparklio shares: the names of our loggers, one format, and no secrets."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from providers.errors import SparklioError, describe

__all__ = ["LOGGERS", "MaskingFormatter", "mask_error", "mask_secrets", "masked_description"]

LOGGERS = ("sparklio", "graph", "nodes", "providers", "routing")
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_SHORTEST_SECRET = 4  # anything shorter stands in every text


class MaskingFormatter(logging.Formatter):
    """Masks the secrets in the whole line, stack traces included."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__(_FORMAT)
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        return mask_secrets(super().format(record), self._secrets)


def mask_secrets(text: str, secrets: Iterable[str]) -> str:
    """``text`` with three stars for each secret in it."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may begin with another
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def mask_error(error: SparklioError, secrets: Iterable[str]) -> None:
    """Take the secrets out of what an error says; a server may repeat the key that it refuses."""
    secrets = tuple(secrets)
    error.message = mask_secrets(error.message, secrets)
    error.hint = mask_secrets(error.hint, secrets)
    error.args = (error.message,)
    error.details = {
        key: mask_secrets(value, secrets) if isinstance(value, str) else value for key, value in error.details.items()
    }


def masked_description(error: BaseException, secrets: Iterable[str]) -> dict[str, Any]:
    """The inside of the error object, without secrets; errors that are not ours have passed no gateway."""
    secrets = tuple(secrets)
    return {
        key: mask_secrets(value, secrets) if isinstance(value, str) else value for key, value in describe(error).items()
    }
