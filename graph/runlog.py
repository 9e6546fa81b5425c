"""Each run's log file: what happened in this run, and nothing of the runs beside it. Secrets never reach it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from langgraph.config import get_config

from providers.errors import StorageError
from routing.logs import LOGGERS, MaskingFormatter

__all__ = ["run_log"]


class _OfRun(logging.Filter):
    """Lines of one run: said by its driver (``extra={"run_id": ...}``) or from inside one of its nodes."""

    def __init__(self, run_id: str) -> None:
        super().__init__()
        self._run_id = run_id

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "run_id", None) == self._run_id or _current_run() == self._run_id


@contextmanager
def run_log(path: Path, run_id: str, secrets: Iterable[str]) -> Iterator[None]:
    """Write the run's lines to ``path`` while the block runs, appending where a resumed run left off.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as exc:
        raise StorageError(
            f"cannot write {path}: {exc.strerror or exc}", hint="make the folder writable, or set SPARKLIO_HOME"
        ) from exc
    handler.setFormatter(MaskingFormatter(secrets))
    handler.addFilter(_OfRun(run_id))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()


def _current_run() -> str | None:
    """The run whose node is speaking: LangGraph carries its config along in the node's context."""
    try:
        thread_id: str | None = get_config().get("configurable", {}).get("thread_id")
    except RuntimeError:
        return None
    return thread_id
