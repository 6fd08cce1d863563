"""End to end: prefill of a batch of prompts and decode of some tokens each. `tokens` counts the new ones, so tokens per second are output
tokens per second with the prompts' time included. The tokens are given (teacher forcing): sampling is not part of the time."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.bench.measure import measure
from moe_harness.bench.prompts import observed_decode, observed_prefill, prompt_length, random_ids
from moe_harness.bench.timing import Timing
from moe_harness.implementations.interface import Request, StepOutput
from moe_harness.suite.subject import Subject

NEW = 4
DEFAULT = (4, 64)
GRID = [(batch, sequence) for batch in (1, 4, 8) for sequence in (64, 256)]


@pytest.mark.workload("end_to_end")
@pytest.mark.parametrize(
    ("batch", "sequence"), [size if size == DEFAULT else pytest.param(*size, marks=pytest.mark.asked("wide")) for size in GRID]
)
def test_end_to_end(subject: Subject, timing: Timing, batch: int, sequence: int) -> None:
    subject.needs("prefill", "decode")
    model, length = timing.model, prompt_length(subject.config, sequence, new=NEW)
    ids_BS = random_ids(subject.config, batch, length + NEW, seed=7)
    prompt_BS, following_SB = np.ascontiguousarray(ids_BS[:, :length]), np.ascontiguousarray(ids_BS[:, length:].T)

    def step() -> list[StepOutput]:
        first = model.prefill(prompt_BS, np.full(batch, length), Request(logits="last"))
        return [first, *(model.decode(tokens_B, Request(logits="last")) for tokens_B in following_SB)]

    prompted = observed_prefill(subject, model, prompt_BS)
    decoded = observed_decode(subject, model, length, following_SB.T)
    work = prompted + decoded if prompted and decoded else None
    measure(timing, step, model.reset, tokens=batch * NEW, work=work, batch=batch, sequence=length, new=NEW)
