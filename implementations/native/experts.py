"""E SwiGLU experts (arXiv:2002.05202): tokens are sorted by expert, every expert multiplies its own, the results are added by weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Protocol, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_harness.implementations.native.linear import Linear, steady_rows
from moe_harness.implementations.native.sigmoid import sigmoid


def least_rows(dtype: torch.dtype, device: torch.device, packed: bool, *columns: int) -> int:
    """Rows from which on the result of a row does not depend on how many there are, in products over so many columns. Of float32 on a CPU;
    elsewhere nothing is promised."""
    if dtype != torch.float32 or device.type != "cpu":
        return 1
    return max(steady_rows(each, dtype, packed) for each in columns)


class Experts(Protocol):
    def __call__(self, x_TD: Tensor, ids_TK: Tensor) -> Tensor:
        """Outputs y_TKD of the chosen experts, unweighted."""
        ...


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up; the last dimension holds gate first, then up."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def combine(y_TKD: Tensor, weights_TK: Tensor) -> Tensor:
    """The weighted sum over K, in float32, rounded once to the model's dtype."""
    return (y_TKD * weights_TK[..., None]).sum(1).to(y_TKD.dtype)


@dataclass(frozen=True)
class MLP:
    """One feed-forward block: an expert, or a whole dense layer."""

    gate_up: Linear
    down: Linear

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(x)))


def filled(mlp: MLP, x_MD: Tensor, least_rows: int) -> Tensor:
    """`mlp` of some rows, multiplied together with as many zero rows as `least_rows` asks for."""
    missing = least_rows - len(x_MD)
    return mlp(F.pad(x_MD, (0, 0, 0, missing)))[: len(x_MD)] if missing > 0 else mlp(x_MD)


@dataclass(frozen=True)
class SharedExpert:
    """One more SwiGLU, through which every token goes. `gate`: D -> 1, whose sigmoid multiplies the result (Qwen1.5-MoE), or None.
    `least_rows`: as in LoopExperts."""

    mlp: MLP
    gate: Linear | None
    least_rows: int

    def __call__(self, x_TD: Tensor) -> Tensor:
        y_TD = filled(self.mlp, x_TD, self.least_rows) if len(x_TD) > 1 else self.mlp(x_TD)
        return y_TD if self.gate is None else sigmoid(self.gate(x_TD)) * y_TD


@dataclass(frozen=True)
class LoopExperts:
    """One expert after the other. The loop runs on the host, so on a GPU it waits for the routing of every layer.

    `least_rows`: an expert multiplies at least so many rows in a call of several tokens, or what it returns for one of them would depend on
    how many others chose it.
    """

    experts: Tuple[MLP, ...]
    least_rows: int

    def __call__(self, x_TD: Tensor, ids_TK: Tensor) -> Tensor:
        (T, D), K = x_TD.shape, ids_TK.shape[1]
        if T == 1:
            return torch.stack([self.experts[e](x_TD) for e in ids_TK[0].tolist()], 1)
        y_SD = x_TD.new_empty(T * K, D)
        order_S = ids_TK.flatten().argsort(stable=True)
        for e, rows in self._groups(ids_TK, order_S):
            y_SD[rows] = self._multiply(e, x_TD[rows // K])
        return y_SD.view(T, K, D)

    def _groups(self, ids_TK: Tensor, order_S: Tensor) -> Iterator[Tuple[int, Tensor]]:
        """(expert, its slots in [0, T*K)) of every expert that was chosen."""
        counts = torch.bincount(ids_TK.flatten(), minlength=len(self.experts)).tolist()
        for e, rows in enumerate(order_S.split(counts)):
            if len(rows):
                yield e, rows

    def _multiply(self, e: int, x_MD: Tensor) -> Tensor:
        return filled(self.experts[e], x_MD, self.least_rows)


@dataclass(frozen=True)
class GroupedExperts:
    """All experts in one grouped matrix product, without a word from the host: made for CUDA."""

    gate_up_E2FD: Tensor
    down_EDF: Tensor

    def __call__(self, x_TD: Tensor, ids_TK: Tensor) -> Tensor:
        T, K = ids_TK.shape
        if T == 0:
            return x_TD.new_empty(0, K, x_TD.shape[1])
        sorted_S, order_S = ids_TK.flatten().sort(stable=True)
        experts_E = torch.arange(len(self.down_EDF), device=x_TD.device)
        ends_E = torch.searchsorted(sorted_S, experts_E, right=True).int()
        gate_up_S2F = F.grouped_mm(x_TD[order_S // K], self.gate_up_E2FD.mT, offs=ends_E)
        y_SD = F.grouped_mm(swiglu(gate_up_S2F), self.down_EDF.mT, offs=ends_E)
        return torch.empty_like(y_SD).index_copy_(0, order_S, y_SD).view(T, K, -1)
