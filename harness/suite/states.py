"""Layer-forced inputs: the oracle's hidden states, rounded to the candidate's dtype. Legend: T tokens, D hidden."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moe_harness.cases.tensors import round_to
from moe_harness.suite.subject import Subject


def layer_states(subject: Subject) -> Iterator[tuple[int, np.ndarray]]:
    """(MoE layer index, x_TD) for every MoE layer: what its router is given when the oracle runs the case's prompts."""
    subject.needs("probe")
    passes = [subject.case.free_run(row) for row in range(len(subject.case.prompts_BS))]
    for layer in range(len(subject.config.moe_layers)):
        yield layer, round_to(np.concatenate([run.x_LSD[layer] for run in passes]), subject.dtype)
