"""How fast a batch goes, and how long it will still take: measured on its own rows, or unknown."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

__all__ = ["Pace", "span"]

_REMEMBERED = 100


class Pace:
    """Rows begin and end; those of an earlier batch never did.

    Args:
        at_once: how many rows are under way at a time.
        elsewhere: others make them, and nobody here knows how many of these at a time.
        clock: seconds.
    """

    def __init__(self, at_once: int, *, elsewhere: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self._at_once = at_once
        self._elsewhere = elsewhere
        self._clock = clock
        self._began: dict[int, float] = {}
        self._took_s: deque[float] = deque(maxlen=max(_REMEMBERED, 2 * at_once))
        self._started: float | None = None
        self._ended = 0

    def begin(self, number: int) -> None:
        self._began[number] = now = self._clock()
        self._started = now if self._started is None else self._started

    def end(self, number: int) -> None:
        """Failed rows count: others will fail, too."""
        self._took_s.append(self._clock() - self._began.pop(number))
        self._ended += 1

    def drop(self, number: int) -> None:
        """It was broken off, and tells nothing."""
        self._began.pop(number, None)

    @property
    def under_way(self) -> int:
        return len(self._began)

    def per_minute(self) -> float | None:
        """Rows that have ended; None before the first."""
        if self._started is None or not self._ended:
            return None
        return 60 * self._ended / max(self._clock() - self._started, 1e-9)

    def left_s(self, waiting: int) -> float | None:
        """Seconds until ``waiting`` rows and those under way have ended; None before the first has.

        What is under way is taken to last as long as the latest rows did, and one that has lasted longer to end now.
        """
        if not self._took_s:
            return None
        if self._elsewhere:
            return 60 * (waiting + self.under_way) / (self.per_minute() or 1)
        usual, now = sum(self._took_s) / len(self._took_s), self._clock()
        open_s = [max(0.0, usual - (now - began)) for began in self._began.values()]
        work_s = waiting * usual + sum(open_s)
        longest_s = usual if waiting else max(open_s, default=0.0)
        return max(work_s / self._at_once, longest_s)


def span(seconds: float | None) -> str:
    """``40s``, ``3m20s``, ``2h05m``, ``3d04h``, or ``unknown``."""
    if seconds is None:
        return "unknown"
    whole = round(seconds)
    for large, small, unit in ((86_400, 3_600, "dh"), (3_600, 60, "hm"), (60, 1, "ms")):
        if whole >= large:
            return f"{whole // large}{unit[0]}{whole % large // small:02d}{unit[1]}"
    return f"{whole}s"
