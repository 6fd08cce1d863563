"""By what honest rounding may change a margin inside the model, measured with the honest variants of the catalogue.

Legend: N honest variants, B prompts, L MoE layers, S sequence, E experts, K top-k.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import stats

from harness.cases import Case
from harness.faults.catalogue import HONEST_VARIANTS, backend
from harness.faults.subject import SubjectModel
from harness.judge.certificate import SCORE_ROUNDING
from harness.oracle.routing import ranks_logits
from harness.prompts.reading import rankings
from implementations.interface import LoadSpec, PinnedRouting, Request, Routing, RoutingSpec

# One clear prompt in 100 000 may be noisier than the bound, at 95 % confidence: a run of five families in three dtypes asks about a hundred
# prompts, so that one run in a thousand meets such a one.
COVERAGE, CONFIDENCE = 1 - 1e-5, 0.95


@dataclass(frozen=True)
class Noise:
    """Measured on one case in one dtype. `calibration_BS`: prompts that are not searched for, which say how much worse than a typical
    error the worst one is."""

    case: Case
    dtype: str
    calibration_BS: np.ndarray

    @cached_property
    def _pinned_LBSK(self) -> np.ndarray:
        return np.stack([self.case.oracle.forward(row).topk_ids_LSK for row in self.calibration_BS], axis=1)

    @cached_property
    def models(self) -> list[SubjectModel]:
        """Honest variants, those alone that differ in some bit of a router logit."""
        spec = LoadSpec(dtype=self.dtype, max_batch=len(self.calibration_BS), max_length=self.calibration_BS.shape[1])
        every = (backend(variant.id).load(str(self.case.checkpoint), spec) for variant in HONEST_VARIANTS)
        return list({_run(model, self.calibration_BS, self._pinned_LBSK)[0].tobytes(): model for model in every}.values())

    @cached_property
    def factor(self) -> float:
        """How much worse than typical the worst token of a prompt may be: the normal tolerance limit of log max(error / typical error)
        over variants and calibration prompts. Rounding errors of different prompts count as different draws."""
        spread_NLBS = self.spreads(self.calibration_BS, self._pinned_LBSK)
        worst = np.log(np.max(spread_NLBS / typical(spread_NLBS), axis=(1, 3))).ravel()
        return float(np.exp(worst.mean() + tolerance_factor(len(worst)) * worst.std(ddof=1)))

    @cached_property
    def typical_L(self) -> np.ndarray:
        """Typical error of a layer on the calibration prompts: the median over tokens."""
        return np.median(typical(self.spreads(self.calibration_BS, self._pinned_LBSK)), axis=(1, 2))

    def bound(self, input_ids_BS: np.ndarray, pinned_LBSK: np.ndarray) -> np.ndarray:
        """noise_LBS: what any honest implementation may take from a margin there."""
        return self.factor * typical(self.spreads(input_ids_BS, pinned_LBSK))

    def spreads(self, input_ids_BS: np.ndarray, pinned_LBSK: np.ndarray) -> np.ndarray:
        """(N, L, B, S): by what each variant changes a margin. The experts are pinned, so that no flip adds to it; where none flips, that
        is how the variants run freely."""
        oracle = self.case.oracle
        runs = (oracle.forward(row, pinned_LBSK[:, b]) for b, row in enumerate(input_ids_BS))
        expected_LBSE = np.stack([rankings(oracle, run) for run in runs], axis=1)
        observed = (self._rankings(model, input_ids_BS, pinned_LBSK) for model in self.models)
        return np.stack([moved(ranking_LBSE - expected_LBSE, oracle.config.routing) for ranking_LBSE in observed])

    def selections(self, input_ids_BS: np.ndarray) -> np.ndarray:
        """ids_NLBSK of the variants, sorted, running freely."""
        B, S = input_ids_BS.shape
        found = (_run(model, input_ids_BS)[1] for model in self.models)
        return np.stack([np.sort(ids_LTK).reshape(len(ids_LTK), B, S, -1) for ids_LTK in found])

    def _rankings(self, model: SubjectModel, input_ids_BS: np.ndarray, pinned_LBSK: np.ndarray) -> np.ndarray:
        logits_LTE = _run(model, input_ids_BS, pinned_LBSK)[0].astype(np.float64)
        ranking_LTE = np.stack([self.case.oracle.ranking(layer, logits_TE) for layer, logits_TE in enumerate(logits_LTE)])
        return ranking_LTE.reshape(len(ranking_LTE), *input_ids_BS.shape, -1)


def _run(model: SubjectModel, input_ids_BS: np.ndarray, pinned_LBSK: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(router_logits_LTE, ids_LTK)."""
    model.reset()
    B, S = input_ids_BS.shape
    pinned = None if pinned_LBSK is None else PinnedRouting(pinned_LBSK.reshape(len(pinned_LBSK), B * S, -1))
    routing = model.prefill(input_ids_BS, np.full(B, S), Request(logits="none", routing=True, pinned=pinned)).routing
    assert isinstance(routing, Routing) and routing.router_logits_LTE is not None
    return routing.router_logits_LTE, routing.topk_ids_LTK


def moved(error_LBSE: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """By what errors of a ranking may change its gap: the difference between the largest and the smallest, plus the rounding of two float32
    scores where scores are ranked. Groups, whose strength is the sum of two, move twice as far."""
    spread_LBS = error_LBSE.max(-1) - error_LBSE.min(-1) + (0.0 if ranks_logits(spec) else 2 * SCORE_ROUNDING)
    return (2 if spec.num_groups > 1 else 1) * spread_LBS


def typical(spread_NLBS: np.ndarray) -> np.ndarray:
    """The geometric mean over the variants: honest errors differ by factors."""
    return np.exp(np.log(spread_NLBS).mean(0))


def tolerance_factor(count: int, coverage: float = COVERAGE, confidence: float = CONFIDENCE) -> float:
    """k such that mean + k * standard deviation of `count` normal draws lies above a share `coverage` of all of them with `confidence`
    (one-sided; Owen 1968), from the noncentral t distribution."""
    root = math.sqrt(count)
    return float(stats.nct.ppf(confidence, count - 1, stats.norm.ppf(coverage) * root) / root)
