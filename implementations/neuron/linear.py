"""Linear maps and the embedding, split over the tp processes of a mesh. Weights are each process's own part."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from moe_harness.implementations.neuron.collectives import gather_tp, sum_tp
from moe_harness.implementations.neuron.mesh import Mesh


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
