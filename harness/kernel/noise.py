"""What honest kernels are off by: the floors over a reference that is run here, on random experts of a small shape. Legend: T tokens."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from harness.cases import golden_root
from harness.dtypes import round_to
from harness.faults.experts import ExpertJob, combine, run_experts
from harness.faults.numerics import Rounding
from harness.faults.seams import HONEST
from harness.floors.case import CaseFloors
from harness.floors.table import FILE, read
from harness.judge.block import block_errors
from harness.judge.limit import Limits
from harness.judge.rounding import accumulation
from harness.kernel.shapes import Shape
from harness.kernel.weights import drawn

MEASURED = Shape("measured", 8, 2, 96, 80)


def limits(dtype: str, shape: Shape, tokens: int) -> Limits:
    """Of the block's metrics. Accumulation over longer rows than were measured errs like the square root of their length; from 96 to 4096
    and 14336 columns that adds 1.1e-5: much in float32, nothing in bfloat16."""
    floors = CaseFloors(read(golden_root() / FILE), dtype, None)
    longer = max(accumulation(shape.D, shape.F) - accumulation(MEASURED.D, MEASURED.F), 0.0)
    return {metric: limit.plus(longer) for metric, limit in floors.over(_reference(dtype, max(tokens, 1)), tokens).items()}


@lru_cache(maxsize=64)
def _reference(dtype: str, tokens: int) -> dict[str, float]:
    """Errors of the numpy subject's experts."""
    rng, rounding, weights = np.random.default_rng(0), Rounding(dtype), drawn(MEASURED, dtype)
    x_TD = round_to(rng.standard_normal((tokens, MEASURED.D), np.float32), dtype)
    ids_TK = np.argsort(rng.random((tokens, MEASURED.E)))[:, : MEASURED.K]
    weights_TK = rng.uniform(0.1, 1.0, ids_TK.shape).astype(np.float32)
    stored = (weights.gate_up_E2FD.astype(np.float32), weights.down_EDF.astype(np.float32))
    job = ExpertJob(x_TD, ids_TK, weights_TK, np.ones(tokens, bool), *stored, rounding)
    observed_TD = combine(run_experts(job, HONEST), weights_TK, ids_TK, rounding)
    return block_errors(observed_TD, weights.outputs(x_TD, ids_TK, weights_TK), ids_TK)
