"""What honest implementations show where one number is compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


class Blind(Exception):
    """A limit so wide that outputs of zero would pass: no verdict."""


@dataclass(frozen=True)
class Limit:
    """`noise`: what an honest implementation typically shows; `bound`: what next to none of them exceeds. Same unit as the value.
    `blind`: of a relative error, whose bound lets outputs of zero pass (their relative error is one)."""

    noise: float
    bound: float
    blind: bool = False

    def times(self, factor: float) -> Limit:
        return replace(self, noise=self.noise * factor, bound=self.bound * factor)

    def plus(self, amount: float) -> Limit:
        """With an allowance that is known from theory on top of what was measured."""
        return replace(self, bound=self.bound + amount)


Limits = Mapping[str, Limit]  # by name of the metric
