"""What calls cost, by the prices of provider_config.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from providers.errors import BudgetError, ConfigError
from providers.usage import Usage
from routing.budget import Budget
from routing.contracts import Route

__all__ = ["Price", "PriceTable", "Prices", "Used", "total_cost"]


@dataclass(frozen=True)
class Used:
    """What one call used up, or will at least."""

    usage: Usage = field(default_factory=Usage)
    images: int = 0


class Price(BaseModel):
    """US dollars: ``input`` and ``output`` for a million tokens, ``image`` for each image; one at least is above 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    output: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    image: float = Field(default=0.0, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _costs_something(self) -> Self:
        if not (self.input or self.output or self.image):
            raise ValueError("a price of nothing; what costs nothing is `free`, for the whole provider")
        return self

    def of(self, used: Used) -> float:
        tokens = self.input * used.usage.prompt_tokens + self.output * used.usage.completion_tokens
        return tokens / 1_000_000 + self.image * used.images


PriceTable = Mapping[str, Literal["free"] | Mapping[str, Price]]


class Prices:
    """Prices by provider and model.

    Args:
        table: ``{provider: "free" | {model: Price}}``; None where nothing is ever paid.
    """

    def __init__(self, table: PriceTable | None) -> None:
        self._table = table

    def of(self, route: Route) -> Price | Literal["free"] | None:
        """The route's price, or None where nobody told it."""
        if self._table is None:
            return "free"
        models = self._table.get(route.provider, {})
        return "free" if models == "free" else models.get(route.model)

    def cost(self, route: Route, used: Used) -> float | None:
        """In US dollars; None where it is unknown."""
        price = self.of(route)
        if price == "free" or used == Used():
            return 0.0
        return None if price is None else price.of(used)

    def known(self, route: Route) -> None:
        """Raises ConfigError where nobody told the route's price, so that no budget can be held with it."""
        if self.of(route) is None:
            raise ConfigError(
                f"a budget is set, and {route.provider} {route.model} has no price to hold it with",
                hint=f"add it under `prices.{route.provider}` in provider_config.yaml, or unset RUN_BUDGET_USD",
            )

    def check(self, route: Route, at_least: Used, budget: Budget) -> None:
        """Refuse a call that ``budget`` cannot pay for.

        Raises:
            BudgetError: it costs more than what is left.
            ConfigError: there is a limit, and nobody told the route's price.
        """
        left_usd = budget.left_usd
        if left_usd is None:
            return
        self.known(route)
        price = self.of(route)
        if isinstance(price, Price) and price.of(at_least) >= left_usd:
            raise BudgetError(
                f"{route.provider} {route.model} would cost more than the {max(left_usd, 0):.4f} USD that are left",
                hint="raise RUN_BUDGET_USD and resume the run, or route this task to a model at home",
            )


def total_cost(costs: Iterable[float | None]) -> float | None:
    """The sum in US dollars; None where one is unknown."""
    known = list(costs)
    return None if None in known else sum(cost or 0.0 for cost in known)
