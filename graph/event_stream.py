"""Live events in Redis: a stream a run, and a channel that tells which run has news. All of it may be lost at any time.

The id of an entry is ``<seq>-0``, so that Redis itself refuses a number that was given out before. Each session of a
run has a greater ``fence`` than the one before; what is written with a lesser one, by a process that was stopped and
does not know yet that it lost its run, is refused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from graph.postgres import masked
from providers.errors import ConfigError

__all__ = ["RINGS", "Begun", "EventStream"]

log = logging.getLogger(__name__)

RINGS = "sparklio:rings"
"""The channel on which the id of a run is said that has news."""

T = TypeVar("T")
_MOST = 10_000  # of one run
_KEPT_S = 24 * 60 * 60
_OVER_S = 60
_TIMEOUT_S = 1.5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
_FENCED = """
local fence = tonumber(redis.call('GET', KEYS[2]) or '0')
if fence > tonumber(ARGV[1]) then return -1 end
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
"""
_BEGIN = (
    _FENCED
    + """
if ARGV[3] == 'new' then redis.call('DEL', KEYS[1]) end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
return last[1] and last[1][1] or false
"""
)
_ADD = (
    _FENCED
    + """
redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], ARGV[4], 'line', ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('PUBLISH', ARGV[6], ARGV[7])
return redis.call('XLEN', KEYS[1])
"""
)
"""An id that is there already is that of the same event, whose answer was lost."""


@dataclass(frozen=True)
class Begun:
    """What a new session finds.

    Attributes:
        server: another one once Redis was started anew, and may have forgotten the latest events.
        last: number of the latest event; None: there is none.
    """

    server: str
    last: int | None


class EventStream:
    """One for a process; any thread may use it. While Redis is away everything is refused at once, most of the time.

    Args:
        url: ``redis://...``.

    Raises:
        ConfigError: it is none.
    """

    def __init__(self, url: str) -> None:
        try:
            self._redis = Redis.from_url(
                url,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                retry=Retry(NoBackoff(), 1),  # a connection that Redis has closed meanwhile
                client_name="sparklio-events",
            )
        except ValueError:
            raise ConfigError(
                "SPARKLIO_BROKER_URL is no URL of a Redis server", hint="redis://:password@host:6379/0"
            ) from None  # its words may hold a password
        self._begin = self._redis.register_script(_BEGIN)
        self._add = self._redis.register_script(_ADD)
        self._guard = threading.Lock()
        self._pause_s = 0.0
        self._asked_again_at = 0.0

    def close(self) -> None:
        self._redis.close()

    def begin(self, run_id: str, fence: int, *, new: bool) -> Begun | None:
        """Begin a session, from which moment on no earlier one can write. ``new``: it is the first one of the run.

        None: Redis does not answer, or a later session has begun.
        """

        def begin() -> Begun | None:
            last = self._begin(self._keys(run_id), [fence, _KEPT_S, "new" if new else ""])
            if last == -1:
                return None
            return Begun(str(self._redis.info("server")["run_id"]), _number(cast("bytes", last)) if last else None)

        return self._asked(begin)

    def add(self, run_id: str, fence: int, seq: int, line: bytes) -> int | None:
        """How many events the stream holds now; -1: a later session has begun. None: Redis does not answer."""
        values: list[int | str | bytes] = [fence, _KEPT_S, _MOST, f"{seq}-0", line, RINGS, run_id]
        return self._asked(lambda: cast("int", self._add(self._keys(run_id), values)))

    def after(self, run_id: str, seq: int, most: int) -> list[tuple[int, bytes]]:
        """The next events, which need not be without gaps; none where Redis does not answer."""
        key, _ = self._keys(run_id)
        found = self._asked(lambda: cast("list[Any]", self._redis.xrange(key, min=f"({seq}-0", count=most)))
        return [(_number(name), fields[b"line"]) for name, fields in found or ()]

    def ring(self, run_id: str) -> None:
        """Wake those who follow the run."""
        self._asked(lambda: self._redis.publish(RINGS, run_id))

    def over(self, run_id: str) -> None:
        """Keep the events only for a moment more: all of them are in the archive, and no more will come."""
        self._asked(lambda: [self._redis.expire(key, _OVER_S) for key in self._keys(run_id)])

    def forget(self, run_id: str) -> None:
        """Delete the events; not the fence."""
        self._asked(lambda: self._redis.delete(self._keys(run_id)[0]))

    @staticmethod
    def _keys(run_id: str) -> list[str]:
        return [f"sparklio:events:{run_id}", f"sparklio:events:{run_id}:fence"]

    def _asked(self, work: Callable[[], T]) -> T | None:
        """None while Redis is away: it is asked again, ever less often, and who asks in between does not wait."""
        if self._pause_s and time.monotonic() < self._asked_again_at:
            return None
        try:
            answer = work()
        except (RedisError, OSError) as exc:
            self._fail(exc)
            return None
        if self._pause_s:
            log.info("Redis answers again")
            self._pause_s = 0.0
        return answer

    def _fail(self, error: Exception) -> None:
        with self._guard:
            if not self._pause_s:
                log.warning("Redis does not answer, events are told from the database: %s", masked(str(error)))
            self._pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * self._pause_s))
            self._asked_again_at = time.monotonic() + self._pause_s


def _number(name: bytes) -> int:
    return int(name.partition(b"-")[0])
