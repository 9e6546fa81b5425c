"""The application: which routes there are, what guards them, and what they work with."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

from routing.contracts import Mode
from routing.gateways import build_gateways
from sparklio import __version__
from sparklio.server.circles import NoCircles
from sparklio.server.described import describe
from sparklio.server.errors import ERROR_ANSWERS, add_error_handlers
from sparklio.server.guards import add_guards
from sparklio.server.metrics import Metrics
from sparklio.server.routes import dead_letters, debug, graph, health, images, llm, media, metrics, runs
from sparklio.server.services import open_services
from sparklio.studio import Sparklio

__all__ = ["API", "create_app"]

API = "/api/v1"


def create_app(
    *,
    mode: Mode | None = None,
    home: str | Path | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, str] | None = None,
) -> FastAPI:
    """The ASGI application; opening its lifespan opens the data folder. Takes what :class:`Sparklio` takes.

    Raises:
        ConfigError: a setting or the routing file is wrong.
    """
    counters = Metrics()
    studio = Sparklio(
        mode=mode,
        home=home,
        config=config,
        settings=settings,
        build=lambda settings: counters.counted(build_gateways(settings), settings),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with open_services(studio, counters) as services:
            app.state.services = services
            yield

    app = FastAPI(
        title="Sparklio",
        version=__version__,
        summary="Product-detail pages with copy and image, and the gateway to the models that write and draw them.",
        lifespan=lifespan,
        docs_url=None,  # they load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # to an absolute URL, which names a proxy's inside to those outside
        responses=ERROR_ANSWERS,
    )
    app.state.settings = studio.settings
    for router in (health.router, metrics.router):
        app.include_router(router)
    for part in (llm, media, images, debug, runs, dead_letters, graph):
        app.include_router(part.router, prefix=API)
    describe(app)
    add_error_handlers(app)
    app.add_middleware(NoCircles)
    add_guards(app, studio.settings)
    return app
