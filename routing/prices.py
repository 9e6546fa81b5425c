"""What calls cost, by the prices of provider_config.yaml, and what may still be spent."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from providers.errors import BudgetError, ConfigError, SparklioError
from providers.usage import Usage
from routing.contracts import ImageAnswer, LLMAnswer, Route

__all__ = ["Budget", "Price", "PriceTable", "Prices", "Used", "total_cost"]


@dataclass(frozen=True)
class Used:
    """What one call used up, or will at least."""

    usage: Usage = field(default_factory=Usage)
    images: int = 0


class Price(BaseModel):
    """US dollars: ``input`` and ``output`` for a million tokens, ``image`` for each image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(default=0.0, ge=0)
    output: float = Field(default=0.0, ge=0)
    image: float = Field(default=0.0, ge=0)

    def of(self, used: Used) -> float:
        tokens = self.input * used.usage.prompt_tokens + self.output * used.usage.completion_tokens
        return tokens / 1_000_000 + self.image * used.images


PriceTable = Mapping[str, Literal["free"] | Mapping[str, Price]]
A = TypeVar("A", LLMAnswer, ImageAnswer)
_FREE = Price()


class Prices:
    """Prices by provider and model.

    Args:
        table: ``{provider: "free" | {model: Price}}``; None where nothing is ever paid.
    """

    def __init__(self, table: PriceTable | None) -> None:
        self._table = table

    def of(self, route: Route) -> Price | None:
        """The route's price, or None where nobody told it."""
        if self._table is None:
            return _FREE
        models = self._table.get(route.provider, {})
        return _FREE if models == "free" else models.get(route.model)

    def cost(self, route: Route, used: Used) -> float | None:
        """In US dollars; None where it is unknown."""
        price = self.of(route)
        if price is None:
            return None if used != Used() else 0.0
        return price.of(used)

    def check(self, route: Route, at_least: Used, left_usd: float | None) -> None:
        """Refuse a call that ``left_usd`` cannot pay for. None is no limit.

        Raises:
            BudgetError: it costs more than what is left.
            ConfigError: there is a limit, and nobody told the route's price.
        """
        if left_usd is None:
            return
        price = self.of(route)
        if price is None:
            raise ConfigError(
                f"a budget is set, and {route.provider} {route.model} has no price to hold it with",
                hint=f"add it under `prices.{route.provider}` in provider_config.yaml, or unset RUN_BUDGET_USD",
            )
        if price != _FREE and price.of(at_least) >= left_usd:
            raise BudgetError(
                f"{route.provider} {route.model} would cost more than the {max(left_usd, 0):.4f} USD that are left",
                hint="raise RUN_BUDGET_USD and resume the run, or route this task to a model at home",
            )


@dataclass
class Budget:
    """What one run may spend and has spent, in US dollars. ``spent_usd`` is None once a call had no known price."""

    limit_usd: float | None = None
    spent_usd: float | None = 0.0

    @property
    def left_usd(self) -> float | None:
        """None where there is no limit."""
        return None if self.limit_usd is None else self.limit_usd - (self.spent_usd or 0.0)

    async def pay(self, call: Awaitable[A]) -> A:
        """The gateway's answer; what it cost is booked, a failed one's cost too."""
        try:
            answer = await call
        except SparklioError as exc:
            self._book(total_cost(attempt["cost_usd"] for attempt in exc.details.get("attempts", ())))
            raise
        self._book(answer.meta.cost_usd)
        return answer

    def _book(self, cost_usd: float | None) -> None:
        self.spent_usd = None if cost_usd is None or self.spent_usd is None else self.spent_usd + cost_usd


def total_cost(costs: Iterable[float | None]) -> float | None:
    """The sum in US dollars; None where one is unknown."""
    known = list(costs)
    return None if None in known else sum(cost or 0.0 for cost in known)
