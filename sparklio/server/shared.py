"""What a server has where it shares a database, and perhaps workers, with other servers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

from graph.run_table import PostgresRunStore
from graph.vault import Vault
from providers.errors import ConfigError, SparklioError
from routing.settings import Settings
from sparklio.server.backends import alive_workers
from sparklio.server.dispatcher import Dispatcher
from sparklio.server.once import Once
from sparklio.server.queue_figures import QueueFigures
from sparklio.server.queue_view import QueueView
from sparklio.server.request_table import RequestTable
from sparklio.server.run_list import run_list
from sparklio.studio import Sparklio
from sparklio.worker.queue import Queue

__all__ = ["dispatching", "figures", "once", "table_of", "view"]

log = logging.getLogger(__name__)


def table_of(studio: Sparklio) -> PostgresRunStore:
    """
    Raises:
        ConfigError: the studio was given another store.
    """
    store = studio.runs.store
    if not isinstance(store, PostgresRunStore):
        raise ConfigError("the studio keeps its runs in files", hint="unset SPARKLIO_DATABASE_URL")
    return store


def once(store: PostgresRunStore, settings: Settings) -> Once:
    """Of all servers together."""
    book = RequestTable(store.pool, Vault(settings.encryption_key))
    return Once(settings.home, settings.encryption_key, settings.mode, book=book)


def view(store: PostgresRunStore) -> QueueView:
    """Raises StorageError where the database cannot be used."""
    opened = QueueView(store)
    opened.open()
    return opened


def figures(view: QueueView, settings: Settings) -> QueueFigures:
    return QueueFigures(view.standing, partial(alive_workers, settings, settings.mode))


@asynccontextmanager
async def dispatching(studio: Sparklio, store: PostgresRunStore, view: QueueView) -> AsyncGenerator[Dispatcher, None]:
    """Book for workers; one of the feeders that give them their runs works in this process.

    What servers without workers have left is the workers' from now on.
    """
    from sparklio.worker.feeder import feeding

    settings = studio.settings
    queue = await asyncio.to_thread(Queue, store, settings.mode)
    starting = feeding(settings)
    feeder = await asyncio.to_thread(starting.__enter__)
    try:
        if adopted := await asyncio.to_thread(view.adopt):
            log.info("%d runs that servers have left are given to workers", adopted)
        async with _Waking(feeder.look) as waking:
            yield Dispatcher(
                studio.runs,
                queue,
                run_list(store),
                queued=settings.count("SPARKLIO_MAX_QUEUED"),
                wake=waking.wake,
            )
    finally:
        await asyncio.to_thread(starting.__exit__, None, None, None)


class _Waking:
    """Has the feeder look soon after a run was booked, once for all that are booked meanwhile.

    Args:
        look: blocks; what it refuses the feeder's own next look tells.
    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._wanted = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> _Waking:
        self._looking = asyncio.create_task(self._look_when_wanted(), name="looks of the feeder")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    def wake(self) -> None:
        self._wanted.set()

    async def _look_when_wanted(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await asyncio.to_thread(self._look)
            except SparklioError as exc:
                log.debug("%s", exc)
