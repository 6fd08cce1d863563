"""What honest implementations show where one number is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Limit:
    """`noise`: what an honest implementation typically shows; `bound`: what next to none of them exceeds. Same unit as the value."""

    noise: float
    bound: float

    def times(self, factor: float) -> Limit:
        return Limit(self.noise * factor, self.bound * factor)

    def plus(self, amount: float) -> Limit:
        """With an allowance that is known from theory on top of what was measured."""
        return Limit(self.noise, self.bound + amount)


Limits = Mapping[str, Limit]  # by name of the metric
