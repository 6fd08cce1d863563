"""What the processes of a mesh add up, and what they put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from moe_harness.implementations.neuron.mesh import Mesh


@dataclass(frozen=True)
class Region:
    """Stands for the group of a Mesh where one process traces the program of all: what adds up over them, and what puts their x beside each
    other along the last dimension."""

    add: Callable[[Tensor], Tensor]
    gather: Callable[[Tensor], Tensor]


def connected(tp: int, ep: int) -> Mesh:
    """The mesh over torch.distributed's default group, which must have as many processes. Every one of them calls this once."""
    rank = dist.get_rank()
    groups = [dist.new_group(list(range(first, first + tp))) for first in range(0, tp * ep, tp)]
    return Mesh(tp, ep, rank, groups[rank // tp])


def sum_tp(x: Tensor, mesh: Mesh) -> Tensor:
    """Over the tp processes."""
    return x if mesh.tp == 1 else _sum(x, mesh.group)


def sum_all(x: Tensor, mesh: Mesh) -> Tensor:
    """Over every process."""
    return x if mesh.size == 1 else _sum(x, mesh.group if mesh.ep == 1 else None)


def gather_tp(x: Tensor, mesh: Mesh) -> Tensor:
    """All tp processes' x beside each other, along the last dimension."""
    if mesh.tp == 1:
        return x
    if isinstance(mesh.group, Region):
        return mesh.group.gather(x.contiguous())
    parts = [torch.empty_like(x) for _ in range(mesh.tp)]
    dist.all_gather(parts, x.contiguous(), group=mesh.group)
    return torch.cat(parts, -1)


def _sum(x: Tensor, group: Any) -> Tensor:
    total = x.contiguous().clone()
    if isinstance(group, Region):
        return group.add(total)
    dist.all_reduce(total, group=group)
    return total
