"""The gate: the very object that is timed must first compute the right thing. Legend: B batch, S sequence, L MoE layers, K top-k."""

from __future__ import annotations

import numpy as np

from harness.checks.against_oracle import judge_traces
from harness.checks.passes import prefill_and_decode, request
from harness.subject import Subject
from harness.verdict import Verdict
from implementations.interface import Model

PROMPT, DECODED = 24, 4


def judge_timed_model(subject: Subject, model: Model, verdict: Verdict) -> None:
    """Prefill and decode of one short sequence against the pinned oracle; leaves the cache empty. Raises Violation."""
    tokens_BS = np.random.default_rng(3).integers(0, subject.config.vocab_size, (1, PROMPT + DECODED))
    prompt_BS = np.ascontiguousarray(tokens_BS[:, :PROMPT])
    model.reset()
    traces = prefill_and_decode(model, prompt_BS, np.array([PROMPT]), DECODED, request(subject), tokens_BS[:, PROMPT:])
    judge_traces(subject, verdict, traces, about="of the timed model")
    model.reset()
