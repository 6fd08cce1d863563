"""The processes that a model is split over, and the heads that each of them holds.

`tp` x `ep` of them: process r is number r % tp of those that split every expert, and number r // tp of those that hold different experts.
Attention, dense layers, embedding and head are split over tp and repeated over ep. Query and key heads must come out even over tp
processes, so some are repeated and some are empty.

Source of the rule: GQA sharding in NxD Core (REPLICATE_TO_TP_DEGREE where tp is a multiple of the key heads, else CONVERT_TO_MHA).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Tuple

EMPTY = -1


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
    (`layers.Region`); None where nothing is computed, or alone."""

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


@dataclass(frozen=True)
class Heads:
    """For every head of all processes, in order, the model's head that it is; EMPTY: zeros. `q` and `kv` divide by tp, and a process's
    query heads read its key heads in equal runs."""

    q: Tuple[int, ...]
    kv: Tuple[int, ...]

    def of(self, rank: int, tp: int) -> Heads:
        """Those of one process."""
        q, kv = len(self.q) // tp, len(self.kv) // tp
        return Heads(self.q[rank * q : (rank + 1) * q], self.kv[rank * kv : (rank + 1) * kv])


def spread(heads: int, kv_heads: int, tp: int) -> Heads:
    """`heads` a multiple of `kv_heads`."""
    if kv_heads % tp == 0:
        return Heads(tuple(range(heads)), tuple(range(kv_heads)))
    padded, group = -(-heads // tp) * tp, heads // kv_heads
    if tp % kv_heads == 0:
        return Heads(_interleaved(kv_heads, group, padded // kv_heads), tuple(r * kv_heads // tp for r in range(tp)))
    tail = (EMPTY,) * (padded - heads)
    return Heads((*range(heads), *tail), (*(q // group for q in range(heads)), *tail))


def _interleaved(groups: int, real: int, padded: int) -> Tuple[int, ...]:
    """Each group of query heads, filled up behind."""
    return tuple(g * real + i if i < real else EMPTY for g in range(groups) for i in range(padded))
