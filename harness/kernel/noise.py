"""What honest kernels are off by: the floors over a reference that is run here, on random experts of a small shape. Legend: T tokens."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from moe_harness.cases.cases import golden_root
from moe_harness.cases.tensors import round_to
from moe_harness.emulator.experts import combine, run_experts
from moe_harness.emulator.honest import HONEST
from moe_harness.emulator.numerics import Rounding
from moe_harness.emulator.values import ExpertJob
from moe_harness.judge.errors import block_errors
from moe_harness.judge.limit import Limits
from moe_harness.judge.rounding import accumulation
from moe_harness.kernel.weights import Shape, drawn
from moe_harness.suite.bounds.case import CaseFloors
from moe_harness.suite.bounds.table import FILE, read

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
