"""By which of NxD's four paths tokens come to their experts.

all         every expert multiplies every token, those not chosen by weight 0
selective   the weights of the chosen experts are gathered, token by token
capacity    every expert has C places, taken in the order of the tokens; who comes too late is dropped
blockwise   places in blocks of one expert each, as many blocks as can be needed: nothing is dropped
"""

from __future__ import annotations

import math
from dataclasses import dataclass

PATHS = ("all", "selective", "capacity", "blockwise")
BLOCK = 512  # places of a block
ALL_BELOW = 512  # choices (tokens times K) below which every expert multiplies every token


@dataclass(frozen=True)
class Rule:
    """How a model dispatches. `capacity_factor` None: nothing is dropped. `forced`: one path for every call, or None for NxD's choice."""

    num_experts: int
    top_k: int
    capacity_factor: float | None = None
    forced: str | None = None
    block: int = BLOCK

    @property
    def limited(self) -> float | None:
        """The capacity factor, or None where it leaves room for all."""
        factor = self.capacity_factor
        return None if factor is None or factor >= self.num_experts / self.top_k else factor

    def path(self, tokens: int, sequence: int) -> str:
        """For `tokens` of sequences `sequence` long; one token of each is decoding, where capacity has no say."""
        if sequence > 1 and self.limited is not None:
            return "capacity"
        if self.forced is not None:
            return self.forced
        sparse = tokens * self.top_k < self.num_experts
        if sparse:
            return "selective"
        return "all" if sequence == 1 or tokens * self.top_k < ALL_BELOW else "blockwise"

    def capacity(self, tokens: int) -> int:
        """Places of every expert; padding counts among the tokens."""
        factor = self.limited
        return tokens if factor is None else min(tokens, math.ceil(tokens * self.top_k * factor / self.num_experts))
