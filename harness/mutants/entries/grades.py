"""Backends that show little: honest ones, and the same with a fault, which must die though no routing is seen."""

from __future__ import annotations

import numpy as np

from moe_harness.emulator import outputs
from moe_harness.emulator.experts import split_halves
from moe_harness.emulator.numerics import Array
from moe_harness.implementations.interface import TopLogProbs
from moe_harness.mutants.entries import routers
from moe_harness.mutants.entries.experts import all_but_last_expert
from moe_harness.mutants.entry import Change, Fault, Honest, change, together

LOW = ("bfloat16", "float16")  # where, without routing, nothing but golden prompts tells a flip from an error
LOGITS, TOLD = ("PARITY-08", "PARITY-10"), ("PARITY-09",)


def logits_alone() -> tuple[str, ...]:
    return ("prefill", "decode", "reset", "chunked_prefill", "left_padding", "right_padding", "nan_pads", "generate", "packed", "loss")


def tokens_alone() -> tuple[str, ...]:
    return ("prefill", "decode", "reset", "chunked_prefill", "left_padding", "right_padding", "nan_pads")


def top_8() -> tuple[str, ...]:
    return ("top-8",)


def raw_logits(logits_BSV: Array, n: int) -> TopLogProbs:
    top = outputs.top_log_probs(logits_BSV, n)
    return TopLogProbs(top.ids_BSN, np.take_along_axis(logits_BSV, top.ids_BSN, axis=-1))


def over_the_told(logits_BSV: Array, n: int) -> TopLogProbs:
    top = outputs.top_log_probs(logits_BSV, n)
    return TopLogProbs(top.ids_BSN, top.log_probs_BSN - np.log(np.exp(top.log_probs_BSN).sum(axis=-1, keepdims=True)))


def unsorted(logits_BSV: Array, n: int) -> TopLogProbs:
    top = outputs.top_log_probs(logits_BSV, n)
    order_BSN = np.argsort(top.ids_BSN, axis=-1)
    return TopLogProbs(*(np.take_along_axis(part, order_BSN, axis=-1) for part in (top.ids_BSN, top.log_probs_BSN)))


def without_the_likeliest(logits_BSV: Array, n: int) -> TopLogProbs:
    top = outputs.top_log_probs(logits_BSV, n + 1)
    return TopLogProbs(*(np.ascontiguousarray(part[..., 1:]) for part in (top.ids_BSN, top.log_probs_BSN)))


GRADE_C: Change = change(features=logits_alone)
GRADE_D: Change = change(features=tokens_alone, shown=top_8)


def unseen(identity: str, what: str, fault: Change) -> tuple[Fault, Fault]:
    """A fault of the model in a backend of grade C, and in one of grade D."""
    return (
        Fault(f"{identity}-grade-c", f"{what} Nothing but logits is shown.", None, together(fault, GRADE_C), LOGITS, dtypes=LOW),
        Fault(f"{identity}-grade-d", f"{what} Nothing but the eight likeliest tokens is shown.", None, together(fault, GRADE_D), TOLD,
              dtypes=LOW),
    )  # fmt: skip


TOLD_WRONGLY: tuple[Fault, ...] = (
    Fault("logits-told-as-log-probs", "Raw logits are told as log-probabilities.",
          None, together(GRADE_D, change(top=raw_logits)), TOLD),
    Fault("log-probs-over-the-told", "Log-probabilities are taken over the told tokens alone: they sum to one.",
          None, together(GRADE_D, change(top=over_the_told)), TOLD, dtypes=("float32", "float16")),
    Fault("told-in-order-of-id", "The likeliest tokens come in order of their ids.",
          None, together(GRADE_D, change(top=unsorted)), TOLD),
    Fault("likeliest-token-missing", "The list begins with the second-likeliest token.",
          None, together(GRADE_D, change(top=without_the_likeliest)), TOLD),
)  # fmt: skip

FAULTS = (
    *unseen("gate-up-swapped", "silu(up) * gate instead of silu(gate) * up.",
            change(split_gate_up=lambda gate_up: split_halves(gate_up)[::-1])),
    *unseen("last-expert-never-runs", "The loop over experts ends at E-2.", change(dispatch=all_but_last_expert)),
    *unseen("rank-off-by-one", "The experts of rank 2 to K+1 are selected.", change(select=routers.select_ranks_from_second)),
    *TOLD_WRONGLY,
)  # fmt: skip

HONEST_VARIANTS = (
    Honest("logits-alone", "Grade C: neither routing nor probes.", None, GRADE_C, ("CAP-03", *LOGITS, *TOLD)),
    Honest("tokens-alone", "Grade D: the eight likeliest tokens and no logits.", None, GRADE_D, ("CAP-03", *TOLD)),
)  # fmt: skip
