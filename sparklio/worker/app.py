"""The Celery application: what it carries, where it goes, and how long a task may take."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from providers.errors import ConfigError
from routing.settings import Settings
from sparklio.worker.broker import needed_broker, queue_prefix

__all__ = [
    "EXECUTE_NODE",
    "EXECUTE_RUN",
    "IMAGES",
    "IMAGE_TASK",
    "SOFT_LIMIT_S",
    "TEXTS",
    "TIME_LIMIT_S",
    "check_extra",
    "image_queue",
    "make_celery",
]

EXECUTE_RUN = "sparklio.execute_workflow"
EXECUTE_NODE = "sparklio.execute_workflow_node"
IMAGE_TASK = "sparklio.generate_image"
TEXTS, IMAGES = "text", "image"
TIME_LIMIT_S, SOFT_LIMIT_S = 600.0, 540.0

_VISIBILITY_S = 900  # beyond the hard limit: a task that still runs is not given to a second worker
_RESULTS_FOR_S = 3600
_EXTRA = ("celery", "redis", "psycopg", "psycopg_pool")


def check_extra() -> None:
    """Raises ConfigError where a package of the extra is missing."""
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"workers need packages that are not installed: {', '.join(missing)}",
            hint="pip install 'sparklio[distributed]'",
        )


def image_queue(device: str | None = None) -> str:
    """The queue of all that make images, or of those on one device."""
    return f"{IMAGES}.{device}" if device else IMAGES


def make_celery(settings: Settings, *, time_limit_s: float = TIME_LIMIT_S, soft_limit_s: float = SOFT_LIMIT_S) -> Any:
    """An application with the settings' broker; it connects at its first use, and knows no task yet.

    Args:
        settings: ``broker_url`` is what counts.
        time_limit_s: after which the process of a task is killed.
        soft_limit_s: after which a task is told to end.

    Raises:
        ConfigError: there is no broker, or the packages are missing.
    """
    check_extra()
    from celery import Celery

    url = needed_broker(settings)
    app = Celery("sparklio", broker=url, backend=url, set_as_current=False)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        result_accept_content=["json"],
        timezone="UTC",
        enable_utc=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_time_limit=time_limit_s,
        task_soft_time_limit=soft_limit_s,
        task_default_queue=TEXTS,
        task_create_missing_queues=True,
        task_routes={IMAGE_TASK: {"queue": IMAGES}},
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        result_expires=_RESULTS_FOR_S,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport(settings),
        result_backend_transport_options={"global_keyprefix": queue_prefix(settings.mode)},
        redis_socket_timeout=5.0,
        redis_socket_connect_timeout=5.0,
        redis_socket_keepalive=True,
        redis_backend_health_check_interval=15,
        # A run lives by its lease and not by its message, which may come again and then finds nothing to do.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_lost_wait=1.0,
        worker_proc_alive_timeout=60.0,
    )
    return app


def _transport(settings: Settings) -> dict[str, Any]:
    return {
        "visibility_timeout": _VISIBILITY_S,
        "global_keyprefix": queue_prefix(settings.mode),
        "socket_timeout": 30.0,
        "socket_connect_timeout": 5.0,
        "socket_keepalive": True,
        "health_check_interval": 15,
    }
