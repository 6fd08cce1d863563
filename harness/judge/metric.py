"""One measured number and the bound it is held against; the metrics that rounding moves, by what they are measured on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from moe_harness.judge.limit import Blind, Limit

BLOCK = ("block_error", "worst_expert_error", "worst_token_error")
PASS = ("logit_error", "worst_position_error", "router_logit_error", "worst_router_logit_error")
FREE = ("median_kl_nats",)


def of_short(metric: str) -> str:
    """The same of a sequence of a few tokens, whose first positions see little: one of them makes its error."""
    return f"{metric}, short"


@dataclass(frozen=True)
class Metric:
    """`bound` None: reported, not judged. A judged value passes iff value <= bound, so NaN fails. `noise`: what an honest implementation
    typically shows, None where nothing is excused by rounding."""

    name: str
    value: float
    bound: float | None = None
    noise: float | None = None

    @staticmethod
    def within(name: str, value: float, limit: Limit) -> Metric:
        """Raises Blind where the limit allows everything."""
        if limit.blind:
            raise Blind(
                f"{name}: honest errors are known to {limit.bound:.2g} of the output only; the model is too large for a reference run"
            )
        return Metric(name, value, limit.bound, limit.noise)

    @property
    def violated(self) -> bool:
        return self.bound is not None and not self.value <= self.bound

    @property
    def severity(self) -> float:
        """How close to its bound: > 1 or NaN is a violation; a bound of 0 allows nothing."""
        if self.bound is None:
            return 0.0
        return self.value / self.bound if self.bound else (0.0 if self.value == 0 else float("inf"))

    @property
    def visible(self) -> float | None:
        """The smallest further error that would have failed: independent errors add in squares. None where rounding plays no part."""
        if self.noise is None or self.bound is None or self.violated:
            return None
        return math.sqrt(self.bound**2 - self.value**2)

    def to_record(self) -> dict[str, Any]:
        kind = "reported" if self.bound is None else "judged"
        return {
            "name": self.name,
            "value": float(self.value),
            "bound": self.bound,
            "noise": self.noise,
            "visible": self.visible,
            "kind": kind,
        }

    def __str__(self) -> str:
        if self.bound is None:
            return f"{self.name} = {self.value:.4g}"
        noise = f", honest noise {self.noise:.2g}" if self.noise else ""
        return f"{self.name} = {self.value:.4g} (bound {self.bound:.4g}{noise})"
