"""Expert load: the loss that evens it out while training, and the measures that show whether it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Sequence

import torch

from moe_harness.implementations.interface import RoutingSpec


@dataclass(frozen=True)
class Selection:
    """What one MoE layer's router did: its logits, the experts that it chose and, where it has one, its correction bias."""

    logits_TE: torch.Tensor
    ids_TK: torch.Tensor
    correction_E: torch.Tensor | None = None

    def masked(self, mask_T: torch.Tensor) -> Selection:
        return Selection(self.logits_TE[mask_T], self.ids_TK[mask_T], self.correction_E)


def balance_loss(selections: Sequence[Selection], spec: RoutingSpec, mask_T: torch.Tensor) -> torch.Tensor:
    """Scalar, 1 at uniform load: the mean over layers of E * sum_e f_e * p_e, with f_e expert e's share of the selections and p_e its mean
    score (sigmoid scores divided by their sum), over the tokens in `mask_T` (bool).

    Source: Fedus et al. 2021 (Switch Transformers), equations 4-6, with f divided by K; normalised sigmoid scores: DeepSeek-V3 technical
    report, equations 17-20. One loss PER LAYER, unlike transformers' `load_balancing_loss_func`, which concatenates the layers first: an
    expert dead in one layer is then made up for by another layer.
    """
    return torch.stack([_layer_loss(selection.masked(mask_T), spec) for selection in selections]).mean()


def _layer_loss(selection: Selection, spec: RoutingSpec) -> torch.Tensor:
    return (loads(selection) * _shares(selection.logits_TE, spec).mean(0)).sum()


def _shares(logits_TE: torch.Tensor, spec: RoutingSpec) -> torch.Tensor:
    """Scores that sum to 1 over the experts."""
    if spec.scoring == "softmax":
        return logits_TE.softmax(-1)
    scores_TE = logits_TE.sigmoid()
    return scores_TE / scores_TE.sum(-1, keepdim=True)


def loads(selection: Selection) -> torch.Tensor:
    """(E,) float32: selections of each expert over those of a uniform router. Sums to E."""
    (T, K), E = selection.ids_TK.shape, selection.logits_TE.shape[1]
    counts_E = torch.bincount(selection.ids_TK.flatten(), minlength=E)
    return counts_E.float() * (E / (T * K))


def median_gap(selection: Selection, spec: RoutingSpec) -> float:
    """Median over tokens of the gap: how many logits an expert would have to move for the router to choose otherwise. E > K."""
    if spec.scoring == "softmax":
        ranked_TK = selection.logits_TE.topk(spec.top_k + 1, dim=-1).values
        return float((ranked_TK[:, -2] - ranked_TK[:, -1]).median())
    return float(_gaps_of_scores(selection, spec).median())


def _gaps_of_scores(selection: Selection, spec: RoutingSpec) -> torch.Tensor:
    """(T,) Where not logits but sigmoid scores are ranked, corrected and in groups: by experts and, as a lower bound, by groups, since a
    sigmoid is nowhere steeper than 1/4."""
    scores_TE = selection.logits_TE.sigmoid()
    ranking_TE = scores_TE if selection.correction_E is None else scores_TE + selection.correction_E
    if spec.num_groups == 1:
        return _expert_gaps(scores_TE, ranking_TE, spec.top_k)
    ranking_TGM = ranking_TE.unflatten(1, (spec.num_groups, -1))
    groups_TG = ranking_TGM.topk(2, dim=-1).values.sum(-1)
    best_TG = torch.zeros_like(groups_TG, dtype=torch.bool).scatter(1, groups_TG.topk(spec.top_groups).indices, True)
    gaps_T = _expert_gaps(scores_TE, ranking_TGM.masked_fill(~best_TG[..., None], -torch.inf).flatten(1), spec.top_k)
    if spec.top_groups == spec.num_groups:
        return gaps_T
    ranked_TG = groups_TG.topk(spec.top_groups + 1).values
    return torch.minimum(gaps_T, 4 * (ranked_TG[:, -2] - ranked_TG[:, -1]))


def _expert_gaps(scores_TE: torch.Tensor, ranking_TE: torch.Tensor, top_k: int) -> torch.Tensor:
    """(T,) Logits by which the expert at rank K would have to fall, or that at K+1 to rise, for the two to change places."""
    ranked, ids_TK = ranking_TE.topk(top_k + 1, dim=-1)
    lead_T = ranked[:, -2] - ranked[:, -1]
    last_T, next_T = scores_TE.gather(1, ids_TK[:, -2:]).unbind(1)
    fall_T = last_T.logit() - (last_T - lead_T).clamp_min(0).logit()
    rise_T = (next_T + lead_T).clamp_max(1).logit() - next_T.logit()
    return torch.minimum(fall_T, rise_T)


@dataclass(frozen=True)
class Balance:
    """Of one model over one text. `loads`: one list of E numbers per layer; `gaps`: the median gap of each layer."""

    loads: List[List[float]]
    gaps: List[float]

    @classmethod
    def of(cls, selections: Sequence[Selection], spec: RoutingSpec) -> "Balance":
        return cls([loads(s).tolist() for s in selections], [median_gap(s, spec) for s in selections])

    @property
    def load_min(self) -> float:
        return min(min(layer) for layer in self.loads)

    @property
    def load_max(self) -> float:
        return max(max(layer) for layer in self.loads)

    @property
    def gap_median(self) -> float:
        return min(self.gaps)
