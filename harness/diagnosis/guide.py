"""Leads a hypothesis along the candidate's own selections, and notes where it would have chosen otherwise.

A flip of an expert changes everything behind it. So what a hypothesis selects is compared with what the candidate selected, token by token,
and then the candidate's choice is used: what follows is smooth in the rounding errors and can be compared tightly. A difference is excused
where the hypothesis, its logits moved by what rounding may move them in favour of the candidate's experts, selects these.

Legend: T tokens, E experts, K top-k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from moe_harness.emulator.seams import Seams, changed
from moe_harness.implementations.interface import RoutingSpec

Select = Callable[..., np.ndarray]


@dataclass(frozen=True)
class Steps:
    """The candidate's selection in one MoE layer of one call. `known_T`: False where it was not shown. `allowed`: by how much rounding may
    move the router logits (T, E) that it is given."""

    ids_TK: np.ndarray
    known_T: np.ndarray
    allowed: Callable[[np.ndarray], np.ndarray | float]


class Diverged(Exception):
    """The hypothesis selects otherwise: no need to go on."""


@dataclass
class Guide:
    """Consumes one `Steps` per selection. `strict`: raises Diverged at the first selection that differs without excuse. `differing`: tokens
    whose selection did."""

    steps: Iterator[Steps]
    strict: bool = True
    differing: int = 0

    def lead(self, seams: Seams) -> Seams:
        select = seams.router.select

        def led(ranking_TE: np.ndarray, logits_TE: np.ndarray, spec: RoutingSpec) -> np.ndarray:
            return self._step(select, ranking_TE, logits_TE, spec)

        return changed(seams, select=led)

    def _step(self, select: Select, ranking_TE: np.ndarray, logits_TE: np.ndarray, spec: RoutingSpec) -> np.ndarray:
        own_TK, step = select(ranking_TE, logits_TE, spec), next(self.steps)
        if own_TK.shape != step.ids_TK.shape:
            raise ValueError(f"selects {own_TK.shape}, the candidate {step.ids_TK.shape}")
        differs_T = step.known_T & _differ(own_TK, step.ids_TK)
        legal_T = np.asarray(((step.ids_TK >= 0) & (step.ids_TK < spec.num_experts)).all(-1))
        if (differs_T & legal_T).any():
            favoured_TK = select(*_in_favour(ranking_TE, logits_TE, step, legal_T, spec), spec)
            differs_T &= _differ(favoured_TK, step.ids_TK)
        self.differing += int(differs_T.sum())
        if self.strict and self.differing:
            raise Diverged
        return np.where((step.known_T & legal_T)[:, None], step.ids_TK, own_TK)


def _differ(some_TK: np.ndarray, others_TK: np.ndarray) -> np.ndarray:
    return (np.sort(some_TK, axis=-1) != np.sort(others_TK, axis=-1)).any(-1)


def _in_favour(
    ranking_TE: np.ndarray, logits_TE: np.ndarray, step: Steps, legal_T: np.ndarray, spec: RoutingSpec
) -> tuple[np.ndarray, np.ndarray]:
    """(ranking, logits) with the candidate's experts moved up by twice what is allowed: what two experts may err by. A softmax score
    moves in proportion, a sigmoid's by a quarter of its logit at most; ties and float32 scores by a few roundings."""
    move = 2 * np.asarray(step.allowed(logits_TE), np.float32)
    chosen_TE = np.zeros(logits_TE.shape, bool)
    np.put_along_axis(chosen_TE, np.where(legal_T[:, None], step.ids_TK, 0), True, axis=-1)
    chosen_TE &= legal_T[:, None]
    rounding = 2.0**-20
    grown = ranking_TE * np.exp(move) if spec.scoring == "softmax" else ranking_TE + move / 4
    grown = grown + np.float32(rounding) * np.abs(ranking_TE)
    lifted_TE = logits_TE + move + np.float32(rounding) * np.abs(logits_TE)
    return np.where(chosen_TE, grown, ranking_TE).astype(np.float32), np.where(chosen_TE, lifted_TE, logits_TE).astype(np.float32)
