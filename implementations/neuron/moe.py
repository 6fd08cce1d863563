"""The MoE block: router, dispatch, experts, shared expert, and one sum over all processes at the end. All shapes follow from the number of
tokens alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_harness.implementations.common.torch.memory import check_copy
from moe_harness.implementations.common.torch.values import Choice, Pin
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.implementations.neuron.layers import ColumnParallelLinear, RowParallelLinear, frozen, sum_all
from moe_harness.implementations.neuron.mesh import Mesh
from moe_harness.implementations.neuron.settings import Rule


class Router(nn.Module):
    """Every process has all of it. `weight_ED`, `bias_E` and their dtype: those of the linear map, to which hidden states are cast."""

    def __init__(self, spec: RoutingSpec, weight_ED: Tensor, correction_E: Tensor | None, bias_E: Tensor | None = None):
        super().__init__()
        self.spec, self.weight = spec, frozen(weight_ED)
        self.bias = None if bias_E is None else frozen(bias_E)
        self.correction = None if correction_E is None else frozen(correction_E)

    def forward(self, x_TD: Tensor, pin: Pin | None = None) -> Choice:
        """Weights are the chosen scores as they are: they are normalised when it is known who is dropped. Pinned ones are final."""
        logits_TE = F.linear(x_TD.to(self.weight.dtype), self.weight, self.bias)
        scores_TE = self._scores(logits_TE)
        ids_TK = self._select(logits_TE, scores_TE) if pin is None else pin.ids_TK
        if pin is not None and pin.weights_TK is not None:
            return Choice(logits_TE, ids_TK, pin.weights_TK.to(x_TD.dtype))
        return Choice(logits_TE, ids_TK, scores_TE.gather(1, ids_TK).to(x_TD.dtype))

    def finish(self, weights_TK: Tensor) -> Tensor:
        """The weights that outputs are combined with: those of a token add up to what the spec says; what is dropped is 0 already."""
        if self.spec.normalize_topk:
            total_T1 = weights_TK.sum(-1, keepdim=True)
            weights_TK = weights_TK / total_T1.clamp_min(torch.finfo(total_T1.dtype).tiny)  # all of a token's may be dropped
        return weights_TK if self.spec.scaling_factor == 1.0 else weights_TK * self.spec.scaling_factor

    def _scores(self, logits_TE: Tensor) -> Tensor:
        """In float64, but on a device that has none in float32."""
        wide_TE = logits_TE.to(torch.float64 if logits_TE.device.type in ("cpu", "cuda", "meta") else torch.float32)
        return wide_TE.sigmoid() if self.spec.scoring == "sigmoid" else wide_TE.softmax(-1)

    def _select(self, logits_TE: Tensor, scores_TE: Tensor) -> Tensor:
        """Logits rank as scores do. With a correction or groups the scores are ranked."""
        if self.correction is None and self.spec.num_groups == 1:
            return logits_TE.topk(self.spec.top_k, -1).indices
        ranking_TE = scores_TE if self.correction is None else scores_TE + self.correction
        return self._in_top_groups(ranking_TE).topk(self.spec.top_k, -1).indices

    def _in_top_groups(self, ranking_TE: Tensor) -> Tensor:
        """-inf outside of the groups whose two best add up to most."""
        if self.spec.num_groups == 1:
            return ranking_TE
        ranking_TGM = ranking_TE.unflatten(1, (self.spec.num_groups, -1))
        best_TG = ranking_TGM.topk(2, -1).values.sum(-1).topk(self.spec.top_groups, -1).indices
        kept_TG = torch.zeros_like(ranking_TGM[..., 0], dtype=torch.bool).scatter(1, best_TG, True)
        return ranking_TGM.masked_fill(~kept_TG[..., None], -torch.inf).flatten(1)


def positions(ids_TK: Tensor, num_experts: int, valid_T: Tensor | None = None) -> Tensor:
    """The number of each choice among those of its expert, from 1, in the order of the tokens; whatever its rank and weight. `valid_T`: the
    tokens that count, None for all; the others come behind every place."""
    chosen_TE = torch.zeros(len(ids_TK), num_experts, dtype=torch.int64, device=ids_TK.device).scatter(1, ids_TK, 1)
    if valid_T is None:
        return chosen_TE.cumsum(0).gather(1, ids_TK)
    number_TK = (chosen_TE * valid_T[:, None]).cumsum(0).gather(1, ids_TK)
    return number_TK.masked_fill(~valid_T[:, None], len(ids_TK) + 1)


@dataclass(frozen=True)
class Places:
    """`index_TK`: the place of each choice, G * M for one that has none here. G groups of M places; group g belongs to expert
    `expert_G`."""

    index_TK: Tensor
    expert_G: Tensor
    size: int


def selective(ids_TK: Tensor, first: int, held: int) -> Places:
    """A group of one place for every choice. An expert that another process holds has no place."""
    local_TK, here_TK = _local(ids_TK, first, held)
    index_TK = torch.arange(ids_TK.numel(), device=ids_TK.device).view_as(ids_TK)
    return Places(index_TK.where(here_TK, index_TK.numel()), local_TK.flatten(), 1)


def capacity(ids_TK: Tensor, position_TK: Tensor, size: int, first: int, held: int) -> Places:
    """A group of `size` places for every expert that is held."""
    local_TK, here_TK = _local(ids_TK, first, held)
    index_TK = local_TK * size + position_TK - 1
    return Places(index_TK.where(here_TK & (position_TK <= size), held * size), torch.arange(held, device=ids_TK.device), size)


def blockwise(ids_TK: Tensor, block: int, first: int, held: int) -> Places:
    """As many blocks as could be needed; an expert's blocks lie one after the other."""
    local_TK, here_TK = _local(ids_TK, first, held)
    one_hot_CE = torch.zeros(ids_TK.numel(), held, dtype=torch.int64, device=ids_TK.device)
    one_hot_CE = one_hot_CE.scatter(1, local_TK.flatten()[:, None], here_TK.flatten()[:, None].long())
    ends_E = ((one_hot_CE.sum(0) + block - 1) // block).cumsum(0)
    begins_E = torch.cat((ends_E.new_zeros(1), ends_E[:-1]))
    rank_TK = (one_hot_CE.cumsum(0) - 1).gather(1, local_TK.flatten()[:, None]).view_as(ids_TK)
    blocks = most_blocks(ids_TK.numel(), held, block)
    block_G1 = torch.arange(blocks, device=ids_TK.device)[:, None]
    expert_G = (ends_E <= block_G1).sum(1).clamp(max=held - 1)  # searchsorted, which XLA does not lower
    return Places((begins_E[local_TK] * block + rank_TK).where(here_TK, blocks * block), expert_G, block)


def most_blocks(choices: int, experts: int, block: int) -> int:
    """Every expert but one has a single choice in a block of its own, and that one all others."""
    return max(1, min(math.ceil((choices - (experts - 1)) / block) + experts - 1, choices))


def _local(ids_TK: Tensor, first: int, held: int) -> tuple[Tensor, Tensor]:
    """Number among the experts that are held, any for the others; and whether it is held."""
    local_TK = ids_TK - first
    return local_TK.clamp(0, held - 1), (local_TK >= 0) & (local_TK < held)


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
            return self._placed(capacity(ids_TK, *room, self.first, held), x_TD, weights_TK, whole=True)
        if path == "selective":
            return self._placed(selective(ids_TK, self.first, held), x_TD, weights_TK)
        return self._placed(blockwise(ids_TK, self.block, self.first, held), x_TD, weights_TK)

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


class SharedExpert(nn.Module):
    """One more SwiGLU, through which every token goes. `gate`: 1 x D, whose sigmoid multiplies the result (Qwen1.5-MoE), or None. Its `mlp`
    does not add up over processes: the block does."""

    def __init__(self, mlp: MLP, gate: Tensor | None):
        super().__init__()
        self.mlp, self.gate = mlp, None if gate is None else frozen(gate)

    def forward(self, x_TD: Tensor) -> Tensor:
        y_TD = self.mlp(x_TD)
        return y_TD if self.gate is None else torch.sigmoid(x_TD @ self.gate.T) * y_TD


class MoE(nn.Module):
    """`shared` None also where another process adds it. `mask_padding`: pads take no places (NxD lets them)."""

    def __init__(self, router: Router, experts: Experts, shared: SharedExpert | None, rule: Rule, mesh: Mesh, mask_padding: bool):
        super().__init__()
        self.router, self.experts, self.shared = router, experts, shared
        self.rule, self.mesh, self.mask_padding = rule, mesh, mask_padding

    def forward(self, x_TD: Tensor, sequence: int, valid_T: Tensor | None = None, pin: Pin | None = None) -> tuple[Tensor, Choice]:
        """T tokens of sequences `sequence` long. The Choice's weights are those that outputs were combined with; dropped ones are 0."""
        choice = self.router(x_TD, pin)
        path, ids_TK = self.rule.path(len(x_TD), sequence), choice.ids_TK
        room, dropped_TK = None, None
        if path == "capacity":
            position_TK = positions(ids_TK, self.rule.num_experts, valid_T if self.mask_padding else None)
            room = (position_TK, self.rule.capacity(len(x_TD)))
            dropped_TK = position_TK > room[1]
        is_final = pin is not None and pin.weights_TK is not None
        weights_TK = choice.weights_TK if dropped_TK is None else choice.weights_TK.masked_fill(dropped_TK, 0)
        weights_TK = weights_TK if is_final else self.router.finish(weights_TK)
        y_TD = self.experts(path, x_TD, ids_TK, weights_TK, room)
        if self.shared is not None:
            y_TD = y_TD + self.shared(x_TD)
        return sum_all(y_TD, self.mesh), Choice(choice.logits_TE, ids_TK, weights_TK, dropped_TK)


def check_gather(moe: MoE, tokens: int, sequence: int) -> None:
    """On a CPU, where nobody else does. Raises Unsupported as check_copy does."""
    experts, path = moe.experts, moe.rule.path(tokens, sequence)
    if path in ("all", "capacity") or experts.gate_up.device.type != "cpu":
        return
    choices, held = tokens * moe.rule.top_k, len(experts.gate_up)
    groups = choices if path == "selective" else most_blocks(choices, held, experts.block)
    check_copy(path, groups * (experts.gate_up.nbytes + experts.down.nbytes) // held, tokens, experts.gate_up.device)
