"""Faults at the size at which they are easily missed. Those of selection stand in margins.py."""

from __future__ import annotations

from functools import partial

import numpy as np

from moe_harness.emulator import experts
from moe_harness.emulator.numerics import Array
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import ExpertJob
from moe_harness.mutants.entries.generation import penalize_repetition
from moe_harness.mutants.entry import Fault, change


def one_expert_louder(job: ExpertJob, seams: Seams) -> Array:
    y_TKD = experts.run_experts(job, seams)
    return np.where((job.ids_TK == 1)[..., None], job.rounding(y_TKD * np.float32(1.01)), y_TKD)


FAULTS: tuple[Fault, ...] = (
    Fault("one-expert-louder", "The output of expert 1 is 1 % too large.",
          None, change(run_experts=one_expert_louder), ("BLOCK-02",), dtypes=("float32", "float16"),
          survives="in bfloat16, whose rounding of one expert is as large"),
    Fault("repetition-penalty-of-1.1", "A repetition penalty of 1.1 that nobody asked for.",
          None, change(sample=partial(penalize_repetition, penalty=1.1)), ("GEN-01",), dtypes=("float32",),
          trigger="a continuation that repeats a token by a small lead"),
)  # fmt: skip
