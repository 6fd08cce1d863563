"""Linear maps, embedding, norm and rotation, split over the tp processes of a mesh where they are large; and what the processes add up and
put together. Weights are each process's own part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

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


def frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


class ColumnParallelLinear(nn.Module):
    """The outputs are split: `weight` holds some rows of W, `bias` theirs. `gather`: whether every process gets all outputs."""

    def __init__(self, weight: Tensor, bias: Tensor | None, mesh: Mesh, gather: bool = False):
        super().__init__()
        self.weight, self.bias = frozen(weight), None if bias is None else frozen(bias)
        self.mesh, self.gather = mesh, gather

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        return gather_tp(y, self.mesh) if self.gather else y


class RowParallelLinear(nn.Module):
    """The inputs are split: `weight` holds some columns of W, and the processes add up. `bias`, whole, is added once, behind the sum."""

    def __init__(self, weight: Tensor, bias: Tensor | None, mesh: Mesh):
        super().__init__()
        self.weight, self.bias = frozen(weight), None if bias is None else frozen(bias)
        self.mesh = mesh

    def forward(self, x: Tensor) -> Tensor:
        y = sum_tp(F.linear(x, self.weight), self.mesh)
        return y if self.bias is None else y + self.bias


class ParallelEmbedding(nn.Module):
    """Split across the embedding: every process has some columns for every token, and all columns are gathered."""

    def __init__(self, weight: Tensor, mesh: Mesh):
        super().__init__()
        self.weight, self.mesh = frozen(weight), mesh

    def forward(self, ids_BS: Tensor) -> Tensor:
        return gather_tp(F.embedding(ids_BS, self.weight), self.mesh)


class RMSNorm(nn.Module):
    """Over the last dimension."""

    def __init__(self, weight: Tensor, eps: float):
        super().__init__()
        self.weight, self.eps = frozen(weight.to(torch.float32)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight, self.eps).to(x.dtype)


class Rope(nn.Module):
    """Tables for positions 0 .. length-1 in float32, as HF computes them, in `dtype` as it uses them."""

    def __init__(self, length: int, head_dim: int, theta: float, dtype: torch.dtype, device: torch.device):
        super().__init__()
        frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        angle_SP = (torch.arange(length, dtype=torch.float32)[:, None] * frequency).repeat(1, 2)
        self.register_buffer("cos_SP", angle_SP.cos().to(device, dtype))
        self.register_buffer("sin_SP", angle_SP.sin().to(device, dtype))

    def forward(self, positions_BS: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, [B, 1, S, P]: one rotation for all heads."""
        return self.cos_SP[positions_BS].unsqueeze(1), self.sin_SP[positions_BS].unsqueeze(1)


def rotate(x_BHSP: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rotation
    first, second = x_BHSP.chunk(2, -1)
    return x_BHSP * cos + torch.cat((-second, first), -1) * sin
