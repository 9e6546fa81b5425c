"""What every log of Sparklio shares: the names of our loggers, one format, and no secrets."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from providers.errors import SparklioError, describe

__all__ = ["LOGGERS", "MaskingFormatter", "mask_error", "mask_secrets", "masked_description", "visible"]

LOGGERS = ("sparklio", "graph", "nodes", "providers", "routing")
_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_SHORTEST_SECRET = 4  # anything shorter stands in every text


_STEERING = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


class MaskingFormatter(logging.Formatter):
    """Masks the secrets in the whole line, stack traces included, and lets nobody's text look like a line of its own.

    A message is one line; a trace keeps its lines, indented, for the text of an error may have some as well.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__(_FORMAT)
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        record.message, record.asctime = record.getMessage(), self.formatTime(record)
        lines = [self.formatMessage(record)]
        if record.exc_info:
            lines += [f"    {line}" for line in self.formatException(record.exc_info).split("\n")]
        return "\n".join(visible(mask_secrets(line, self._secrets)) for line in lines)


def visible(text: str, *, keep: str = "") -> str:
    """``text`` with escapes for what would steer a terminal or begin a line; what ``keep`` holds stays."""
    if text.isprintable():
        return text
    return "".join(char if char in keep else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode() if unicodedata.category(char) in _STEERING else char


def mask_secrets(text: str, secrets: Iterable[str]) -> str:
    """``text`` with three stars for each secret in it."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may begin with another
        if len(secret) >= _SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return text


def mask_error(error: SparklioError, secrets: Iterable[str]) -> None:
    """Take out of what an error says the secrets (a server may repeat the key that it refuses) and what steers."""
    secrets = tuple(secrets)
    error.message = _shown(error.message, secrets)
    error.hint = _shown(error.hint, secrets)
    error.args = (error.message,)
    error.details = _all_shown(error.details, secrets)


def masked_description(error: BaseException, secrets: Iterable[str]) -> dict[str, Any]:
    """The inside of the error object, without secrets; errors that are not ours have passed no gateway."""
    return _all_shown(describe(error), tuple(secrets))


def _all_shown(words: Mapping[str, Any], secrets: tuple[str, ...]) -> dict[str, Any]:
    return {key: _shown(value, secrets) if isinstance(value, str) else value for key, value in words.items()}


def _shown(text: str, secrets: tuple[str, ...]) -> str:
    """Of several lines, e.g. the list of what is wrong with an answer, the line ends stay."""
    return visible(mask_secrets(text, secrets), keep="\n")
