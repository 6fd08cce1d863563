"""MoE block: router, experts and combine of the first MoE layer over many tokens, without attention."""

from __future__ import annotations

import numpy as np
import pytest

from harness.bench.timing import Timing
from harness.dtypes import round_to
from harness.subject import Subject
from implementations.interface import Probe

TOKENS = 512


@pytest.mark.workload("moe_block")
def test_moe_block(subject: Subject, timing: Timing) -> None:
    subject.needs("probe")
    model = timing.model
    assert isinstance(model, Probe)
    x_TD = round_to(np.random.default_rng(6).standard_normal((TOKENS, subject.config.hidden_size), np.float32), subject.dtype)
    timing.run(step=lambda: model.moe_block(0, x_TD), prepare=None, tokens=TOKENS, batch=1, sequence=TOKENS)
