"""What every log of Sparklio shares: the names of our loggers, one format, and no secrets."""

from __future__ import annotations

import logging
from collections.abc import Iterable

__all__ = ["FORMAT", "LOGGERS", "SecretFilter"]

LOGGERS = ("sparklio", "graph", "nodes", "providers", "routing")
FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


class SecretFilter(logging.Filter):
    """Masks the values of secret settings in every line."""

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        self._secrets = [secret for secret in secrets if secret]

    def filter(self, record: logging.LogRecord) -> bool:
        if self._secrets:
            message = record.getMessage()
            for secret in self._secrets:
                message = message.replace(secret, "***")
            record.msg, record.args = message, None
        return True
