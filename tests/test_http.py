"""One connection pool per event loop, lent out, and retired once it may have lost a connection."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from providers.errors import AttemptTimeoutError, ServerError
from providers.http import PerLoop, is_http_url


class Pool:
    """Something to lend. ``slow`` is how many turns of the loop its closing takes."""

    slow = 0

    def __init__(self) -> None:
        self.closed = 0

    async def aclose(self) -> None:
        for _ in range(self.slow):
            await asyncio.sleep(0)
        self.closed += 1


@pytest.fixture
def pools() -> PerLoop[Pool]:
    return PerLoop(Pool, Pool.aclose)


async def current(pools: PerLoop[Pool]) -> Pool:
    async with pools.borrow() as pool:
        return pool


async def cancelled_use(pools: PerLoop[Pool]) -> Pool:
    """Borrow the pool in a task that is cancelled while it has it."""
    lent: list[Pool] = []

    async def use() -> None:
        async with pools.borrow() as pool:
            lent.append(pool)
            await asyncio.Event().wait()

    task = asyncio.create_task(use())
    while not lent:  # noqa: ASYNC110  # a turn of the loop is all that it takes
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return lent[0]


async def test_all_borrowers_of_a_loop_have_the_same(pools: PerLoop[Pool]) -> None:
    async with pools.borrow() as first, pools.borrow() as second:
        assert first is second
    assert await current(pools) is first
    assert first.closed == 0
    await pools.aclose()
    assert first.closed == 1


def test_each_loop_has_its_own(pools: PerLoop[Pool]) -> None:
    first, second = asyncio.run(current(pools)), asyncio.run(current(pools))
    assert first is not second


async def test_an_ordinary_error_retires_nothing(pools: PerLoop[Pool]) -> None:
    with pytest.raises(ServerError):
        async with pools.borrow() as pool:
            raise ServerError("no", provider="x")
    assert await current(pools) is pool


async def test_a_timeout_retires(pools: PerLoop[Pool]) -> None:
    with pytest.raises(AttemptTimeoutError):
        async with pools.borrow() as pool:
            raise AttemptTimeoutError("late", provider="x")
    assert pool.closed == 1
    assert await current(pools) is not pool


async def test_a_cancellation_retires_at_once_and_closes_after_the_last_user(pools: PerLoop[Pool]) -> None:
    async with pools.borrow() as pool:
        assert await cancelled_use(pools) is pool
        fresh = await current(pools)
        assert fresh is not pool
        assert pool.closed == 0
    assert pool.closed == 1
    assert fresh.closed == 0
    assert await current(pools) is fresh


async def test_closing_takes_the_retired_ones_too_and_each_once(pools: PerLoop[Pool]) -> None:
    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(pools.borrow())
        await cancelled_use(pools)
        new = await stack.enter_async_context(pools.borrow())
        await pools.aclose()
        assert (old.closed, new.closed) == (1, 1)
        assert await current(pools) not in (old, new)
    assert (old.closed, new.closed) == (1, 1)


async def test_an_error_of_the_closing_does_not_hide_the_other_one() -> None:
    async def broken(pool: Pool) -> None:
        raise OSError("closing failed")

    pools = PerLoop(Pool, broken)
    await cancelled_use(pools)
    await current(pools)
    await pools.aclose()


async def test_a_cancelled_closing_goes_on(pools: PerLoop[Pool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pool, "slow", 5)
    pool = await current(pools)
    closing = asyncio.create_task(pools.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert pool.closed == 0
    for _ in range(10):
        await asyncio.sleep(0)
    assert pool.closed == 1


@pytest.mark.parametrize(
    ("url", "fine"),
    [("http://localhost:1", True), ("https://[::1]/x", True), ("localhost:1", False), ("ftp://x", False),
     ("http://", False), ("http://[::1", False)],
)  # fmt: skip
def test_what_is_an_address(url: str, *, fine: bool) -> None:
    assert is_http_url(url) is fine
