"""The database and the broker that servers and workers share: whether they answer, and who takes from the queues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from providers.base import Finding
from providers.errors import ConfigError, SparklioError
from routing.image_store import check_artifacts
from routing.settings import Settings
from sparklio.worker.broker import broker_errors
from sparklio.worker.registry import Worker, live_workers, takes

if TYPE_CHECKING:
    import redis

__all__ = ["WORKER_QUEUES", "alive_workers", "check_database", "examine_backends", "load_packages", "slots"]

_PATIENCE_S = 1.5
WORKER_QUEUES = ("text", "image")


def load_packages() -> None:
    """Import what the questions need, which may take a second that is not the services'. What is missing they tell."""
    for name in ("graph.postgres", "redis", "kombu.exceptions"):
        with suppress(ModuleNotFoundError):
            import_module(name)


def check_database(url: str) -> None:
    """Raises StorageError where it does not answer, ConfigError where the URL is none or the package is missing."""
    try:
        from graph.postgres import connected, postgres_errors
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"SPARKLIO_DATABASE_URL is set, and the package {exc.name} is not installed",
            hint="pip install 'sparklio[distributed]'",
        ) from exc
    with postgres_errors("the database"), connected(url) as connection:
        connection.execute("SELECT 1")


def alive_workers(settings: Settings, mode: str | None = None) -> list[Worker]:
    """The workers, all or of one mode, that have told the broker lately that they live.

    Raises:
        BrokerError: it does not answer.
        ConfigError: the package is missing.
    """
    if settings.broker_url is None:
        return []
    try:
        with broker_errors(settings), _client(settings.broker_url) as client:
            return live_workers(client, mode)
    except ModuleNotFoundError as exc:
        raise ConfigError(
            f"SPARKLIO_BROKER_URL is set, and the package {exc.name} is not installed",
            hint="pip install 'sparklio[distributed]'",
        ) from exc


def _client(url: str) -> redis.Redis:
    """For one question, which is asked once: whoever looks is to hear soon that nobody answers."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        url,
        socket_timeout=_PATIENCE_S,
        socket_connect_timeout=_PATIENCE_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


def slots(workers: list[Worker]) -> dict[str, int]:
    """How many tasks of each queue the workers do at a time; the queues that everybody has are always told."""
    names = dict.fromkeys([*WORKER_QUEUES, *(queue for worker in workers for queue in worker.queues)])
    return {queue: takes(workers, queue) for queue in names}


def examine_backends(settings: Settings) -> list[Finding]:
    """What ``sparklio doctor`` tells of them; nothing where there are none. Takes as long as they do, a few seconds."""
    return [*_database(settings), *_artifacts(settings), *_broker(settings)]


def _database(settings: Settings) -> Iterator[Finding]:
    if settings.database_url is None:
        return
    try:
        check_database(settings.database_url)
    except SparklioError as exc:
        yield Finding("database", "failed", exc.message, exc.hint)
    else:
        yield Finding("database", "ok", "PostgreSQL answers, and can be written")


def _artifacts(settings: Settings) -> Iterator[Finding]:
    if settings.artifacts_url is None:
        return
    try:
        check_artifacts(settings)
    except SparklioError as exc:
        yield Finding("artefacts", "failed", exc.message, exc.hint)
    else:
        yield Finding("artefacts", "ok", f"{settings.values['SPARKLIO_ARTIFACTS_URL'].shown()} can be written and read")


def _broker(settings: Settings) -> Iterator[Finding]:
    """What is booked while the broker or the workers are away is driven later, so that is no failure."""
    if settings.broker_url is None:
        return
    try:
        workers = alive_workers(settings)
    except SparklioError as exc:
        yield Finding("broker", "failed" if isinstance(exc, ConfigError) else "warning", exc.message, exc.hint)
        return
    yield Finding("broker", "ok", "Redis answers")
    idle = [queue for queue, number in slots(workers).items() if not number]
    if idle:
        message = f"no worker that is alive takes from the queue{'s' * (len(idle) > 1)} {' and '.join(idle)}"
        yield Finding("workers", "warning", message, f"sparklio worker --queues {','.join(idle)}")
    if other := sorted({worker.mode for worker in workers} - {settings.mode}):
        message = f"some workers are in {' and '.join(other)}, and drive no run of {settings.mode}"
        yield Finding("workers", "warning", message, f"start them with GENERATOR_MODE={settings.mode}")
    if workers and not idle:
        yield Finding("workers", "ok", f"alive: {_told(slots(workers))}")


def _told(numbers: dict[str, int]) -> str:
    return ", ".join(f"{queue} {number} at a time" for queue, number in numbers.items())
