"""Gives the workers runs, a few messages at a time, and takes back what dead workers have left.

The queue is the table of runs; Redis holds only what is about to be taken, so that what comes later to the table may
still come first. Each worker and each server has a feeder, and one acts at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from graph.postgres import lent, postgres_errors
from graph.run_table import open_run_table
from providers.errors import BrokerError, RunBusyError, SparklioError, StorageError, UnknownNameError
from routing.settings import Settings
from sparklio.worker.app import EXECUTE_RUN, TEXTS, make_celery
from sparklio.worker.broker import broker_errors, connect, needed_broker, waiting_tasks
from sparklio.worker.orders import Orders
from sparklio.worker.queue import Lost, Queue
from sparklio.worker.registry import live_workers, takes

if TYPE_CHECKING:
    import redis

__all__ = ["Feeder", "feeding"]

log = logging.getLogger(__name__)

_LOOKS_EVERY_S = 1.0
_LEAST_WINDOW = 4
_LOST_S = 5.0  # a message that is in no queue any more has begun its run by then
_SWEEPS_EVERY_S = 1.0
_TIDIES_EVERY_S = 3600.0
_ENDS_WITHIN_S = 2.0
_ONE_AT_A_TIME = 0x5BA7C111  # of our advisory lock: any number that is the same in all versions


class Feeder:
    """
    Args:
        queue: the runs.
        app: a Celery application, which sends the messages.
        client: the same broker, to see what waits there.
        settings: of this process.
        before_look: called before each look, e.g. to say that a worker lives.
        clock: seconds.
    """

    def __init__(
        self,
        queue: Queue,
        app: Any,
        client: redis.Redis,
        settings: Settings,
        *,
        before_look: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._app = app
        self._client = client
        self._settings = settings
        self._before_look = before_look
        self._clock = clock
        self._most_deliveries = settings.count("SPARKLIO_MAX_DELIVERIES")
        self._seen: set[Lost] = set()
        self._damaged: set[str] = set()
        self._swept_at = self._tidied_at = float("-inf")
        self._troubled = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="feeder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._thread.join(_ENDS_WITHIN_S)

    def look(self) -> None:
        """One look: take back what was lost, send what is next.

        Raises:
            BrokerError, StorageError: Redis or the database is away.
        """
        if self._before_look:
            with broker_errors(self._settings):
                self._before_look()
        with self._alone() as alone:
            if alone:
                self._sweep()
                self._feed()

    def _look_on(self) -> None:
        while not self._end.wait(_LOOKS_EVERY_S):
            try:
                self.look()
            except Exception as exc:  # nobody would miss a feeder that has ended, and runs would wait
                if not self._troubled:
                    unknown = None if isinstance(exc, SparklioError) else exc
                    log.warning("runs cannot be given to workers now: %s", exc, exc_info=unknown)
                self._troubled = True
            else:
                self._troubled = False

    @contextmanager
    def _alone(self) -> Iterator[bool]:
        """A transaction holds the lock, so that one that was cut off gives it back."""
        with postgres_errors("the queue of runs"), lent(self._queue.store.pool) as connection, connection.transaction():
            [(alone,)] = connection.execute("SELECT pg_try_advisory_xact_lock(%s)", (_ONE_AT_A_TIME,)).fetchall()
            yield bool(alone)

    def _feed(self) -> None:
        with broker_errors(self._settings):
            consumers = takes(live_workers(self._client, self._settings.mode), TEXTS)
            waiting = waiting_tasks(self._client, TEXTS, self._settings.mode)
        places = max(_LEAST_WINDOW, 2 * consumers) - len(waiting)
        if places <= 0:
            return
        chosen = self._queue.choose(places, [_run_of(task) for task in waiting], lost_s=_LOST_S)
        if not chosen:
            return
        self._queue.sent(chosen)
        for number, run_id in enumerate(chosen):
            try:
                self._send(run_id)
            except BrokerError:
                self._queue.unsent(chosen[number:])
                raise

    def _send(self, run_id: str) -> None:
        with broker_errors(self._settings):
            task_id = f"{run_id}:{time.time_ns():x}"
            self._app.send_task(
                EXECUTE_RUN, args=[run_id], queue=TEXTS, task_id=task_id, retry=False, ignore_result=True
            )

    def _sweep(self) -> None:
        """What is lost is so on two looks: who has just begun, or is just leaving, looks like it for a moment."""
        now = self._clock()
        if now - self._swept_at < _SWEEPS_EVERY_S:
            return
        found = set(self._queue.lost())
        for lost in sorted(found & self._seen, key=lambda lost: lost.run_id):
            self._take_back(lost)
        self._seen, self._swept_at = found, now
        if now - self._tidied_at > _TIDIES_EVERY_S:
            Orders(self._queue.store.pool).forget_old()
            self._tidied_at = now

    def _take_back(self, lost: Lost) -> None:
        try:
            became = self._queue.take_back(lost, self._most_deliveries)
        except (RunBusyError, UnknownNameError):  # somebody was faster, or has deleted it
            return
        except StorageError as exc:
            if not isinstance(exc.__cause__, ValidationError):
                raise
            self._say_once(lost.run_id, exc)
            return
        if became:
            log.warning("run %s was lost by its worker %s, and is %s now", lost.run_id, lost.owner or "?", became)

    def _say_once(self, run_id: str, error: StorageError) -> None:
        """A damaged record stays damaged, and is found by each look; it must not keep the others waiting."""
        if run_id not in self._damaged:
            log.warning("a lost run cannot be taken back: %s", error)
        self._damaged.add(run_id)


def _run_of(task_id: str) -> str:
    return task_id.partition(":")[0]


@contextmanager
def feeding(settings: Settings, *, before_look: Callable[[redis.Redis], None] | None = None) -> Iterator[Feeder]:
    """A feeder that looks every second, in a thread of its own, while the block lasts.

    Args:
        settings: with a broker and a database.
        before_look: gets a client of the broker before each look.

    Raises:
        ConfigError: there is no broker, or a package is missing.
        StorageError: the database cannot be reached.
    """
    url = needed_broker(settings)
    client, app = connect(url), make_celery(settings)
    try:
        with open_run_table(settings.home, settings.database_url or "", url) as store:
            tell = None if before_look is None else (lambda: before_look(client))
            with Feeder(Queue(store, settings.mode), app, client, settings, before_look=tell) as feeder:
                yield feeder
    finally:
        app.close()
        client.close()
