"""Faults at the size at which they are easily missed: a percent, a step of a narrower dtype."""

from __future__ import annotations

from functools import partial

import ml_dtypes
import numpy as np

from harness.faults import experts, routing
from harness.faults.entries.generation import penalize_repetition
from harness.faults.entries.router import NOT_ALL, SEVERAL
from harness.faults.entries.routers import select_with_bias
from harness.faults.entry import Fault, change
from harness.faults.experts import ExpertJob
from harness.faults.numerics import Array, Rounding, softmax
from harness.faults.seams import Seams
from implementations.interface import RoutingSpec

BFLOAT16 = Rounding("bfloat16")
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
SOFTMAX = ("mixtral", "qwen3_moe", "qwen2_moe", "olmoe")


def in_fp8(x: Array) -> Array:
    """Nearest e4m3 numbers under one scale for the tensor, its largest number at 448."""
    scale = np.abs(x).max(initial=0) / np.float32(ml_dtypes.finfo(FP8).max)
    return x if not np.isfinite(scale) or scale == 0 else (x / scale).astype(FP8).astype(np.float32) * scale


def router_weight_in_fp8(x_TD: Array, router_ED: Array, rounding: Rounding, seams: Seams) -> Array:
    return routing.router_logits(x_TD, in_fp8(router_ED), rounding, seams)


def router_input_in_fp8(x_TD: Array, router_ED: Array, rounding: Rounding, seams: Seams) -> Array:
    return routing.router_logits(in_fp8(x_TD), router_ED, rounding, seams)


def logits_in_bfloat16(x_TD: Array, router_ED: Array, rounding: Rounding, seams: Seams) -> Array:
    return BFLOAT16(routing.router_logits(x_TD, router_ED, rounding, seams))


def softmax_in_bfloat16(logits_TE: Array, spec: RoutingSpec) -> Array:
    return BFLOAT16(softmax(BFLOAT16(logits_TE)))


def one_expert_louder(job: ExpertJob, seams: Seams) -> Array:
    y_TKD = experts.run_experts(job, seams)
    return np.where((job.ids_TK == 1)[..., None], job.rounding(y_TKD * np.float32(1.01)), y_TKD)


UNCOUNTED = "the selections it changes are within rounding of a tie, or too few of a case's tokens come close: flips must be counted"

FAULTS: tuple[Fault, ...] = (
    Fault("selection-bias-of-10-percent", "Expert 0 is selected as if its score were 10 % higher.",
          None, change(select=partial(select_with_bias, factor=1.1)), ("ROUTE-04",), dtypes=("float32", "float16"), needs=NOT_ALL,
          trigger="expert 0 within 10 % below the last selected score", survives=f"in bfloat16: {UNCOUNTED}"),
    Fault("selection-bias-of-3-percent", "Expert 0 is selected as if its score were 3 % higher.",
          None, change(select=partial(select_with_bias, factor=1.03)), (), needs=NOT_ALL,
          trigger="expert 0 within 3 % below the last selected score",
          survives=UNCOUNTED),
    Fault("selection-bias-of-1-percent", "Expert 0 is selected as if its score were 1 % higher.",
          None, change(select=partial(select_with_bias, factor=1.01)), (), needs=NOT_ALL,
          trigger="expert 0 within 1 % below the last selected score",
          survives=UNCOUNTED),
    Fault("softmax-in-bfloat16", "Scores are computed in bfloat16 before the selection, where float32 is declared.",
          None, change(scores=softmax_in_bfloat16), ("ROUTE-05",), dtypes=("float32", "float16"), families=SOFTMAX, needs=SEVERAL,
          survives="in bfloat16, where weights may be rounded and the flips are near ties"),
    Fault("router-logits-in-bfloat16", "The router's logits are rounded to bfloat16.",
          None, change(router_logits=logits_in_bfloat16), ("ROUTE-05",), dtypes=("float32", "float16"), needs=SEVERAL),
    Fault("router-weight-in-fp8", "The router's weight is quantised to e4m3.",
          None, change(router_logits=router_weight_in_fp8), ("ROUTE-05",), needs=SEVERAL),
    Fault("router-input-in-fp8", "The router reads activations quantised to e4m3 for the experts.",
          None, change(router_logits=router_input_in_fp8), ("ROUTE-05",), needs=SEVERAL),
    Fault("one-expert-louder", "The output of expert 1 is 1 % too large.",
          None, change(run_experts=one_expert_louder), ("BLOCK-02",), dtypes=("float32", "float16"),
          survives="in bfloat16, whose rounding of one expert is as large"),
    Fault("repetition-penalty-of-1.1", "A repetition penalty of 1.1 that nobody asked for.",
          None, change(sample=partial(penalize_repetition, penalty=1.1)), ("GEN-01",), dtypes=("float32",),
          trigger="a continuation that repeats a token by a small lead"),
)  # fmt: skip
