"""What candidates are compared with: the honest subject in float32 and in the candidate's dtype, and the float64 oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from allclose.candidates import numpy_backend
from allclose.evidence import Evidence, Rows
from allclose.runs import LOGIT_RUNS, Piece, blocks
from moe_harness.cases.cases import Case
from moe_harness.suite.situations import layer_states
from moe_harness.suite.subject import Subject

BLOCKS = "blocks"


@dataclass(frozen=True)
class References:
    """By run. `states`: x_TD of every MoE block, values of the candidate's dtype."""

    reference: dict[str, Rows]
    same_dtype: dict[str, Rows]
    exact: dict[str, Rows]
    states: list[np.ndarray]

    def evidence(self, run: str, observed: Sequence[np.ndarray], dtype: str) -> Evidence:
        return Evidence(tuple(observed), self.reference[run], self.same_dtype[run], self.exact[run], dtype)


@dataclass
class Archive:
    """References by case and dtype: computed once, for all candidates on them."""

    _kept: dict[tuple[Case, str], References] = field(default_factory=dict)

    def of(self, subject: Subject) -> References:
        key = (subject.case, subject.dtype)
        if key not in self._kept:
            self._kept[key] = compute(replace(subject, backend=numpy_backend()))
        return self._kept[key]


def compute(honest: Subject) -> References:
    in_float32 = replace(honest, dtype="float32")
    states = [x_TD for _, x_TD in layer_states(honest)]
    runs = {name: run(honest) for name, run in LOGIT_RUNS.items()}
    exact = {name: tuple(_exact(honest, piece) for piece in pieces) for name, pieces in runs.items()}
    same_dtype = {name: rows(pieces) for name, pieces in runs.items()}
    reference = {name: rows(run(in_float32)) for name, run in LOGIT_RUNS.items()}
    oracle = honest.case.oracle
    return References(
        reference | {BLOCKS: tuple(blocks(in_float32, states))},
        same_dtype | {BLOCKS: tuple(blocks(honest, states))},
        exact | {BLOCKS: tuple(oracle.moe_block(layer, x_TD)[0] for layer, x_TD in enumerate(states))},
        states,
    )


def rows(pieces: list[Piece]) -> Rows:
    return tuple(piece.logits_SV for piece in pieces)


def _exact(subject: Subject, piece: Piece) -> np.ndarray:
    """The oracle's logits of the same positions; it sees the whole prompt, which changes nothing before its end."""
    return subject.case.free_run(piece.row).logits_SV[piece.start : piece.start + len(piece.logits_SV)]
