"""Expert load: the loss that evens it out while training, and the measures that show whether it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence

import torch


def balance_loss(router_logits: Sequence[torch.Tensor], top_k: int, mask_T: torch.Tensor) -> torch.Tensor:
    """Scalar, 1 at uniform load: the mean over layers of E * sum_e f_e * p_e, with f_e expert e's share of the selections and p_e its mean
    probability, over the tokens in `mask_T` (bool). `router_logits`: (T, E) for each layer.

    Source: Fedus et al. 2021 (Switch Transformers), equations 4-6, with f divided by K. One loss PER LAYER, unlike transformers'
    `load_balancing_loss_func`, which concatenates the layers first: an expert dead in one layer is then made up for by another layer.
    """
    return torch.stack([_layer_loss(logits_TE[mask_T], top_k) for logits_TE in router_logits]).mean()


def _layer_loss(logits_TE: torch.Tensor, top_k: int) -> torch.Tensor:
    return (loads(logits_TE, top_k) * logits_TE.softmax(-1).mean(0)).sum()


def loads(logits_TE: torch.Tensor, top_k: int) -> torch.Tensor:
    """(E,) float32: selections of each expert over those of a uniform router. Sums to E."""
    T, E = logits_TE.shape
    counts_E = torch.bincount(logits_TE.topk(top_k, dim=-1).indices.flatten(), minlength=E)
    return counts_E.float() * (E / (T * top_k))


def median_gap(logits_TE: torch.Tensor, top_k: int) -> float:
    """Median over tokens of the logit at rank K minus that at rank K+1: how far a typical token is from choosing otherwise. E > K."""
    ranked_TK = logits_TE.topk(top_k + 1, dim=-1).values
    return float((ranked_TK[:, top_k - 1] - ranked_TK[:, top_k]).median())


@dataclass(frozen=True)
class Balance:
    """Of one model over one text. `loads`: one list of E numbers per layer; `gaps`: the median gap of each layer."""

    loads: List[List[float]]
    gaps: List[float]

    @classmethod
    def of(cls, router_logits: Sequence[torch.Tensor], top_k: int) -> "Balance":
        return cls([loads(x, top_k).tolist() for x in router_logits], [median_gap(x, top_k) for x in router_logits])

    @property
    def load_min(self) -> float:
        return min(min(layer) for layer in self.loads)

    @property
    def load_max(self) -> float:
        return max(max(layer) for layer in self.loads)

    @property
    def gap_median(self) -> float:
        return min(self.gaps)
