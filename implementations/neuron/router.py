"""The router as NxD has it: top-k of the raw logits, scores in float64, cast to the hidden states' dtype, normalised there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moe_harness.implementations.common.torch.values import Choice, Pin
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.implementations.neuron.linear import frozen


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
