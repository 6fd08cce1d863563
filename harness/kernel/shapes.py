"""Layer shapes at which a kernel is asked. Legend: E experts, K top-k, D hidden, F expert FFN."""

from __future__ import annotations

from dataclasses import dataclass

from moe_harness.implementations.interface import InvalidInput, ModelConfig

SMALL, TRUE = "small", "true"


@dataclass(frozen=True)
class Shape:
    name: str
    E: int
    K: int
    D: int
    F: int

    @property
    def parameters(self) -> int:
        """Of all experts together."""
        return 3 * self.E * self.D * self.F

    def __str__(self) -> str:
        return f"E={self.E} K={self.K} D={self.D} F={self.F}"


def small_shapes(config: ModelConfig, dims: tuple[int, int] | None = None) -> dict[str, Shape]:
    """The model's E and K at small D and F: `small`, where all dimensions differ, and two square ones, where a transposed weight has the
    right shape. `dims`: (D, F) for a kernel that takes only multiples of its tile. Raises InvalidInput for dims it cannot halve."""
    E, K = config.routing.num_experts, config.routing.top_k
    D, F = dims or (96 if E <= 64 else 48, 80)  # smaller where there are many experts, so that an export stays below 30 MB
    if D < 2 or F < 1 or D % 2:
        raise InvalidInput(f"small shape D={D} F={F}: D must be even and both positive")
    found = (Shape(SMALL, E, K, D, F), Shape("square-gate-up", E, K, D, D // 2), Shape("square-down", E, K, D, D))
    return {shape.name: shape for shape in found}


def true_shape(config: ModelConfig) -> Shape:
    """That of the model's own layer."""
    return Shape(TRUE, config.routing.num_experts, config.routing.top_k, config.hidden_size, config.moe_intermediate_size)
