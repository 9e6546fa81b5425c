"""Each run's log file: what happened in this run, and nothing of the runs beside it. Secrets never reach it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from langgraph.config import get_config

from providers.errors import StorageError
from routing.image_store import make_folder
from routing.logs import LOGGERS, MaskingFormatter

__all__ = ["run_log"]


class _ByRun(logging.Handler):
    """Hands each line to its run's file: said by the run's driver (``extra={"run_id": ...}``) or inside its nodes.

    One for all runs: with a handler each, every line of a hundred runs at once would be looked at a hundred times.
    """

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[str, list[logging.Handler]] = {}
        self._guard = threading.Lock()

    def emit(self, record: logging.LogRecord) -> None:
        run_id: str | None = getattr(record, "run_id", None) or _current_run()
        for file in tuple(self._files.get(run_id, ())) if run_id else ():
            file.handle(record)

    @contextmanager
    def writing(self, run_id: str, file: logging.Handler) -> Iterator[None]:
        """Let ``file`` have the run's lines. The loggers keep this handler for good: without a run it does nothing."""
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self)  # once, however often it is said
        with self._guard:
            self._files.setdefault(run_id, []).append(file)
        try:
            yield
        finally:
            with self._guard:
                self._files[run_id].remove(file)
                if not self._files[run_id]:
                    del self._files[run_id]


_by_run = _ByRun()


class _RunFile(logging.FileHandler):
    """Lines that the disk refuses are lost; they neither fail the run nor hide why it failed."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's own name
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):  # lines that were refused are tried once more
            super().close()


@contextmanager
def run_log(path: Path, run_id: str, secrets: Iterable[str]) -> Iterator[None]:
    """Write the run's lines to ``path`` while the block runs, appending where a resumed run left off.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        make_folder(path.parent)
        handler = _RunFile(path, encoding="utf-8")
    except OSError as exc:
        raise StorageError(
            f"cannot write {path}: {exc.strerror or exc}", hint="make the folder writable, or set SPARKLIO_HOME"
        ) from exc
    handler.setFormatter(MaskingFormatter(secrets))
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    try:
        with _by_run.writing(run_id, handler):
            yield
    finally:
        handler.close()


def _current_run() -> str | None:
    """The run whose node is speaking: LangGraph carries its config along in the node's context."""
    try:
        thread_id: str | None = get_config().get("configurable", {}).get("thread_id")
    except RuntimeError:
        return None
    return thread_id
