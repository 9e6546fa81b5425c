"""Which workers are alive: each has a key in Redis that ends by itself soon after its worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pydantic import BaseModel

from sparklio.worker.broker import PREFIX

if TYPE_CHECKING:
    import redis

__all__ = ["Worker", "announce", "live_workers", "takes", "withdraw"]

_NAMES = f"{PREFIX}workers"
_LIVES_S = 10


class Worker(BaseModel):
    """One Celery worker with its processes; ``concurrency`` is how many tasks it does at a time."""

    host: str
    pid: int
    queues: list[str]
    concurrency: int
    mode: str
    version: str

    @property
    def name(self) -> str:
        return f"{self.host}:{self.pid}"


def announce(client: redis.Redis, worker: Worker) -> None:
    """Say that the worker lives; to be said again every few seconds."""
    with client.pipeline(transaction=False) as pipe:
        pipe.set(f"{_NAMES}:{worker.name}", worker.model_dump_json(), ex=_LIVES_S)
        pipe.sadd(_NAMES, worker.name)
        pipe.execute()


def withdraw(client: redis.Redis, worker: Worker) -> None:
    client.delete(f"{_NAMES}:{worker.name}")


def live_workers(client: redis.Redis, mode: str | None = None) -> list[Worker]:
    """Those that live, all or of one mode, in the order of their names; the names of the dead are taken out."""
    names = sorted(cast("set[str]", client.smembers(_NAMES)))
    if not names:
        return []
    told = cast("list[str | None]", client.mget([f"{_NAMES}:{name}" for name in names]))
    if dead := [name for name, text in zip(names, told, strict=True) if text is None]:
        client.srem(_NAMES, *dead)
    workers = [Worker.model_validate_json(text) for text in told if text is not None]
    return [worker for worker in workers if mode in (None, worker.mode)]


def takes(workers: list[Worker], queue: str) -> int:
    """How many tasks of a queue the workers do at a time."""
    return sum(worker.concurrency for worker in workers if queue in worker.queues)
