"""The processes that a model is split over.

`tp` x `ep` of them: process r is number r % tp of those that split every expert, and number r // tp of those that hold different experts.
Attention, dense layers, embedding and head are split over tp and repeated over ep.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Degrees:
    """How many processes of which kind of device."""

    tp: int
    ep: int
    device: str = "cpu"

    @property
    def size(self) -> int:
        return self.tp * self.ep


@dataclass(frozen=True)
class Mesh:
    """Of process `rank`. `group`: of torch.distributed, the tp processes that this one adds up with, or what stands for them
    (`collectives.Region`); None where nothing is computed, or alone."""

    tp: int = 1
    ep: int = 1
    rank: int = 0
    group: Any = None

    @property
    def size(self) -> int:
        return self.tp * self.ep

    @property
    def tp_rank(self) -> int:
        return self.rank % self.tp

    @property
    def ep_rank(self) -> int:
        return self.rank // self.tp
