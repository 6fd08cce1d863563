"""Time to first token: a whole prompt in one prefill, last logits only."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.bench.measure import measure
from moe_harness.bench.prompts import observed_prefill, prompt_length, random_ids
from moe_harness.bench.timing import Timing
from moe_harness.implementations.interface import Request
from moe_harness.suite.subject import Subject

WIDE = pytest.mark.asked("wide")


@pytest.mark.workload("ttft")
@pytest.mark.parametrize("sequence", [pytest.param(32, marks=WIDE), pytest.param(128, marks=WIDE), 512])
def test_ttft(subject: Subject, timing: Timing, sequence: int) -> None:
    subject.needs("prefill")
    model, length = timing.model, prompt_length(subject.config, sequence)
    prompt_BS, lengths_B = random_ids(subject.config, 1, length, seed=4), np.array([length])
    work = observed_prefill(subject, model, prompt_BS)
    measure(
        timing,
        step=lambda: model.prefill(prompt_BS, lengths_B, Request(logits="last")),
        prepare=model.reset,
        tokens=length,
        work=work,
        batch=1,
        sequence=length,
    )
