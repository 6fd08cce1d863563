"""The MoE block: a router says which K of E experts a token goes to and with which weights their outputs are added; SwiGLU experts
(arXiv:2002.05202) compute them, tokens sorted by expert, every expert multiplying its own; a shared expert may take every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Protocol, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from moe_harness.implementations.common.torch.values import Choice, Pin
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.implementations.native.linear import Linear, steady_rows

WHOLE = 64  # elements: a multiple of what PyTorch's CPU loop takes at once (two vectors of 16 with AVX512, fewer otherwise)


def sigmoid(x: Tensor) -> Tensor:
    """What is left over after whole vectors goes through another, scalar exp on a CPU (seen: last bits of the last 31 elements); zeros fill
    up the last vector."""
    if x.device.type != "cpu" or x.numel() % WHOLE == 0:
        return x.sigmoid()
    return F.pad(x.flatten(), (0, -x.numel() % WHOLE)).sigmoid()[: x.numel()].view_as(x)


def logits_dtype(spec: RoutingSpec, dtype: torch.dtype) -> torch.dtype:
    """In which dtype the router's linear map runs: sigmoid routers' in float32, as HF's DeepSeek-V3 does, others' in the model's."""
    return torch.float32 if spec.scoring == "sigmoid" else dtype


@dataclass(frozen=True)
class Router:
    """Scores in float32, weights left in float32 until the experts' outputs are added (as HF's Mixtral does; HF's Qwen3 rounds them to the
    model's dtype first). `linear`: D -> E in `dtype`, see `logits_dtype`. `correction_E`: float32 in every dtype."""

    linear: Linear
    spec: RoutingSpec
    dtype: torch.dtype
    correction_E: Tensor | None = None

    def __call__(self, x_TD: Tensor, pin: Pin | None = None) -> Choice:
        logits_TE = self.linear(x_TD.to(self.dtype))
        ids_TK = self._select(logits_TE) if pin is None else pin.ids_TK
        if pin is not None and pin.weights_TK is not None:
            return Choice(logits_TE, ids_TK, pin.weights_TK)
        return Choice(logits_TE, ids_TK, self._weights(logits_TE.float(), ids_TK))

    def _select(self, logits_TE: Tensor) -> Tensor:
        """The K best, of equal ones the lower id. Scores grow with logits: without correction and groups, the logits' top-k is the scores',
        but for their underflow."""
        if self.correction_E is None and self.spec.num_groups == 1:
            return _best(logits_TE, self.spec.top_k)
        scores_TE = sigmoid(logits_TE.float()) if self.spec.scoring == "sigmoid" else logits_TE.float().softmax(-1)
        ranking_TE = scores_TE if self.correction_E is None else scores_TE + self.correction_E
        return _best(self._in_top_groups(ranking_TE), self.spec.top_k)

    def _in_top_groups(self, ranking_TE: Tensor) -> Tensor:
        """-inf outside of the groups whose two best sum up highest."""
        if self.spec.num_groups == 1:
            return ranking_TE
        ranking_TGM = ranking_TE.unflatten(1, (self.spec.num_groups, -1))
        groups_TG = ranking_TGM.topk(2, dim=-1).values.sum(-1)
        best_TG = torch.zeros_like(groups_TG, dtype=torch.bool).scatter_(1, _best(groups_TG, self.spec.top_groups), True)
        return ranking_TGM.masked_fill(~best_TG[..., None], -torch.inf).flatten(1)

    def _weights(self, logits_TE: Tensor, ids_TK: Tensor) -> Tensor:
        """The selected scores, without the correction."""
        chosen_TK = logits_TE.gather(1, ids_TK)
        weights_TK = self._sigmoid(chosen_TK) if self.spec.scoring == "sigmoid" else self._softmax(chosen_TK, logits_TE)
        return weights_TK if self.spec.scaling_factor == 1.0 else weights_TK * self.spec.scaling_factor

    def _softmax(self, chosen_TK: Tensor, logits_TE: Tensor) -> Tensor:
        """Softmax over the selected logits IS softmax over all divided by the selected ones' sum; only then may the two be swapped."""
        return chosen_TK.softmax(-1) if self.spec.normalize_topk else (chosen_TK - logits_TE.logsumexp(-1, keepdim=True)).exp()

    def _sigmoid(self, chosen_TK: Tensor) -> Tensor:
        scores_TK = sigmoid(chosen_TK)
        if not self.spec.normalize_topk:
            return scores_TK
        return scores_TK / scores_TK.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)  # all may underflow to 0


def _best(values_TE: Tensor, count: int) -> Tensor:
    return torch.sort(values_TE, dim=-1, descending=True, stable=True).indices[:, :count]


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


@dataclass(frozen=True)
class MoE:
    router: Router
    experts: Experts
    shared: SharedExpert | None = None

    def __call__(self, x_TD: Tensor, pin: Pin | None = None) -> Tuple[Tensor, Choice]:
        choice = self.router(x_TD, pin)
        y_TD = combine(self.experts(x_TD, choice.ids_TK), choice.weights_TK)
        return (y_TD if self.shared is None else y_TD + self.shared(x_TD)), choice
