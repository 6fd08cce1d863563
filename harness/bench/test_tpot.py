"""Time per output token: decode, one token at a time after a prompt, last logits only. A round is several tokens, so that clock resolution
does not matter; its bytes are those of all its calls."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.bench.measure import measure
from moe_harness.bench.prompts import observed_decode, prompt_length, random_ids
from moe_harness.bench.timing import Timing
from moe_harness.implementations.interface import Request, StepOutput
from moe_harness.suite.subject import Subject

TOKENS = 8
WIDE = pytest.mark.asked("wide")


@pytest.mark.workload("tpot")
@pytest.mark.parametrize(
    ("batch", "context"), [(1, 128), pytest.param(1, 480, marks=WIDE), pytest.param(4, 128, marks=WIDE), pytest.param(8, 128, marks=WIDE)]
)
def test_tpot(subject: Subject, timing: Timing, batch: int, context: int) -> None:
    subject.needs("prefill", "decode")
    model, held = timing.model, prompt_length(subject.config, context, new=TOKENS)
    ids_BS = random_ids(subject.config, batch, held + TOKENS, seed=5)
    prompt_BS, following_SB = np.ascontiguousarray(ids_BS[:, :held]), np.ascontiguousarray(ids_BS[:, held:].T)

    def prepare() -> None:
        model.reset()
        model.prefill(prompt_BS, np.full(batch, held), Request(logits="none"))

    def step() -> list[StepOutput]:
        return [model.decode(tokens_B, Request(logits="last")) for tokens_B in following_SB]

    prepare()
    work = observed_decode(subject, model, held, following_SB.T)
    measure(timing, step, prepare, tokens=batch * TOKENS, work=work, batch=batch, context=held)
