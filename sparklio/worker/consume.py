"""One Celery worker: a main process that fetches tasks, and its children that do them. ``sparklio worker`` starts it.

Run as ``python -m sparklio.worker.consume '{"queues": [...], "concurrency": 2, "stop_fd": 5, "verbose": false}'``. The
descriptor is the reading end of a pipe; when its other end is closed, or its owner is dead, all of them end: children
give back what they do, the main process stops to fetch.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
import threading
import warnings
from typing import Any

from pydantic import BaseModel

from providers.registry import image_provider, llm_provider
from routing.logs import LOGGERS, MaskingFormatter
from routing.settings import Settings, load_settings
from sparklio.worker.app import IMAGES, SOFT_LIMIT_S, TIME_LIMIT_S, make_celery
from sparklio.worker.tasks import Process, add_tasks

__all__ = ["Words", "log_to_stderr", "main"]

_NEEDED = ("graph.event_table", "graph.event_stream", "graph.postgres_database", "jinja2", "sparklio.page")


class Words(BaseModel):
    """What ``sparklio worker`` tells its Celery workers; limits in seconds."""

    queues: list[str]
    concurrency: int
    stop_fd: int
    verbose: bool = False
    soft_limit_s: float = SOFT_LIMIT_S
    time_limit_s: float = TIME_LIMIT_S


def main(words: Words) -> None:
    settings = load_settings()
    app = make_celery(settings, time_limit_s=words.time_limit_s, soft_limit_s=words.soft_limit_s)
    process: list[Process] = []
    add_tasks(app, process)
    log_to_stderr(settings, verbose=words.verbose)
    _connect_signals(settings, words, process)
    threading.Thread(target=_stop_with, args=(words.stop_fd,), name="stop", daemon=True).start()
    worker = app.Worker(
        queues=words.queues,
        concurrency=words.concurrency,
        pool="prefork",
        hostname=f"{words.queues[0]}-{os.getpid()}@{socket.gethostname()}",
        quiet=True,
        loglevel=logging.WARNING,
        optimization="fair",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
    )
    _import_all(settings)
    gc.freeze()  # the children share what they never change
    worker.start()
    gc.freeze()  # what is left is of no interest, and takes seconds to be looked through
    sys.exit(worker.exitcode)


def _import_all(settings: Settings) -> None:
    """What the children would import each for itself."""
    for name in _NEEDED:
        importlib.import_module(name)
    for name in settings.config.providers.llm.active:
        llm_provider(name)
    for name in settings.config.providers.media.active:
        image_provider(name)


def _connect_signals(settings: Settings, words: Words, process: list[Process]) -> None:
    from celery import signals

    def begin(**_: Any) -> None:
        makes_images = any(queue.partition(".")[0] == IMAGES for queue in words.queues)
        process[:] = [
            Process(settings, makes_images=makes_images, stop_fd=words.stop_fd, soft_limit_s=words.soft_limit_s)
        ]

    def end(**_: Any) -> None:
        for begun in process:
            begun.close()

    def keep_logging(**_: Any) -> None:
        """That somebody hears this keeps Celery from setting up logs of its own."""

    signals.worker_process_init.connect(begin, weak=False)
    signals.worker_process_shutdown.connect(end, weak=False)
    signals.setup_logging.connect(keep_logging, weak=False)


def _stop_with(stop_fd: int) -> None:
    select.select([stop_fd], [], [])
    os.kill(os.getpid(), signal.SIGTERM)


def log_to_stderr(settings: Settings, *, verbose: bool) -> None:
    """Warnings of everybody go to stderr, secrets masked; with ``verbose`` all that we and Celery say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(MaskingFormatter(settings.secrets))
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger().handlers = [handler]
    for name in (*LOGGERS, "celery"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)
    warnings.simplefilter("ignore", PendingDeprecationWarning)
    warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")


if __name__ == "__main__":
    main(Words.model_validate_json(sys.argv[1]))
