"""Hidden states that MoE blocks and routers are timed on."""

from __future__ import annotations

import numpy as np

from moe_harness.cases.tensors import round_to
from moe_harness.implementations.interface import Model, Probe
from moe_harness.suite.subject import Subject


def hidden_states(subject: Subject, tokens: int) -> np.ndarray:
    """x_TD, float32: normal, as after a norm, and exact in the subject's dtype."""
    return round_to(np.random.default_rng(6).standard_normal((tokens, subject.config.hidden_size), np.float32), subject.dtype)


def probe_of(subject: Subject, model: Model) -> Probe:
    """The very model, known to have `route` and `moe_block`. Raises Unsupported where they are not declared."""
    subject.needs("probe")
    assert isinstance(model, Probe), f"{subject.backend.name} declares `probe` but its model has no route and moe_block"
    return model
