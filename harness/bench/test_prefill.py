"""Prefill: a whole prompt in one call, last logits only (the compute part of time to first token)."""

from __future__ import annotations

import numpy as np
import pytest

from harness.bench.timing import Timing
from harness.subject import Subject
from implementations.interface import Request

LENGTH = 512


@pytest.mark.workload("prefill")
def test_prefill(subject: Subject, timing: Timing) -> None:
    length = min(LENGTH, subject.config.max_position_embeddings)
    prompt_BS = np.random.default_rng(4).integers(0, subject.config.vocab_size, (1, length))
    timing.run(
        step=lambda: timing.model.prefill(prompt_BS, np.array([length]), Request(logits="last")),
        prepare=timing.model.reset,
        tokens=length,
        batch=1,
        sequence=length,
    )
