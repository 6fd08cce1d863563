"""Decode: one token at a time after a prompt, last logits only. A round is several tokens, so that clock resolution does not matter."""

from __future__ import annotations

import numpy as np
import pytest

from harness.bench.timing import Timing
from harness.subject import Subject
from implementations.interface import Request, StepOutput

PROMPT, TOKENS = 128, 16


@pytest.mark.workload("decode")
def test_decode(subject: Subject, timing: Timing) -> None:
    model = timing.model
    ids = np.random.default_rng(5).integers(0, subject.config.vocab_size, (1, PROMPT + TOKENS))
    prompt_BS, following = np.ascontiguousarray(ids[:, :PROMPT]), ids[0, PROMPT:]

    def prepare() -> None:
        model.reset()
        model.prefill(prompt_BS, np.array([PROMPT]), Request(logits="none"))

    def step() -> list[StepOutput]:
        return [model.decode(np.array([token]), Request(logits="last")) for token in following]

    timing.run(step, prepare, tokens=TOKENS, batch=1, context=PROMPT)
