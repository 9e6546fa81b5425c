"""Redis as we talk to it ourselves, beside Celery: queue lengths, live workers, progress of images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from providers.errors import BrokerError, ConfigError
from routing.logs import mask_secrets
from routing.settings import Settings

if TYPE_CHECKING:
    import redis

__all__ = ["PREFIX", "broker_errors", "connect", "needed_broker", "queue_prefix", "waiting_tasks"]

PREFIX = "sparklio:"
"""All our keys in Redis begin with this, Celery's too."""

_TIMEOUT_S = 5.0
_SHOWN = 10_000


def needed_broker(settings: Settings) -> str:
    """The broker's URL.

    Raises:
        ConfigError: there is none.
    """
    if not settings.broker_url or not settings.database_url:
        raise ConfigError(
            "workers need a broker and a database that they share",
            hint="set SPARKLIO_BROKER_URL=redis://... and SPARKLIO_DATABASE_URL=postgresql://...",
        )
    return settings.broker_url


def connect(url: str) -> redis.Redis:
    """A client with a pool of its own, which connects at its first use."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        url,
        retry=Retry(NoBackoff(), 1),  # a connection that Redis has closed meanwhile; whoever asks, asks again
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        socket_keepalive=True,
        health_check_interval=15,
        decode_responses=True,
    )


@contextmanager
def broker_errors(settings: Settings) -> Iterator[None]:
    """What Redis or the way to it refuses inside the block leaves it as a BrokerError."""
    import redis
    from kombu.exceptions import OperationalError

    try:
        yield
    except (redis.RedisError, OperationalError, OSError) as exc:
        raise BrokerError(
            f"cannot use the broker: {mask_secrets(str(exc), settings.secrets)}",
            hint=_hint(exc),
        ) from exc


def _hint(error: Exception) -> str:
    import redis

    if isinstance(error, redis.AuthenticationError) or "WRONGPASS" in str(error) or "NOAUTH" in str(error):
        return "look at the password in SPARKLIO_BROKER_URL: redis://:password@host:6379/0"
    return "is the redis-server of SPARKLIO_BROKER_URL up?"


def queue_prefix(mode: str) -> str:
    """What the names of a mode's queues begin with: no worker of mock is given what is for live."""
    return f"{PREFIX}{mode}:"


def waiting_tasks(client: redis.Redis, queue: str, mode: str) -> list[str]:
    """The ids of the tasks in a queue that no worker has taken yet, the next one last."""
    messages: Any = client.lrange(queue_prefix(mode) + queue, 0, _SHOWN)
    return [str(json.loads(message)["headers"]["id"]) for message in messages]
