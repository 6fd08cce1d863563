"""The router: which K experts a token goes to, and with which weights their outputs are added."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moe_harness.implementations.common.torch.values import Choice, Pin
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.implementations.native.linear import Linear
from moe_harness.implementations.native.sigmoid import sigmoid


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
