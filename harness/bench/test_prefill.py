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
    model = subject.model(max_length=length, max_batch=1)
    prompt_BS = np.random.default_rng(4).integers(0, subject.config.vocab_size, (1, length))
    timing.run(
        model,
        step=lambda: model.prefill(prompt_BS, np.array([length]), Request(logits="last")),
        prepare=model.reset,
        tokens=length,
        batch=1,
        sequence=length,
    )
