"""By what honest rounding may change a margin inside the model, measured with the honest kinds of the catalogue.

Legend: N honest kinds, B prompts, L MoE layers, S sequence, E experts, K top-k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from moe_harness.build_golden.reading import rankings
from moe_harness.cases.cases import Case
from moe_harness.emulator.subject import SubjectBackend, SubjectModel
from moe_harness.implementations.interface import LoadSpec, PinnedRouting, Request, Routing, RoutingSpec
from moe_harness.judge.certificate import SCORE_ROUNDING
from moe_harness.mutants.catalogue import SEEDED_KINDS, honest
from moe_harness.oracle.routing import gap, ranks_logits
from moe_harness.stats.tolerance import spread

# One clear prompt in 100 000 may be noisier than the bound, at 95 % confidence: a run of five families in three dtypes asks about a hundred
# prompts, so that one run in a thousand meets such a one.
EXCEEDED, CONFIDENCE = 1e-5, 0.95
MOST = 64  # prompts at once
SCOUTS = 20  # every twentieth kind stands for all while a search goes on


@dataclass(frozen=True)
class Noise:
    """Measured on one case in one dtype. `calibration_BS`: prompts that are not searched for, which say how much worse than a typical
    error the worst one is."""

    case: Case
    dtype: str
    calibration_BS: np.ndarray

    @cached_property
    def models(self) -> dict[str, SubjectModel]:
        """Every honest kind of the catalogue, over the same weights."""
        B, S = self.calibration_BS.shape
        loaded = SubjectBackend().load(str(self.case.checkpoint), LoadSpec(dtype=self.dtype, max_batch=B, max_length=S))
        return {kind.id: SubjectModel(replace(loaded.network, seams=honest(kind.id)), loaded.spec) for kind in SEEDED_KINDS}

    @cached_property
    def factor(self) -> float:
        """How much worse than typical the worst token of a prompt may be: the tolerance limit of max(error / typical error) over kinds and
        calibration prompts."""
        worst_NB = np.log(np.max(self._calibration_NLBS / typical(self._calibration_NLBS), axis=(1, 3)))
        kinds, prompts = np.repeat(list(self.models), worst_NB.shape[1]), np.tile(np.arange(worst_NB.shape[1]).astype(str), len(worst_NB))
        return float(np.exp(spread(worst_NB.ravel(), list(kinds), list(prompts)).limit(EXCEEDED, CONFIDENCE)))

    @cached_property
    def typical_L(self) -> np.ndarray:
        """Typical error of a layer on the calibration prompts: the median over tokens."""
        return np.median(typical(self._calibration_NLBS), axis=(1, 2))

    @cached_property
    def _calibration_NLBS(self) -> np.ndarray:
        pinned_LBSK = np.stack([self.case.oracle.forward(row).topk_ids_LSK for row in self.calibration_BS], axis=1)
        return self.spreads(self.calibration_BS, pinned_LBSK, list(self.models.values()))

    def bound(self, input_ids_BS: np.ndarray, pinned_LBSK: np.ndarray, scouts: bool = False) -> np.ndarray:
        """noise_LBS: what any honest implementation may take from a margin there. `scouts`: as some of the kinds have it."""
        asked = list(self.models.values())[:: SCOUTS if scouts else 1]
        return self.factor * typical(self.spreads(input_ids_BS, pinned_LBSK, asked))

    def spreads(self, input_ids_BS: np.ndarray, pinned_LBSK: np.ndarray, asked: Sequence[SubjectModel]) -> np.ndarray:
        """(N, L, B, S): by what each of the models asked changes a margin. The experts are pinned, so that no flip adds to it; where none
        flips, that is how they run freely."""
        oracle = self.case.oracle
        runs = (oracle.forward(row, pinned_LBSK[:, b]) for b, row in enumerate(input_ids_BS))
        expected_LBSE = np.stack([rankings(oracle, run) for run in runs], axis=1)
        observed = (self._rankings(model, input_ids_BS, pinned_LBSK) for model in asked)
        return np.stack([moved(ranking_LBSE - expected_LBSE, oracle.config.routing) for ranking_LBSE in observed])

    def selections(self, input_ids_BS: np.ndarray) -> np.ndarray:
        """ids_NLBSK of all kinds, sorted, running freely."""
        B, S = input_ids_BS.shape
        found = (_run(model, input_ids_BS)[1] for model in self.models.values())
        return np.stack([np.sort(ids_LTK).reshape(len(ids_LTK), B, S, -1) for ids_LTK in found])

    def margins_after(self, input_ids_BS: np.ndarray) -> np.ndarray:
        """margin_BL of the last token of each prompt, as the honest subject has it in float32, running freely."""
        logits_LTE = _run(self._exact, input_ids_BS)[0].astype(np.float64)
        last_LBE, oracle = logits_LTE.reshape(len(logits_LTE), *input_ids_BS.shape, -1)[:, :, -1], self.case.oracle
        return np.stack([gap(oracle.ranking(layer, logits_BE), oracle.config.routing) for layer, logits_BE in enumerate(last_LBE)], axis=1)

    @cached_property
    def _exact(self) -> SubjectModel:
        spec = LoadSpec(max_batch=MOST, max_length=self.calibration_BS.shape[1])
        return SubjectBackend().load(str(self.case.checkpoint), spec)

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
    """The geometric mean over the kinds: honest errors differ by factors."""
    return np.exp(np.log(spread_NLBS).mean(0))
