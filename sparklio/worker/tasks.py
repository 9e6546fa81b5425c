"""The Celery tasks. Each is synchronous, and waits for the process' event loop; what travels is JSON, ids and no blobs.

A task never fails for Celery: how a run or an image failed stands in the database, and an agent's error is an answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from graph.vault import Vault
from providers.errors import SparklioError, WorkerTimeLimitError
from routing.settings import Settings
from sparklio.studio import Sparklio
from sparklio.worker.agents import answer_of_agent
from sparklio.worker.app import EXECUTE_NODE, EXECUTE_RUN, IMAGE_TASK
from sparklio.worker.broker import connect, needed_broker
from sparklio.worker.drive import RunDriver
from sparklio.worker.image_maker import ImageMaker
from sparklio.worker.images import gateways_of_workers
from sparklio.worker.loop import WorkerLoop
from sparklio.worker.orders import Orders
from sparklio.worker.queue import Queue

__all__ = ["Process", "add_tasks"]

log = logging.getLogger(__name__)


class Process:
    """One process of a Celery worker, and what its tasks share.

    Args:
        settings: of the worker.
        makes_images: whether the images that it is asked for are made here, or ordered from other workers.
        stop_fd: see :class:`WorkerLoop`.
        soft_limit_s: the time limit that an error names.
    """

    def __init__(self, settings: Settings, *, makes_images: bool, stop_fd: int | None, soft_limit_s: float) -> None:
        self._settings = settings
        self._soft_limit_s = soft_limit_s
        self._queue: Queue | None = None
        self._orders: Orders | None = None
        self._client = connect(needed_broker(settings))
        values = {name: value.value for name, value in settings.values.items() if value.value is not None}
        build = gateways_of_workers(orders_images=not makes_images)
        self._loop = WorkerLoop(lambda: Sparklio(settings=values, build=build), stop_fd)

    def execute_run(self, run_id: str) -> str:
        from celery.exceptions import SoftTimeLimitExceeded

        try:
            return self._loop.run(lambda studio: self._driver(studio).execute(run_id))
        except SoftTimeLimitExceeded:
            self._loop.run(lambda studio: self._too_slow(studio, run_id))
            return "failed"
        except SparklioError as exc:  # of the database: the run stays as it is, and its message comes again
            log.warning("run %s: %s", run_id, exc)
            return "put off"

    def execute_node(self, node_id: str, agent_name: str, input_data: dict[str, Any]) -> dict[str, Any]:
        from celery.exceptions import SoftTimeLimitExceeded

        try:
            return self._loop.run(lambda studio: self._answer(studio, node_id, agent_name, input_data))
        except SoftTimeLimitExceeded:
            return self._limit_error(f"agent {agent_name!r}").to_dict()

    def make_image(self, key: str) -> str:
        from celery.exceptions import SoftTimeLimitExceeded

        try:
            return self._loop.run(lambda studio: self._maker(studio).make(key))
        except SoftTimeLimitExceeded:
            error = self._limit_error("an image")
            self._loop.run(lambda studio: self._maker(studio).fail(key, error))
            return "failed"
        except SparklioError as exc:  # of the database: whoever ordered the image orders it again
            log.warning("image %s: %s", key, exc)
            return "put off"

    def close(self) -> None:
        self._loop.close()
        self._client.close()

    def _driver(self, studio: Sparklio) -> RunDriver:
        most = studio.settings.count("SPARKLIO_MAX_DELIVERIES")
        return RunDriver(studio.runs, self._queue_of(studio), self._loop.stopping, most)

    def _maker(self, studio: Sparklio) -> ImageMaker:
        return ImageMaker(
            studio.gateways.media, self._orders_of(studio), self._client, self._settings, self._loop.stopping
        )

    async def _answer(self, studio: Sparklio, node_id: str, agent: str, given: dict[str, Any]) -> dict[str, Any]:
        return await answer_of_agent(studio, self._orders_of(studio), node_id, agent, given, self._loop.stopping)

    def _orders_of(self, studio: Sparklio) -> Orders:
        """One for all tasks: what one of them has taken, another may fail."""
        pool = self._queue_of(studio).store.pool
        if self._orders is None or self._orders.pool is not pool:
            self._orders = Orders(pool, Vault(studio.settings.encryption_key))
        return self._orders

    def _queue_of(self, studio: Sparklio) -> Queue:
        """One a studio."""
        if self._queue is None or self._queue.store is not studio.runs.store:
            self._queue = Queue(studio.runs.store, studio.settings.mode)
        return self._queue

    async def _too_slow(self, studio: Sparklio, run_id: str) -> None:
        await asyncio.to_thread(self._queue_of(studio).fail, run_id, self._limit_error(f"run {run_id!r}"))

    def _limit_error(self, what: str) -> WorkerTimeLimitError:
        return WorkerTimeLimitError(
            f"{what} took longer than the {self._soft_limit_s:.0f} s that a worker gives it",
            hint="is a model or an image service overloaded? what is finished is kept, and a retry goes on from there",
        )


def add_tasks(app: Any, process: list[Process]) -> None:
    """Give the application its tasks, which are done by the one ``process`` there is once a child has begun."""

    def execute_workflow(run_id: str) -> str:
        return process[0].execute_run(run_id)

    def execute_workflow_node(node_id: str, agent_name: str, input_data: dict[str, Any]) -> dict[str, Any]:
        return process[0].execute_node(node_id, agent_name, input_data)

    def generate_image(key: str) -> str:
        return process[0].make_image(key)

    app.task(name=EXECUTE_RUN, ignore_result=True)(execute_workflow)
    app.task(name=EXECUTE_NODE, ignore_result=False)(execute_workflow_node)
    app.task(name=IMAGE_TASK, ignore_result=True)(generate_image)
    log.debug("tasks of process %d", os.getpid())
