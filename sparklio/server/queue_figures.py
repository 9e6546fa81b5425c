"""What autoscaling goes by: how much waits for workers, for how long, and how many of them there are.

A figure that cannot be had, because the database or the broker does not answer, is left out: it is not 0.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from prometheus_client.core import GaugeMetricFamily, Metric

from providers.errors import SparklioError
from sparklio.server.backends import slots
from sparklio.server.queue_view import Standing
from sparklio.worker.registry import Worker

__all__ = ["Bounded", "QueueFigures"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_PATIENCE_S = 1.0
_KEPT_S = 1.0


class Bounded(Generic[T]):
    """What a thread asks for: waited for no longer than ``seconds``, and by one thread however often it is wanted.

    Args:
        ask: blocks until it has the answer.
        seconds: how long anybody waits for it; and how long it is told again.
    """

    def __init__(self, ask: Callable[[], T], seconds: float = _PATIENCE_S) -> None:
        self._ask, self._seconds = ask, seconds
        self._asking: asyncio.Task[T] | None = None
        self._until = 0.0

    async def get(self) -> T | None:
        """None: it cannot be had, or not so soon."""
        if self._asking is None or (self._asking.done() and time.monotonic() >= self._until):
            self._asking = asyncio.create_task(self._asked())
        await asyncio.wait({self._asking}, timeout=self._seconds)
        if not self._asking.done():
            return None
        try:
            return self._asking.result()
        except SparklioError as exc:
            log.debug("%s", exc)
            return None

    async def _asked(self) -> T:
        try:
            return await asyncio.to_thread(self._ask)
        finally:
            self._until = time.monotonic() + _KEPT_S


class QueueFigures:
    """
    Args:
        standing: asks the database where the workers' runs stand.
        workers: asks the broker who lives.
    """

    def __init__(self, standing: Callable[[], Standing], workers: Callable[[], list[Worker]]) -> None:
        self._standing = Bounded(standing)
        self._workers = Bounded(workers)

    async def metrics(self) -> Sequence[Metric]:
        """What can be had within a second."""
        standing, workers = await asyncio.gather(self._standing.get(), self._workers.get())
        return [
            *(_of_runs(standing) if standing is not None else ()),
            *(_of_workers(workers) if workers is not None else ()),
        ]


def _of_runs(standing: Standing) -> Iterator[Metric]:
    states = {"queued": standing.queued, "running": standing.running, "interrupted": standing.interrupted}
    yield _by(
        "sparklio_queue_runs", "Runs of the workers that have not ended, of all servers, by state.", "state", states
    )
    yield _one("sparklio_queue_oldest_seconds", "Since when the oldest queued run is booked.", standing.oldest_s)
    yield _one("sparklio_runs_in_progress", "Runs that workers drive now.", standing.running)
    yield _one("sparklio_dead_letters", "Runs that have failed, and that nobody goes on with.", standing.dead)
    wait_s = 0.0 if not standing.queued else standing.wait_s(standing.queued)
    if wait_s is not None:
        text = "How long a run that is booked now is likely to wait, as runs have ended in the last ten minutes."
        yield _one("sparklio_queue_wait_seconds", text, wait_s)


def _of_workers(workers: list[Worker]) -> Iterator[Metric]:
    places = slots(workers)
    alive = {queue: sum(queue in worker.queues for worker in workers) for queue in places}
    yield _by("sparklio_workers", "Live workers that take from a queue.", "queue", alive)
    yield _by("sparklio_worker_slots", "How many tasks of a queue they do at a time.", "queue", places)


def _one(name: str, title: str, value: float) -> Metric:
    return GaugeMetricFamily(name, title, value=value)


def _by(name: str, title: str, label: str, numbers: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, title, labels=[label])
    for word, number in numbers.items():
        family.add_metric([word], number)
    return family
