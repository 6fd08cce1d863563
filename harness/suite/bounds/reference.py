"""One honest implementation, the numpy subject, run on the very input that a candidate was given: how far rounding takes it.

Weights and inputs amplify rounding by factors that no table can know (a random peaked Qwen3-MoE 3.5 times as much as a trained one). Floors
are therefore ratios to a reference, and carry over to any checkpoint. Legend: T tokens, S sequence, K top-k, L MoE layers, E experts, V
vocabulary, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from moe_harness.cases.cases import Case
from moe_harness.emulator.inputs import FAMILIES
from moe_harness.emulator.subject import SubjectBackend, SubjectModel
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.families.weights import parameter_counts
from moe_harness.implementations.interface import LoadSpec, PinnedRouting, Request
from moe_harness.judge.errors import block_errors, logit_errors, median_kl, router_errors
from moe_harness.oracle.memo import Memo

LARGEST = 500_000_000  # parameters; of a larger checkpoint the table's typical errors are taken
LONGEST = 512  # positions that it can hold
Errors = dict[str, float]  # by name of the metric


@dataclass(frozen=True)
class Pass:
    """One sequence through the reference and through the oracle with the reference's experts; `free_SV`: the oracle by itself."""

    logits_SV: np.ndarray
    pinned_SV: np.ndarray
    free_SV: np.ndarray | None
    router_LSE: np.ndarray
    pinned_router_LSE: np.ndarray

    def errors(self, at: slice | np.ndarray = slice(None)) -> Errors:
        """Of the positions `at`."""
        return logit_errors(self.logits_SV[at], self.pinned_SV[at]) | router_errors(self.router_LSE[:, at], self.pinned_router_LSE[:, at])

    @property
    def divergence(self) -> float:
        """KL (nats) of the median position from the oracle by itself."""
        assert self.free_SV is not None
        return median_kl(self.free_SV, self.logits_SV)


@dataclass(frozen=True)
class Reference:
    """On one case in one dtype."""

    case: Case
    dtype: str

    def block(self, layer: int, x_TD: np.ndarray, pinned: PinnedRouting, rows: np.ndarray | slice = slice(None)) -> Errors:
        """Of one MoE block under these experts, with these weights or its own; of `rows` of its output."""
        model, memo = _running(self.case.checkpoint, self.dtype)
        ids_TK, weights_TK = pinned.topk_ids_LTK[0], one_layer_weights(pinned)
        observed_TD = memo(lambda *asked: model.moe_block(layer, x_TD, pinned), layer, x_TD, ids_TK, weights_TK)
        expected_TD = self.case.oracle.moe_block(layer, x_TD, ids_TK, weights_TK)[0]
        return block_errors(observed_TD[rows], expected_TD[rows], ids_TK[rows])

    def forward(self, input_ids_S: np.ndarray, pinned: PinnedRouting | None = None) -> Pass:
        """Of a whole sequence, with its own experts unless they are pinned."""
        ids_S, oracle = np.asarray(input_ids_S, np.int64), self.case.oracle
        logits_SV, ids_LSK, router_LSE = self._answer(ids_S, pinned)
        weights_LSK = None if pinned is None or pinned.topk_weights_LTK is None else pinned.topk_weights_LTK.astype(np.float64)
        expected = oracle.forward(ids_S, ids_LSK, weights_LSK)
        free_SV = oracle.forward(ids_S).logits_SV if pinned is None else None
        return Pass(logits_SV, expected.logits_SV, free_SV, router_LSE, expected.router_logits_LSE)

    def _answer(self, ids_S: np.ndarray, pinned: PinnedRouting | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        model, memo = _running(self.case.checkpoint, self.dtype)

        def answer(*asked: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            model.reset()
            out = model.prefill(ids_S[None], np.array([len(ids_S)]), Request("all", True, pinned=pinned))
            assert out.logits_BSV is not None and out.routing is not None and out.routing.router_logits_LTE is not None
            return out.logits_BSV[0], out.routing.topk_ids_LTK, out.routing.router_logits_LTE

        return memo(answer, ids_S, *(() if pinned is None else (pinned.topk_ids_LTK, pinned.topk_weights_LTK)))


def one_layer_weights(pinned: PinnedRouting) -> np.ndarray | None:
    """weights_TK in float64 of what is pinned for one layer; None: the block's own."""
    return None if pinned.topk_weights_LTK is None else pinned.topk_weights_LTK[0].astype(np.float64)


def can_refer(case: Case) -> bool:
    return parameter_counts(case.config)[0] <= LARGEST and case.config.family in FAMILIES


@lru_cache(maxsize=16)
def _running(checkpoint: Path, dtype: str) -> tuple[SubjectModel, Memo]:
    """The reference on one checkpoint, and what it has answered: several checks, and several backends, ask about the same input."""
    with Checkpoint(checkpoint) as opened:
        longest = min(LONGEST, opened.config.max_position_embeddings)
    return SubjectBackend().load(str(checkpoint), LoadSpec(dtype, max_batch=1, max_length=longest)), Memo()
