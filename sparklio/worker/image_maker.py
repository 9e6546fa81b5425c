"""Makes the images that others have ordered, one task an image, and tells how far each is."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from graph.sqlite import until_done
from providers.errors import BrokerError, JobError, SparklioError
from routing.contracts import ImageGateway, ImageRequest, Progress
from routing.logs import masked_description
from routing.settings import Settings
from sparklio.worker.broker import broker_errors
from sparklio.worker.images import progress_stream
from sparklio.worker.orders import GivenBackError, Orders, StoppedError, TakenOverError, under_beat

if TYPE_CHECKING:
    import redis

__all__ = ["ImageMaker"]

log = logging.getLogger(__name__)

_STEPS_KEPT = 200
_STEPS_FOR_S = 900


class ImageMaker:
    """
    Args:
        gateway: makes the images here.
        orders: what was ordered.
        client: tells whoever waits.
        settings: of the worker.
        stopping: set once this process is to end; the image goes on where its service lets it, and another worker
            finds it.
    """

    def __init__(
        self, gateway: ImageGateway, orders: Orders, client: redis.Redis, settings: Settings, stopping: asyncio.Event
    ) -> None:
        self._gateway = gateway
        self._orders = orders
        self._client = client
        self._settings = settings
        self._stopping = stopping

    async def make(self, key: str) -> str:
        """Make the image of an order; what came of it, in a word. A message that came twice finds nothing to do."""
        if self._stopping.is_set():
            return "given back"
        request = await asyncio.to_thread(self._orders.take, key)
        if request is None:
            return "nothing to do"
        order = ImageRequest.model_validate_json(request)
        try:
            return await self._make(key, order)
        finally:
            await self._tell(key, {"ended": 1})

    async def fail(self, key: str, error: SparklioError) -> None:
        """Write down that the order failed, unless it is answered or was taken over."""
        await asyncio.to_thread(self._orders.failed, key, masked_description(error, self._settings.secrets))
        await self._tell(key, {"ended": 1})

    async def _make(self, key: str, order: ImageRequest) -> str:
        steps = _Steps()
        telling = asyncio.create_task(self._tell_on(key, steps))
        try:
            work = self._gateway.generate_image(order, steps.note)
            answer = await under_beat(self._orders, key, work, self._stopping, lambda: self._stop(order))
        except GivenBackError:
            return "given back"
        except TakenOverError:
            return "taken over"
        except StoppedError:
            error = JobError("the image was cancelled", provider="workers", hint="somebody stopped it; start it again")
            await self.fail(key, error)
            return "cancelled"
        except SparklioError as exc:
            log.warning("image %s failed: %s", key, exc)
            await self.fail(key, exc)
            return "failed"
        finally:
            telling.cancel()
            await until_done(telling)
        await asyncio.to_thread(self._orders.answered, key, answer.model_dump_json())
        return "made"

    async def _stop(self, order: ImageRequest) -> None:
        """A service that cannot be asked must not keep the worker."""
        if self._gateway.goes_on(order):
            try:
                await self._gateway.cancel(order)
            except SparklioError as exc:
                log.warning("the image could not be stopped: %s", exc)

    async def _tell_on(self, key: str, steps: _Steps) -> None:
        while True:
            progress = await steps.next()
            told = {"step": progress.step, "steps": progress.steps, "attempt": progress.attempt}
            await self._tell(key, told)

    async def _tell(self, key: str, fields: dict[str, int]) -> None:
        """Nobody hears what a broker does not take; the answer stands in the database."""
        with suppress(BrokerError):
            await asyncio.to_thread(self._add, key, fields)

    def _add(self, key: str, fields: dict[str, int]) -> None:
        with broker_errors(self._settings), self._client.pipeline(transaction=False) as pipe:
            pipe.xadd(progress_stream(key), cast("dict[Any, Any]", fields), maxlen=_STEPS_KEPT)
            pipe.expire(progress_stream(key), _STEPS_FOR_S)
            pipe.execute()


class _Steps:
    """The latest step: who tells it is slower than who makes it."""

    def __init__(self) -> None:
        self._latest: Progress | None = None
        self._new = asyncio.Event()

    def note(self, progress: Progress) -> None:
        self._latest = progress
        self._new.set()

    async def next(self) -> Progress:
        await self._new.wait()
        self._new.clear()
        return cast("Progress", self._latest)
