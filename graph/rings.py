"""Hears, for the followers of this process, which runs have news that other processes drive."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from redis import RedisError
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from graph.event_stream import RINGS
from graph.following import Bells
from graph.postgres import masked
from providers.errors import ConfigError

__all__ = ["listening"]

log = logging.getLogger(__name__)

_TIMEOUT_S = 2.0
_SILENCE_S = 5.0
_AGAIN_S = 1.0
_CANCELLED_S = 0.5


@asynccontextmanager
async def listening(broker_url: str, bells: Bells) -> AsyncGenerator[None, None]:
    """Ring ``bells`` for each run that has news, as long as the block lasts; while Redis is away followers look often.

    Raises:
        ConfigError: ``broker_url`` is none.
    """
    try:
        client = Redis.from_url(
            broker_url,
            socket_connect_timeout=_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            client_name="sparklio-rings",
        )
    except ValueError:
        raise ConfigError(
            "SPARKLIO_BROKER_URL is no URL of a Redis server", hint="redis://:password@host:6379/0"
        ) from None  # its words may hold a password
    hearing = asyncio.create_task(_hear_on(client, bells), name="rings")
    try:
        yield
    finally:
        while not hearing.done():  # redis-py uses asyncio.wait_for, which loses a cancellation before Python 3.12
            hearing.cancel()
            await asyncio.wait({hearing}, timeout=_CANCELLED_S)
        await client.aclose()


async def _hear_on(client: Redis, bells: Bells) -> None:
    failing = False
    while True:
        try:
            async with client.pubsub() as channel:
                await channel.subscribe(RINGS)
                failing = False
                await _hear(channel, bells)
        except (RedisError, OSError) as exc:
            if not failing:
                log.warning("Redis does not answer, runs of other processes are looked at often: %s", masked(str(exc)))
            failing = True
        finally:
            bells.hear_others(False)
        await asyncio.sleep(_AGAIN_S)


async def _hear(channel: PubSub, bells: Bells) -> None:
    """Raises TimeoutError, an OSError, where the other end has gone without a word."""
    asked = False
    while True:
        message = await channel.get_message(timeout=_SILENCE_S)
        if message is None:
            if asked:
                raise TimeoutError("no word from it")
            await channel.ping()
            asked = True
            continue
        asked = False
        if message["type"] == "subscribe":
            bells.hear_others(True)
        elif message["type"] == "message":
            bells.ring(message["data"].decode())
