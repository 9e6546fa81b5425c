"""Images that the workers of the image queues make, behind the interface of a media gateway in this process.

The order stands in the database, and so does its answer; Redis carries the order's key to a worker, and the progress
back. What Redis loses is noticed, and sent again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from graph.postgres import SyncPool, postgres_errors, sync_pool
from graph.vault import Vault
from providers.errors import BrokerError, NoWorkerError, SparklioError, error_from
from routing.budget import Budget
from routing.contracts import ImageAnswer, ImageRequest, OnProgress, Progress
from routing.gateways import Gateways, build_gateways
from routing.media_gateway import MediaGateway
from routing.router import Router
from routing.settings import Settings
from sparklio.worker.app import IMAGE_TASK, image_queue, make_celery
from sparklio.worker.broker import PREFIX, broker_errors, connect, needed_broker, waiting_tasks
from sparklio.worker.orders import Orders, Standing
from sparklio.worker.registry import live_workers, takes

if TYPE_CHECKING:
    import redis

__all__ = ["QueuedImages", "gateways_of_workers", "progress_stream"]

log = logging.getLogger(__name__)
T = TypeVar("T")

_NO_WORKER_S = 30.0
_LOOKS_EVERY_S = 1.0
_ASKS_AGAIN_S = 3.0
_LISTENS_MS = 1000


def progress_stream(key: str) -> str:
    """The Redis stream of an image's steps."""
    return f"{PREFIX}image:{key}"


def gateways_of_workers(*, orders_images: bool) -> Callable[[Settings], Gateways]:
    """What builds a worker's gateways: with images of its own, or with those of the image queues."""

    def build(settings: Settings) -> Gateways:
        gateways = build_gateways(settings)
        if not orders_images or not isinstance(gateways.media, MediaGateway):
            return gateways
        return Gateways(llm=gateways.llm, media=QueuedImages(gateways.media, settings))

    return build


class QueuedImages:
    """A media gateway whose images other workers make.

    Args:
        local: answers what only looks at a request.
        settings: with a broker and a database.
        no_worker_s: for how long an image may find no worker that could make it.
    """

    def __init__(self, local: MediaGateway, settings: Settings, *, no_worker_s: float = _NO_WORKER_S) -> None:
        self._local = local
        self._settings = settings
        self._no_worker_s = no_worker_s
        self._router = Router(settings.config, settings.default_model, settings.default_variable)
        self._vault = Vault(settings.encryption_key)
        self._pool: SyncPool | None = None
        self._client: redis.Redis | None = None
        self._app: Any = None
        self.store = local.store
        self.fingerprint, self.check = local.fingerprint, local.check

    async def prepare(self) -> None:
        """Imports and connections that the first image would otherwise wait for."""
        await self._local.prepare()
        await asyncio.to_thread(self._connect)

    def _connect(self) -> None:
        if self._pool is None:
            self._client, self._app = connect(needed_broker(self._settings)), make_celery(self._settings)
            pool = sync_pool(cast("str", self._settings.database_url))
            with postgres_errors("the database"):
                pool.open()
            self._pool = pool

    async def aclose(self) -> None:
        await self._local.aclose()
        await asyncio.to_thread(self._disconnect)

    def _disconnect(self) -> None:
        if self._pool is not None and self._client is not None:
            self._pool.close()
            self._client.close()
            self._app.close()
            self._pool = self._client = self._app = None

    def goes_on(self, request: ImageRequest) -> bool:
        """What was ordered is made to its end, whoever leaves."""
        return True

    async def generate_image(
        self, request: ImageRequest, on_progress: OnProgress | None = None, *, budget: Budget | None = None
    ) -> ImageAnswer:
        """As :meth:`routing.media_gateway.MediaGateway.generate_image`, whose errors it raises.

        Who leaves lets the image go on; who asks again by the same ``options.idempotency_key`` gets it.

        Raises:
            NoWorkerError: no worker takes images, or none of that device.
        """
        order = _named(request, budget)
        await asyncio.to_thread(self._connect)
        try:
            answer = await self._made(order, on_progress)
        except SparklioError as exc:
            exc.request_id = request.request_id
            _book(budget, exc.details.get("attempts", []))
            raise
        _book(budget, answer.meta.model_dump()["attempts"])
        images = [image.model_copy(update={"url": self.store.url(image.id)}) for image in answer.images]
        meta = answer.meta.model_copy(update={"request_id": request.request_id})
        return answer.model_copy(update={"images": images, "meta": meta})

    async def cancel(self, request: ImageRequest) -> None:
        """Have whoever makes the image stop."""
        await asyncio.to_thread(self._connect)
        await asyncio.to_thread(self._orders().cancel, _key(request))

    async def _made(self, order: ImageRequest, on_progress: OnProgress | None) -> ImageAnswer:
        key, orders = _key(order), self._orders()
        await asyncio.to_thread(orders.place, key, order.model_dump_json())
        waiting = _Waiting(self, key, self._queue_of(order), self._no_worker_s)
        while True:
            standing = await asyncio.to_thread(orders.look, key)
            if standing.answer is not None:
                return ImageAnswer.model_validate_json(standing.answer)
            if standing.error is not None:
                raise error_from(standing.error)
            await waiting.see_to(standing)
            await waiting.listen(on_progress)

    def _queue_of(self, order: ImageRequest) -> str:
        """That of the device which the request, or its first route, names."""
        return image_queue(self._router.image_routes(order)[0].device)

    def _orders(self) -> Orders:
        return Orders(cast("SyncPool", self._pool), self._vault)

    def send(self, key: str, queue: str) -> None:
        """Give the order to a worker. Raises BrokerError."""
        with broker_errors(self._settings):
            self._app.send_task(IMAGE_TASK, args=[key], queue=queue, task_id=key, retry=False, ignore_result=True)

    def is_waiting(self, key: str, queue: str) -> bool:
        """Whether a message of the order lies in the queue. Raises BrokerError."""
        with broker_errors(self._settings):
            return key in waiting_tasks(cast("redis.Redis", self._client), queue, self._settings.mode)

    def has_workers(self, queue: str) -> bool:
        """Whether some live worker takes from the queue. Raises BrokerError."""
        with broker_errors(self._settings):
            return takes(live_workers(cast("redis.Redis", self._client), self._settings.mode), queue) > 0

    def steps(self, key: str, after: str) -> list[tuple[str, dict[str, str]]]:
        """What a worker tells of the image, waited for a moment. Raises BrokerError."""
        with broker_errors(self._settings):
            client = cast("redis.Redis", self._client)
            found = cast("list[Any]", client.xread({progress_stream(key): after}, block=_LISTENS_MS) or [])
            return found[0][1] if found else []


class _Waiting:
    """One image that is waited for: sent, sent again, and listened to."""

    def __init__(self, images: QueuedImages, key: str, queue: str, no_worker_s: float) -> None:
        self._images = images
        self._key, self._queue = key, queue
        self._no_worker_s = no_worker_s
        self._sent_at = float("-inf")
        self._hope_at = time.monotonic()
        self._after = "0"
        self._down = False

    async def see_to(self, standing: Standing) -> None:
        """See that a message is on its way while nobody makes the image.

        Raises:
            NoWorkerError: for a while there has been no worker that could.
        """
        now = time.monotonic()
        if standing.alive:
            self._hope_at = now
            return
        try:
            await asyncio.to_thread(self._send, now)
            if await asyncio.to_thread(self._images.has_workers, self._queue):
                self._hope_at = now
        except BrokerError as exc:
            self._hope_at = now
            await self._wait_out(exc)
        if now - self._hope_at > self._no_worker_s:
            raise NoWorkerError(
                f"for {self._no_worker_s:.0f} s no worker has taken images from the queue {self._queue!r}",
                hint=f"start one: sparklio worker --queues {self._queue.replace('.', ' --device ', 1)}",
            )

    def _send(self, now: float) -> None:
        if now - self._sent_at > _ASKS_AGAIN_S and not self._images.is_waiting(self._key, self._queue):
            self._images.send(self._key, self._queue)
            self._sent_at = now

    async def listen(self, on_progress: OnProgress | None) -> None:
        """Tell the steps that come, until there is something else to look at, or for a moment."""
        until = time.monotonic() + _LOOKS_EVERY_S
        while time.monotonic() < until:
            try:
                told = await asyncio.to_thread(self._images.steps, self._key, self._after)
            except BrokerError as exc:
                return await self._wait_out(exc)
            self._down = False
            for self._after, fields in told:
                if "ended" in fields:
                    return None
                if on_progress:
                    step, steps, attempt = (int(fields[name]) for name in ("step", "steps", "attempt"))
                    on_progress(Progress(kind="image", step=step, steps=steps, attempt=attempt))
        return None

    async def _wait_out(self, error: BrokerError) -> None:
        if not self._down:
            log.warning("waiting for the broker: %s", error)
        self._down = True
        await asyncio.sleep(_LOOKS_EVERY_S)


def _key(request: ImageRequest) -> str:
    return request.options.idempotency_key or request.request_id


def _named(request: ImageRequest, budget: Budget | None) -> ImageRequest:
    """The request under its key, with what is left of the budget that it shares."""
    told: dict[str, Any] = {"idempotency_key": _key(request)}
    if budget is not None:
        told["budget_usd"] = budget.left_usd
    return request.model_copy(update={"options": request.options.model_copy(update=told)})


def _book(budget: Budget | None, attempts: list[dict[str, Any]]) -> None:
    for attempt in attempts:
        if budget is not None:
            budget.book(attempt.get("cost_usd"))
