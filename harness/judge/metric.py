"""One measured number and the bound it is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """`bound` None: reported, not judged. A judged value passes iff value <= bound, so NaN fails."""

    name: str
    value: float
    bound: float | None = None

    @property
    def violated(self) -> bool:
        return self.bound is not None and not self.value <= self.bound

    @property
    def severity(self) -> float:
        """How close to its bound: > 1 or NaN is a violation; a bound of 0 allows nothing."""
        if self.bound is None:
            return 0.0
        return self.value / self.bound if self.bound else (0.0 if self.value == 0 else float("inf"))

    def to_record(self) -> dict[str, Any]:
        kind = "reported" if self.bound is None else "judged"
        return {"name": self.name, "value": float(self.value), "bound": self.bound, "kind": kind}

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.4g}" + ("" if self.bound is None else f" (bound {self.bound:.4g})")
