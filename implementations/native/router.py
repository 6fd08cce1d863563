"""The router: which K experts a token goes to, and with which weights their outputs are added."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from implementations.interface import RoutingSpec
from implementations.native.linear import Linear


@dataclass(frozen=True)
class Pin:
    """Experts, and maybe weights, to use instead of the router's choice, for one MoE layer."""

    ids_TK: Tensor
    weights_TK: Tensor | None


@dataclass(frozen=True)
class Choice:
    """`logits_TE` in the model's dtype, `ids_TK` int64, `weights_TK` float32."""

    logits_TE: Tensor
    ids_TK: Tensor
    weights_TK: Tensor


@dataclass(frozen=True)
class Router:
    """Logits in the model's dtype, scores in float32, weights left in float32 until the experts' outputs are added (as HF's Mixtral does;
    HF's Qwen3 rounds them to the model's dtype first). `linear`: D -> E."""

    linear: Linear
    spec: RoutingSpec

    def __call__(self, x_TD: Tensor, pin: Pin | None = None) -> Choice:
        logits_TE = self.linear(x_TD)
        ids_TK = self._select(logits_TE) if pin is None else pin.ids_TK
        if pin is not None and pin.weights_TK is not None:
            return Choice(logits_TE, ids_TK, pin.weights_TK)
        return Choice(logits_TE, ids_TK, self._weights(logits_TE.float(), ids_TK))

    def _select(self, logits_TE: Tensor) -> Tensor:
        """The K largest logits, of equal ones the lower id. Scores grow with logits: this is their top-k, but for their underflow."""
        return torch.sort(logits_TE, dim=-1, descending=True, stable=True).indices[:, : self.spec.top_k]

    def _weights(self, logits_TE: Tensor, ids_TK: Tensor) -> Tensor:
        """Softmax over the selected logits IS softmax over all divided by the selected ones' sum; only then may the two be swapped."""
        chosen_TK = logits_TE.gather(1, ids_TK)
        if self.spec.scoring == "sigmoid":
            scores_TK = chosen_TK.sigmoid()
            return scores_TK / scores_TK.sum(-1, keepdim=True) if self.spec.normalize_topk else scores_TK
        if self.spec.normalize_topk:
            return chosen_TK.softmax(-1)
        return (chosen_TK - logits_TE.logsumexp(-1, keepdim=True)).exp()
