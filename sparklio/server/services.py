"""What the routes work with: one of each a server, made when it starts and closed when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from providers.errors import SparklioError
from sparklio.server.jobs import ImageJobs
from sparklio.server.metrics import Metrics
from sparklio.server.once import Once
from sparklio.server.runner import Runner
from sparklio.studio import Sparklio

__all__ = ["Services", "ServicesOf", "open_services"]

log = logging.getLogger(__name__)

_READY_WITHIN_S = 5.0


@dataclass(frozen=True)
class Services:
    """
    Attributes:
        studio: the Python API, entered.
        runner: drives runs apart from who asked for them.
        jobs: images that are made apart from who asked for them.
        once: answers a repeated request as it was answered first.
        metrics: counters of this server.
    """

    studio: Sparklio
    runner: Runner
    jobs: ImageJobs
    once: Once
    metrics: Metrics


@asynccontextmanager
async def open_services(studio: Sparklio, metrics: Metrics) -> AsyncGenerator[Services, None]:
    """Enter the studio, take up what an earlier server has left unfinished, and stop it all in the reverse order."""
    settings = studio.settings
    at_once, queued = settings.count("SPARKLIO_MAX_RUNS"), settings.count("SPARKLIO_MAX_QUEUED")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(studio)
        await _get_ready(studio)
        once = await stack.enter_async_context(Once(settings.home, settings.encryption_key, settings.mode))
        jobs = await stack.enter_async_context(
            ImageJobs(studio.gateways.media, settings.home / "jobs", queued, mode=settings.mode)
        )
        runner = await stack.enter_async_context(Runner(studio.runs, at_once=at_once, queued=queued))
        metrics.watch(runner, jobs)
        yield Services(studio, runner, jobs, once, metrics)


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
