"""One honest implementation, the numpy subject, run on the very input that a candidate was given: how far rounding takes it.

Weights and inputs amplify rounding by factors that no table can know (a random peaked Qwen3-MoE 3.5 times as much as a trained one). Floors
are therefore ratios to a reference, and carry over to any checkpoint. Legend: T tokens, S sequence, K top-k, L MoE layers, E experts, V
vocabulary, D hidden.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from harness.cases import Case
from harness.faults.declared import FAMILIES
from harness.faults.subject import SubjectBackend, SubjectModel
from harness.judge.block import block_errors
from harness.judge.logits import logit_errors, median_kl, router_errors
from implementations.interface import LoadSpec, PinnedRouting, Request
from implementations.weights import parameter_counts

LARGEST = 50_000_000  # parameters; of a larger checkpoint the table's typical errors are taken
KEPT = 256  # answers
LONGEST = 512  # positions that it can hold
Errors = dict[str, float]  # by name of the metric
Answer = TypeVar("Answer")


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
        found = logit_errors(self.logits_SV[at], self.pinned_SV[at]) | router_errors(self.router_LSE[:, at], self.pinned_router_LSE[:, at])
        return found if self.free_SV is None else found | {"median_kl_nats": median_kl(self.free_SV[at], self.logits_SV[at])}


@dataclass(frozen=True)
class Reference:
    """On one case in one dtype."""

    case: Case
    dtype: str

    def block(self, layer: int, x_TD: np.ndarray, pinned: PinnedRouting, rows: np.ndarray | None = None) -> Errors:
        """Of one MoE block under these experts, with these weights or its own; of `rows` of its output."""
        key = (self, "block", layer, x_TD.tobytes(), *_bytes(pinned))
        observed_TD, expected_TD = _kept(key, lambda: self._block(layer, x_TD, pinned))
        rows = np.ones(len(x_TD), bool) if rows is None else rows
        return block_errors(observed_TD[rows], expected_TD[rows], pinned.topk_ids_LTK[0][rows])

    def forward(self, input_ids_S: np.ndarray, pinned: PinnedRouting | None = None) -> Pass:
        """Of a whole sequence, with its own experts unless they are pinned."""
        key = (self, "pass", np.asarray(input_ids_S).tobytes(), *_bytes(pinned))
        return _kept(key, lambda: self._forward(np.asarray(input_ids_S, np.int64), pinned))

    def _block(self, layer: int, x_TD: np.ndarray, pinned: PinnedRouting) -> tuple[np.ndarray, np.ndarray]:
        ids_TK, weights_LTK = pinned.topk_ids_LTK[0], pinned.topk_weights_LTK
        weights_TK = None if weights_LTK is None else weights_LTK[0].astype(np.float64)
        expected_TD = self.case.oracle.moe_block(layer, x_TD, ids_TK, weights_TK)[0]
        return _model(self.case, self.dtype).moe_block(layer, x_TD, pinned), expected_TD

    def _forward(self, ids_S: np.ndarray, pinned: PinnedRouting | None) -> Pass:
        model, oracle = _model(self.case, self.dtype), self.case.oracle
        model.reset()
        out = model.prefill(ids_S[None], np.array([len(ids_S)]), Request("all", True, pinned=pinned))
        assert out.logits_BSV is not None and out.routing is not None and out.routing.router_logits_LTE is not None
        weights_LSK = None if pinned is None or pinned.topk_weights_LTK is None else pinned.topk_weights_LTK.astype(np.float64)
        expected = oracle.forward(ids_S, out.routing.topk_ids_LTK, weights_LSK)
        free_SV = oracle.forward(ids_S).logits_SV if pinned is None else None
        return Pass(out.logits_BSV[0], expected.logits_SV, free_SV, out.routing.router_logits_LTE, expected.router_logits_LSE)


def can_refer(case: Case) -> bool:
    return parameter_counts(case.config)[0] <= LARGEST and case.config.family in FAMILIES


@lru_cache(maxsize=16)
def _model(case: Case, dtype: str) -> SubjectModel:
    """Cached by the checkpoint's path."""
    return SubjectBackend().load(
        str(case.checkpoint), LoadSpec(dtype, max_batch=1, max_length=min(LONGEST, case.config.max_position_embeddings))
    )


_ANSWERS: OrderedDict[tuple, object] = OrderedDict()


def _kept(key: tuple, make: Callable[[], Answer]) -> Answer:
    """Several checks, and several backends, ask about the same input."""
    if key not in _ANSWERS:
        _ANSWERS[key] = make()
        if len(_ANSWERS) > KEPT:
            _ANSWERS.popitem(last=False)
    return _ANSWERS[key]  # type: ignore[return-value]


def _bytes(pinned: PinnedRouting | None) -> tuple[bytes, ...]:
    if pinned is None:
        return ()
    weights = pinned.topk_weights_LTK
    return pinned.topk_ids_LTK.tobytes(), b"" if weights is None else weights.tobytes()
