"""Waiting for what tells nobody when it comes: another thread, another process, a disk, a log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["NEVER_S", "until", "wait_until"]

NEVER_S = 40.0
"""Nothing of these tests takes so long unless it hangs; it is no measure of speed."""

_LOOKS_EVERY_S = 0.002


async def until(condition: Callable[[], object], timeout_s: float = NEVER_S) -> None:
    """Let the loop go on until ``condition`` holds.

    ``timeout_s`` is for what is promised to come so soon; patience needs none.

    Raises:
        AssertionError: it did not come.
    """
    ends = time.monotonic() + timeout_s
    while not condition():
        _still(ends, timeout_s)
        await asyncio.sleep(_LOOKS_EVERY_S)


def wait_until(condition: Callable[[], object], timeout_s: float = NEVER_S, *, every_s: float = _LOOKS_EVERY_S) -> None:
    """As :func:`until`, for tests without a loop: this thread sleeps, ``every_s`` seconds between two looks."""
    ends = time.monotonic() + timeout_s
    while not condition():
        _still(ends, timeout_s)
        time.sleep(every_s)


def _still(ends: float, timeout_s: float) -> None:
    assert time.monotonic() < ends, f"it did not come to that within {timeout_s:g} s"
