"""The parent of the Celery workers of one ``sparklio worker``: starts them, starts again what has died, ends them."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparklio.worker.app import IMAGES, SOFT_LIMIT_S, TEXTS, TIME_LIMIT_S, image_queue
from sparklio.worker.consume import Words
from sparklio.worker.registry import Worker, announce, withdraw

if TYPE_CHECKING:
    import redis

__all__ = ["Limits", "Plan", "Supervisor"]

log = logging.getLogger(__name__)

STOPPED_WITHIN_S = 9.0
_STARTS_AGAIN_S = 1.0


@dataclass(frozen=True)
class Limits:
    """Seconds that a task may take: it is told after ``soft_s`` and killed after ``hard_s``."""

    soft_s: float = SOFT_LIMIT_S
    hard_s: float = TIME_LIMIT_S


@dataclass(frozen=True)
class Plan:
    """One Celery worker: its queues, and how many tasks it does at a time."""

    queues: tuple[str, ...]
    concurrency: int

    @classmethod
    def of(cls, kind: str, concurrency: int, device: str | None) -> Plan:
        """Texts are waited for, so that several at a time keep a model busy; of images each has a GPU for itself."""
        if kind == TEXTS:
            return cls((TEXTS,), concurrency)
        return cls((IMAGES, *([image_queue(device)] if device else [])), 1)


class Supervisor:
    """
    Args:
        plans: what is to be started.
        mode: of the runs that it works on; ``version``: ours.
        environ: of the processes.
        limits: of a task.
        verbose: whether they tell what they do.
    """

    def __init__(
        self, plans: list[Plan], *, mode: str, version: str, environ: Mapping[str, str], limits: Limits, verbose: bool
    ) -> None:
        self._plans = plans
        self._mode, self._version = mode, version
        self._environ = dict(environ)
        self._limits = limits
        self._verbose = verbose
        self._stop_read, self._stop_write = os.pipe()
        self._running: dict[Plan, subprocess.Popen[bytes]] = {}
        self._again_at: dict[Plan, float] = dict.fromkeys(plans, 0.0)
        self._stopping = False

    def see_to(self) -> None:
        """Start what does not run."""
        for plan in self._plans:
            process = self._running.get(plan)
            if process is not None and process.poll() is not None:
                log.warning("the worker of %s has ended with %s", ", ".join(plan.queues), process.returncode)
                del self._running[plan]
                self._again_at[plan] = time.monotonic() + _STARTS_AGAIN_S
            if plan not in self._running and not self._stopping and time.monotonic() >= self._again_at[plan]:
                self._running[plan] = self._start(plan)

    def announce(self, client: redis.Redis) -> None:
        """Tell Redis who lives; while they stop, nobody does."""
        for plan, process in list(self._running.items()):
            if process.poll() is None and not self._stopping:
                announce(client, self._told(plan, process.pid))

    def withdraw(self, client: redis.Redis) -> None:
        for plan, process in self._running.items():
            withdraw(client, self._told(plan, process.pid))

    def stop(self) -> None:
        """Have all give back what they do, and end."""
        if not self._stopping:
            self._stopping = True
            os.close(self._stop_write)

    def all_ended(self) -> bool:
        return all(process.poll() is not None for process in self._running.values())

    def kill(self) -> None:
        """End what is left, children too."""
        for process in self._running.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def close(self) -> None:
        self.stop()
        os.close(self._stop_read)

    def _start(self, plan: Plan) -> subprocess.Popen[bytes]:
        words = Words(
            queues=list(plan.queues),
            concurrency=plan.concurrency,
            stop_fd=self._stop_read,
            verbose=self._verbose,
            soft_limit_s=self._limits.soft_s,
            time_limit_s=self._limits.hard_s,
        )
        command = [sys.executable, "-m", "sparklio.worker.consume", words.model_dump_json()]
        return subprocess.Popen(command, env=self._environ, pass_fds=[self._stop_read], start_new_session=True)  # noqa: S603

    def _told(self, plan: Plan, pid: int) -> Worker:
        return Worker(
            host=socket.gethostname(),
            pid=pid,
            queues=list(plan.queues),
            concurrency=plan.concurrency,
            mode=self._mode,
            version=self._version,
        )
