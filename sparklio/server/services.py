"""What the routes work with: one of each a server, made when it starts and closed when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Request

from providers.errors import SparklioError
from sparklio.server.dead_letters import FileLetters, Letters
from sparklio.server.jobs import ImageJobs
from sparklio.server.metrics import Metrics, QueueFigures
from sparklio.server.once import Once
from sparklio.server.run_keeper import RunKeeper
from sparklio.server.runner import Runner
from sparklio.studio import Sparklio

if TYPE_CHECKING:
    from graph.run_table import PostgresRunStore

__all__ = ["Services", "ServicesOf", "open_services"]

log = logging.getLogger(__name__)

_READY_WITHIN_S = 5.0


@dataclass(frozen=True)
class Services:
    """
    Attributes:
        studio: the Python API, entered.
        runner: goes on with runs apart from who asked for them, here or by workers.
        letters: runs that have failed.
        jobs: images that are made apart from who asked for them.
        once: answers a repeated request as it was answered first.
        metrics: counters of this server.
    """

    studio: Sparklio
    runner: RunKeeper
    letters: Letters
    jobs: ImageJobs
    once: Once
    metrics: Metrics


@dataclass(frozen=True)
class _Keeping:
    """What depends on where the runs are kept, and on who drives them; ``figures``: of the workers' queue."""

    runner: RunKeeper
    letters: Letters
    once: Once
    figures: QueueFigures | None = None


@asynccontextmanager
async def open_services(studio: Sparklio, metrics: Metrics) -> AsyncGenerator[Services, None]:
    """Enter the studio, take up what an earlier server has left unfinished, and stop it all in the reverse order."""
    settings = studio.settings
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(studio)
        await _get_ready(studio)
        keeping = await (_with_database if settings.database_url else _with_files)(studio, stack)
        jobs = await stack.enter_async_context(
            ImageJobs(
                studio.gateways.media,
                settings.home / "jobs",
                settings.count("SPARKLIO_MAX_QUEUED"),
                mode=settings.mode,
            )
        )
        metrics.watch(keeping.runner, jobs, keeping.figures)
        yield Services(studio, keeping.runner, keeping.letters, jobs, keeping.once, metrics)


async def _with_files(studio: Sparklio, stack: AsyncExitStack) -> _Keeping:
    settings = studio.settings
    once = await stack.enter_async_context(Once(settings.home, settings.encryption_key, settings.mode))
    runner = await stack.enter_async_context(_runner(studio))
    return _Keeping(runner, FileLetters(studio.runs.store, runner.list, runner.keeper), once)


async def _with_database(studio: Sparklio, stack: AsyncExitStack) -> _Keeping:
    """Imported only here: its packages are an extra's."""
    from sparklio.server import shared

    settings = studio.settings
    store = shared.table_of(studio)
    once = await stack.enter_async_context(shared.once(store, settings))
    view = await asyncio.to_thread(shared.view, store)
    if settings.broker_url is None:
        return _Keeping(await stack.enter_async_context(_runner(studio, store)), view, once)
    dispatcher = await stack.enter_async_context(shared.dispatching(studio, store, view))
    return _Keeping(dispatcher, view, once, shared.figures(view, settings))


def _runner(studio: Sparklio, table: PostgresRunStore | None = None) -> Runner:
    count = studio.settings.count
    return Runner(studio.runs, at_once=count("SPARKLIO_MAX_RUNS"), queued=count("SPARKLIO_MAX_QUEUED"), table=table)


async def _get_ready(studio: Sparklio) -> None:
    """The imports that the first calls would hold everybody up with. What is wrong, each request is told itself."""
    try:
        async with asyncio.timeout(_READY_WITHIN_S):
            await studio.gateways.prepare()
    except SparklioError as exc:
        log.warning("not ready: %s (%s)", exc, exc.hint)
    except TimeoutError:
        log.warning("not ready: some service has not answered for %g s", _READY_WITHIN_S)


async def _services(request: Request) -> Services:
    """A coroutine though it awaits nothing: FastAPI would give a function to a worker thread, for every request."""
    return cast("Services", request.app.state.services)


ServicesOf = Annotated[Services, Depends(_services)]
