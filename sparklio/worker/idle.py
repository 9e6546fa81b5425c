"""Why nothing goes on: the broker is away, or no worker takes what waits."""

from __future__ import annotations

from providers.errors import BrokerError
from routing.settings import Settings
from sparklio.worker.app import IMAGES, TEXTS
from sparklio.worker.broker import broker_errors, connect, needed_broker
from sparklio.worker.registry import live_workers, takes

__all__ = ["idle_queues"]


def idle_queues(settings: Settings) -> str | None:
    """A sentence with the way out; None where workers of this mode take everything.

    Raises:
        ConfigError: there is no broker.
    """
    try:
        with connect(needed_broker(settings)) as client, broker_errors(settings):
            workers = live_workers(client, settings.mode)
    except BrokerError as exc:
        return f"{exc.message} ({exc.hint})"
    idle = [queue for queue in (TEXTS, IMAGES) if not takes(workers, queue)]
    if not idle:
        return None
    command = f"GENERATOR_MODE={settings.mode} sparklio worker --queues {','.join(idle)}"
    return f"no worker takes {' and '.join(idle)} in {settings.mode}; start one: {command}"
