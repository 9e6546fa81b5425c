"""``/health``: it is alive. ``/ready``: it can work. The same of either gateway. None of them loads a model."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from providers.errors import StorageError
from providers.registry import FAMILIES, Family
from routing.contracts import Mode
from routing.remote import Remote
from routing.remote_errors import GATEWAY
from routing.settings import Settings
from sparklio import __version__
from sparklio.server.errors import ErrorBody, ErrorDetail
from sparklio.server.probes import Kept, Probed, check_gateway, check_provider, gateway_of, probed

if TYPE_CHECKING:
    from sparklio.worker.registry import Worker

__all__ = ["router"]

T = TypeVar("T")
Kind = Literal["llm", "media", "gateway"]

_NEEDS_SERVERS: Mapping[Mode, bool] = {"mock": False, "live": True}
_PATIENCE_S = 2.0
_KEPT_S = 2.0
"""Whoever asks more often is told the same again, so that a prober does not hammer the services."""


class Alive(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "ok", "version": __version__}]})

    status: Literal["ok"]
    version: str


class ServiceHealth(BaseModel):
    """``kind`` is ``llm``, ``media``, or ``gateway`` for another Sparklio's server that answers instead of both."""

    kind: Kind
    healthy: bool
    elapsed_ms: int
    error: ErrorDetail | None


class FolderHealth(BaseModel):
    writable: bool
    error: ErrorDetail | None


class BackendHealth(BaseModel):
    """The database or the broker that the servers share."""

    healthy: bool
    elapsed_ms: int
    error: ErrorDetail | None


class WorkersHealth(BaseModel):
    """``alive``: how many have said so lately; ``slots``: how many tasks of each queue they do at a time; ``hint``:
    what to do where a queue has none."""

    alive: int
    slots: dict[str, int] = Field(examples=[{"text": 4, "image": 1}])
    hint: str | None


class GatewayHealth(BaseModel):
    """``providers`` are the active ones by name; empty in mock, which asks no server."""

    healthy: bool
    mode: Mode
    providers: dict[str, ServiceHealth] = Field(
        examples=[{"NAME": {"kind": "llm", "healthy": True, "elapsed_ms": 12, "error": None}}]
    )


class Ready(BaseModel):
    """Live is ready while one chat provider and one image provider answer; in any mode the data folder is needed.

    ``database``, ``broker`` and ``workers`` are there where the server has them. Without the database it is not ready;
    without the other two it books runs all the same, which are driven later.
    """

    ready: bool
    mode: Mode
    providers: dict[str, ServiceHealth] = Field(
        examples=[{"NAME": {"kind": "llm", "healthy": True, "elapsed_ms": 12, "error": None}}]
    )
    data_folder: FolderHealth
    database: BackendHealth | None = None
    broker: BackendHealth | None = None
    workers: WorkersHealth | None = None


class Health:
    """What one server's services and its data folder said last.

    Args:
        settings: say what there is to ask.
        remote: the server that answers instead of our services.
    """

    def __init__(self, settings: Settings, remote: Remote | None = None) -> None:
        self._settings = settings
        self._folder = Kept(self._ask_folder, _KEPT_S)
        self._gateway = Kept(partial(self._ask_gateway, remote), _KEPT_S) if remote else None
        self._families = {family: Kept(partial(self._ask_family, family), _KEPT_S) for family in FAMILIES}
        self._backends = Kept(self._ask_backends, _KEPT_S)

    async def ready(self) -> Ready:
        folder, gateways, backends = await asyncio.gather(
            self._folder.get(), asyncio.gather(*map(self.of, FAMILIES)), self._backends.get()
        )
        database = backends.get("database")
        works = database is None or database.healthy
        return Ready(
            ready=works and folder.writable and all(gateway.healthy for gateway in gateways),
            mode=self._settings.mode,
            providers=_by_name(gateways),
            data_folder=folder,
            **backends,
        )

    async def of(self, family: Family) -> GatewayHealth:
        """Whether a gateway of the present mode has somebody to ask."""
        mode = self._settings.mode
        if self._gateway:
            found = await self._gateway.get()
        elif _NEEDS_SERVERS[mode]:
            found = await self._families[family].get()
        else:
            return GatewayHealth(healthy=True, mode=mode, providers={})
        return GatewayHealth(healthy=any(one.healthy for one in found.values()), mode=mode, providers=found)

    async def _ask_family(self, family: Family) -> dict[str, ServiceHealth]:
        names: Sequence[str] = getattr(self._settings.config.providers, family).active
        checks = [partial(check_provider, self._settings, family, name) for name in names]
        secrets = self._settings.secrets
        answers = await asyncio.gather(
            *(probed(name, check, secrets, seconds=_PATIENCE_S) for name, check in zip(names, checks, strict=True))
        )
        return {name: _health(family, answer) for name, answer in zip(names, answers, strict=True)}

    async def _ask_gateway(self, remote: Remote) -> dict[str, ServiceHealth]:
        """Its services have had their time there; who asks without a key is not told where it is."""
        secrets = (*self._settings.secrets, remote.shown)
        answer = await probed(GATEWAY, lambda: check_gateway(remote), secrets, seconds=_PATIENCE_S + 1)
        return {GATEWAY: _health("gateway", answer)}

    async def _ask_backends(self) -> dict[str, Any]:
        """What the server has of them, by the names of :class:`Ready`."""
        if self._settings.database_url is None:
            return {}
        from sparklio.server.backends import alive_workers, check_database, load_packages

        await asyncio.to_thread(load_packages)
        database, broker = await asyncio.gather(
            self._asked("the database", partial(check_database, self._settings.database_url)),
            self._asked("the broker", partial(alive_workers, self._settings, self._settings.mode)),
        )
        if self._settings.broker_url is None:
            return {"database": _backend(database)}
        workers = {} if broker.value is None else {"workers": _workers(broker.value)}
        return {"database": _backend(database), "broker": _backend(broker), **workers}

    async def _asked(self, name: str, ask: Callable[[], T]) -> Probed[T]:
        return await probed(name, lambda: asyncio.to_thread(ask), self._settings.secrets, seconds=_PATIENCE_S)

    async def _ask_folder(self) -> FolderHealth:
        answer = await probed(
            "data folder", lambda: asyncio.to_thread(_write_to, self._settings.home), self._settings.secrets
        )
        return FolderHealth(writable=answer.error is None, error=answer.error)


def _write_to(home: Path) -> None:
    """Raises StorageError where no file can be made there; it does not tell where that is to whoever asks."""
    try:
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"\0")
    except OSError as exc:
        message = f"the data folder cannot be written: {exc.strerror or type(exc).__name__}"
        raise StorageError(message, hint="see `sparklio doctor`") from exc


def _health(kind: Kind, answer: Probed[None]) -> ServiceHealth:
    return ServiceHealth(kind=kind, healthy=answer.error is None, elapsed_ms=answer.elapsed_ms, error=answer.error)


def _backend(answer: Probed[Any]) -> BackendHealth:
    return BackendHealth(healthy=answer.error is None, elapsed_ms=answer.elapsed_ms, error=answer.error)


def _workers(workers: list[Worker]) -> WorkersHealth:
    from sparklio.server.backends import slots

    numbers = slots(workers)
    idle = [queue for queue, number in numbers.items() if not number]
    hint = f"nobody takes from {' and '.join(idle)}: sparklio worker --queues {','.join(idle)}" if idle else None
    return WorkersHealth(alive=len(workers), slots=numbers, hint=hint)


def _by_name(gateways: Sequence[GatewayHealth]) -> dict[str, ServiceHealth]:
    """All providers; one that is both a chat and an image provider by the same name has its kind behind it."""
    merged: dict[str, ServiceHealth] = {}
    for gateway in gateways:
        for name, health in gateway.providers.items():
            taken = name in merged and merged[name].kind != health.kind
            merged[f"{name} ({health.kind})" if taken else name] = health
    return merged


@asynccontextmanager
async def _watched(app: FastAPI) -> AsyncGenerator[None, None]:
    """One :class:`Health` an app, so that all who ask share an answer."""
    settings: Settings = app.state.settings
    async with gateway_of(settings) as remote:
        app.state.health = Health(settings, remote)
        yield


async def _health_of(request: Request) -> Health:
    return cast("Health", request.app.state.health)


router = APIRouter(tags=["health"], lifespan=_watched)
HealthOf = Annotated[Health, Depends(_health_of)]
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Ready | ErrorBody, "description": HTTPStatus(503).phrase}}


@router.get("/health", operation_id="alive", summary="Whether the server is alive")
async def alive() -> Alive:
    """Asks nobody; needs no key."""
    return Alive(status="ok", version=__version__)


@router.get(
    "/ready",
    operation_id="ready",
    summary="Whether the server can work",
    responses=_NOT_READY,
    response_model_exclude_unset=True,
)
async def ready(response: Response, health: HealthOf) -> Ready:
    """503 where it cannot, with the same body. Needs no key and loads no model; an answer is kept for two seconds."""
    answer = await health.ready()
    response.status_code = 200 if answer.ready else 503
    return answer


@router.get(
    "/api/v1/llm/health",
    operation_id="llm_health",
    summary="Whether chat providers answer",
    response_model_exclude_unset=True,
)
async def llm_health(health: HealthOf) -> GatewayHealth:
    """Always 200: what is wrong stands in the body. Loads no model; an answer is kept for two seconds."""
    return await health.of("llm")


@router.get(
    "/api/v1/media/health",
    operation_id="media_health",
    summary="Whether image providers answer",
    response_model_exclude_unset=True,
)
async def media_health(health: HealthOf) -> GatewayHealth:
    """Always 200: what is wrong stands in the body. Makes no image; an answer is kept for two seconds."""
    return await health.of("media")
