"""The experts that a process holds, each split over tp: what they add to the output of a block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_harness.implementations.neuron import dispatch
from moe_harness.implementations.neuron.dispatch import Places
from moe_harness.implementations.neuron.linear import ColumnParallelLinear, RowParallelLinear, frozen


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up; the last dimension holds gate first, then up."""
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


class MLP(nn.Module):
    """A dense layer, or a shared expert."""

    def __init__(self, gate_up: ColumnParallelLinear, down: RowParallelLinear):
        super().__init__()
        self.gate_up, self.down = gate_up, down

    def forward(self, x: Tensor) -> Tensor:
        return self.down(swiglu(self.gate_up(x)))


class Experts(nn.Module):
    """`gate_up` [E, D, 2F] (gate, then up) and `down` [E, F, D] of the experts `first` .. `first` + E - 1, F this process's share."""

    def __init__(self, gate_up: Tensor, down: Tensor, first: int, block: int):
        super().__init__()
        self.gate_up, self.down = frozen(gate_up), frozen(down)
        self.first, self.block = first, block

    def forward(self, path: str, x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor, room: tuple[Tensor, int] | None) -> Tensor:
        """This process's part of the sum. `room`: of the path `capacity`, each choice's number at its expert, and places an expert."""
        held = len(self.gate_up)
        if path == "all":
            return self._all(x_TD, ids_TK, weights_TK)
        if path == "capacity":
            assert room is not None
            return self._placed(dispatch.capacity(ids_TK, *room, self.first, held), x_TD, weights_TK, whole=True)
        if path == "selective":
            return self._placed(dispatch.selective(ids_TK, self.first, held), x_TD, weights_TK)
        return self._placed(dispatch.blockwise(ids_TK, self.block, self.first, held), x_TD, weights_TK)

    def _all(self, x_TD: Tensor, ids_TK: Tensor, weights_TK: Tensor) -> Tensor:
        T, held = len(x_TD), len(self.gate_up)
        local_TK = (ids_TK - self.first + 1).clamp(0, held + 1)  # 0 and held + 1: of others
        weights_TE = weights_TK.new_zeros(T, held + 2).scatter(1, local_TK, weights_TK)[:, 1:-1]
        hidden_ETF = swiglu(torch.matmul(x_TD, self.gate_up))  # einsum would copy the weights
        return torch.bmm(hidden_ETF, self.down).mul(weights_TE.T[..., None]).sum(0)

    def _placed(self, places: Places, x_TD: Tensor, weights_TK: Tensor, whole: bool = False) -> Tensor:
        """Tokens go to their places, through the experts, and back; an empty place holds zeros. `whole`: the groups are the experts."""
        (T, D), K = x_TD.shape, weights_TK.shape[1]
        G, M = len(places.expert_G), places.size
        token_C = torch.arange(T, device=x_TD.device)[:, None].expand(T, K).flatten()
        token_P = token_C.new_full((G * M + 1,), T).scatter(0, places.index_TK.flatten(), token_C)[:-1]
        x_GMD = torch.cat((x_TD, x_TD.new_zeros(1, D)))[token_P].view(G, M, D)
        gate_up, down = (self.gate_up, self.down) if whole else (self.gate_up[places.expert_G], self.down[places.expert_G])
        y_PD = torch.bmm(swiglu(torch.bmm(x_GMD, gate_up)), down).flatten(0, 1)
        y_TKD = torch.cat((y_PD, y_PD.new_zeros(1, D)))[places.index_TK]
        return (y_TKD * weights_TK[..., None]).sum(1)
