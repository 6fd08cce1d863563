"""What is run on a model: more than today's users run, so that a rule is never blamed for what it was not shown.

Legend: B batch, S sequence, V vocabulary, T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from moe_harness.checks.test_cache import DECODED as SPLIT
from moe_harness.implementations.interface import Request
from moe_harness.suite.drivers import Trace, prefill, prefill_and_decode
from moe_harness.suite.situations import DECODED, ragged
from moe_harness.suite.subject import Subject

ROOM = 512  # positions: a cache that is never emptied shall show by what it gives, not by its size


@dataclass(frozen=True)
class Piece:
    """Logits of one prompt's positions from `start` on."""

    row: int
    start: int
    logits_SV: np.ndarray


def whole(subject: Subject) -> list[Piece]:
    """One prefill of the batch."""
    return _pieces(prefill(subject.model(max_length=ROOM), subject.case.prompts_BS, _all()))


def split(subject: Subject) -> list[Piece]:
    """Prefill, then decode steps fed with the prompt."""
    return _pieces(_split(subject, subject.case.prompts_BS))


def alone(subject: Subject) -> list[Piece]:
    """The first prompt by itself, so that decode works on a single token."""
    return _pieces(_split(subject, subject.case.prompts_BS[:1]))


def padded(side: str) -> Callable[[Subject], list[Piece]]:
    """A ragged batch, then decode."""

    def run(subject: Subject) -> list[Piece]:
        ids_BS, lengths_B, following_BS = ragged(subject, side)
        return _pieces(prefill_and_decode(subject.model(max_length=ROOM), ids_BS, lengths_B, DECODED, _all(side), following_BS))

    return run


def last(subject: Subject) -> list[Piece]:
    """`last` logits of the ragged batch, as generation asks for them."""
    ids_BS, lengths_B, _ = ragged(subject, "right")
    logits_BSV = subject.model(max_length=ROOM).prefill(ids_BS, lengths_B, Request(logits="last")).logits_BSV
    assert logits_BSV is not None and logits_BSV.shape[:2] == (len(lengths_B), 1), "one position a row"
    return [Piece(row, int(length) - 1, logits_BSV[row]) for row, length in enumerate(lengths_B)]


def converted(subject: Subject) -> list[Piece]:
    """One prefill by the model in the backend's own format."""
    with subject.fresh_model(convert=True) as model:
        return _pieces(prefill(model, subject.case.prompts_BS, _all()))


LOGIT_RUNS: dict[str, Callable[[Subject], list[Piece]]] = {
    "prefill": whole,
    "decode": split,
    "alone": alone,
    "right padding": padded("right"),
    "left padding": padded("left"),
    "last": last,
    "converted": converted,
}


def blocks(subject: Subject, states: list[np.ndarray]) -> list[np.ndarray]:
    """y_TD of every MoE block on the given x_TD, with its own routing."""
    probe = subject.probe()
    return [probe.moe_block(layer, x_TD) for layer, x_TD in enumerate(states)]


def _split(subject: Subject, prompts_BS: np.ndarray) -> list[Trace]:
    head_BS = np.ascontiguousarray(prompts_BS[:, :-SPLIT])
    lengths_B = np.full(len(prompts_BS), head_BS.shape[1])
    return prefill_and_decode(subject.model(max_length=ROOM), head_BS, lengths_B, SPLIT, _all(), prompts_BS[:, -SPLIT:])


def _all(side: str = "right") -> Request:
    return Request(logits="all", padding=side)


def _pieces(traces: list[Trace]) -> list[Piece]:
    return [Piece(row, 0, trace.logits_SV) for row, trace in enumerate(traces)]
