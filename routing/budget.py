"""What may be spent, and what has been."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Budget"]


@dataclass
class Budget:
    """US dollars that one run, or one request, may spend and has spent; shared by all that spends from it.

    ``limit_usd`` None is no limit. ``spent_usd`` is None once a call had no known price.
    """

    limit_usd: float | None = None
    spent_usd: float | None = 0.0

    @property
    def left_usd(self) -> float | None:
        """None where there is no limit."""
        return None if self.limit_usd is None else self.limit_usd - (self.spent_usd or 0.0)

    def book(self, cost_usd: float | None) -> None:
        self.spent_usd = None if cost_usd is None or self.spent_usd is None else self.spent_usd + cost_usd
