"""Which route gets its turn when: with a clock that the test moves."""

from __future__ import annotations

import asyncio

import pytest

from providers.errors import (
    AttemptTimeoutError,
    EmptyAnswerError,
    MalformedAnswerError,
    OverloadedError,
    ProviderError,
    RejectedError,
    ServerError,
    UnreachableError,
)
from routing.fallbacks import FAILURES, LONGEST_REST_S, REST_S, Fallbacks
from routing.router import LLMRoute

HOME, RENTED = LLMRoute("home", "small"), LLMRoute("rented", "large")
DOWN = [UnreachableError, OverloadedError, ServerError, AttemptTimeoutError]


class World:
    """Two providers of which some are down, and the requests that reached them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.fallbacks = Fallbacks(lambda: self.now)
        self.errors: dict[str, ProviderError] = {}
        self.asked: list[str] = []

    async def ask(self, route: LLMRoute) -> str:
        self.asked.append(route.provider)
        await asyncio.sleep(0)
        if error := self.errors.get(route.provider):
            raise error
        return route.provider

    async def request(self, *routes: LLMRoute) -> list[str]:
        """One request; the providers that it asked, in order."""
        self.asked.clear()
        await self.fallbacks.first(routes or (HOME, RENTED), self.ask)
        return list(self.asked)

    async def tire(self, error: ProviderError) -> None:
        self.errors["home"] = error
        for _ in range(FAILURES):
            assert await self.request() == ["home", "rented"]


def down(error: type[ProviderError] = UnreachableError, retry_after: float | None = None) -> ProviderError:
    return error("no", provider="home", retry_after=retry_after)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_slow_model_rests_alone() -> None:
    fallbacks, asked = Fallbacks(), list[str]()
    large, small = LLMRoute("home", "large"), LLMRoute("home", "small")

    async def ask(route: LLMRoute) -> str:
        asked.append(route.model)
        if route is large:
            raise AttemptTimeoutError("too long", provider="home")
        return route.model

    for _ in range(FAILURES + 1):
        assert await fallbacks.first((large, small, RENTED), ask) == "small"
    assert asked == ["large", "small"] * FAILURES + ["small"]


async def test_the_first_route_that_answers_is_the_last_one_asked(world: World) -> None:
    assert await world.request() == ["home"]
    world.errors["home"] = RejectedError("no", provider="home")
    assert await world.request() == ["home", "rented"]


async def test_the_error_is_the_last_routes(world: World) -> None:
    world.errors = {"home": down(), "rented": RejectedError("not you", provider="rented")}
    with pytest.raises(RejectedError, match="not you"):
        await world.request()


@pytest.mark.parametrize("error", DOWN)
async def test_a_provider_that_is_down_again_and_again_comes_last_for_a_while(
    world: World, error: type[ProviderError]
) -> None:
    await world.tire(down(error))
    assert await world.request() == ["rented"]
    world.now += REST_S
    assert await world.request() == ["home", "rented"]


@pytest.mark.parametrize("error", [RejectedError, EmptyAnswerError, MalformedAnswerError])
async def test_a_provider_that_is_there_is_asked_however_often_it_refuses(
    world: World, error: type[ProviderError]
) -> None:
    world.errors["home"] = down(error)
    assert [await world.request() for _ in range(5)] == [["home", "rented"]] * 5


async def test_an_answer_in_between_starts_the_count_anew(world: World) -> None:
    for _ in range(5):
        world.errors["home"] = down()
        assert await world.request() == ["home", "rented"]
        world.errors.clear()
        assert await world.request() == ["home"]


async def test_each_rest_is_twice_as_long_up_to_a_bound(world: World) -> None:
    await world.tire(down())
    for rest_s in (REST_S, 2 * REST_S, 4 * REST_S, 8 * REST_S, 16 * REST_S, LONGEST_REST_S, LONGEST_REST_S):
        world.now += min(rest_s, LONGEST_REST_S) - 1
        assert await world.request() == ["rented"]
        world.now += 1
        assert await world.request() == ["home", "rented"]


async def test_after_a_good_probe_all_is_as_before(world: World) -> None:
    await world.tire(down())
    world.now += REST_S
    world.errors.clear()
    assert await world.request() == ["home"]
    await world.tire(down())
    world.now += REST_S
    assert await world.request() == ["home", "rented"]


async def test_one_request_probes_and_those_beside_it_do_not_wait(world: World) -> None:
    await world.tire(down())
    world.now += REST_S
    world.asked.clear()
    probing = asyncio.Event()

    async def slow_home(route: LLMRoute) -> str:
        world.asked.append(route.provider)
        if route.provider == "home":
            await probing.wait()
        return route.provider

    routes = (HOME, RENTED)
    probe = asyncio.create_task(world.fallbacks.first(routes, slow_home))
    await asyncio.sleep(0)
    assert [await world.fallbacks.first(routes, slow_home) for _ in range(3)] == ["rented"] * 3
    probing.set()
    assert await probe == "home"
    assert await world.fallbacks.first(routes, slow_home) == "home"


async def test_a_cancelled_probe_leaves_the_next_request_to_probe(world: World) -> None:
    await world.tire(down())
    world.now += REST_S
    probe = asyncio.create_task(world.fallbacks.first((HOME, RENTED), lambda _: asyncio.sleep(60, "never")))
    await asyncio.sleep(0)
    probe.cancel()
    await asyncio.wait({probe})
    world.errors.clear()
    assert await world.request() == ["home"]


async def test_a_server_that_asks_to_wait_is_left_alone_for_so_long_at_once(world: World) -> None:
    world.errors["home"] = down(OverloadedError, retry_after=60)
    assert await world.request() == ["home", "rented"]
    world.now += 59
    assert await world.request() == ["rented"]
    world.now += 1
    assert await world.request() == ["home", "rented"]


async def test_the_only_route_is_always_tried(world: World) -> None:
    world.errors["home"] = down()
    for _ in range(2 * FAILURES):
        with pytest.raises(UnreachableError):
            await world.request(HOME)
    world.errors.clear()
    assert await world.request(HOME) == ["home"]


async def test_where_all_rest_the_rules_order_holds(world: World) -> None:
    world.errors = {"home": down(), "rented": UnreachableError("no", provider="rented")}
    for _ in range(2 * FAILURES):
        with pytest.raises(UnreachableError):
            await world.request()
        assert world.asked == ["home", "rented"]


async def test_requests_that_fail_side_by_side_bring_one_rest(world: World) -> None:
    world.errors["home"] = down()
    await asyncio.gather(*(world.fallbacks.first((HOME, RENTED), world.ask) for _ in range(20)))
    world.now += REST_S
    world.errors.clear()
    assert await world.request() == ["home"]


async def test_one_request_counts_a_provider_once(world: World) -> None:
    world.errors["home"] = down()
    small, large = HOME, LLMRoute("home", "large")
    assert await world.request(small, large, RENTED) == ["home", "home", "rented"]
    assert await world.request(small, large, RENTED) == ["home", "home", "rented"]
    assert await world.request(small, large, RENTED) == ["rented"]


async def test_a_plain_failure_does_not_shorten_what_the_server_asked(world: World) -> None:
    world.errors["home"] = down(OverloadedError, retry_after=120)
    assert await world.request() == ["home", "rented"]
    world.errors["home"] = down()
    with pytest.raises(UnreachableError):
        await world.request(HOME)
    world.now += 119
    assert await world.request() == ["rented"]
