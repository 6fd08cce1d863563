"""WINDOW: sliding-window attention. Legend: B batch, S sequence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.cases import Case
from harness.checks.against_oracle import judge_traces
from harness.checks.clause import clause
from harness.checks.passes import prefill_and_decode, request
from harness.subject import Subject
from harness.synthetic import small, synthesize
from harness.verdict import Verdict

WINDOW, PROMPT, DECODED = 8, 20, 6


@clause("WINDOW-01", "A sliding window of w shows a query its last w positions, in prefill and in decode", dtypes=("float32",))
def test_window_equals_oracle(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode")
    config = replace(small(subject.config.family), num_hidden_layers=2, moe_layers=(0, 1), sliding_window=WINDOW)
    case = Case("window", subject.workshop.once(f"window-{config}", lambda dst: synthesize(config, dst)))
    windowed = replace(subject, case=case)
    tokens_BS = np.random.default_rng(1).integers(0, 256, (2, PROMPT + DECODED))
    head_BS = np.ascontiguousarray(tokens_BS[:, :PROMPT])
    traces = prefill_and_decode(windowed.model(), head_BS, np.full(2, PROMPT), DECODED, request(windowed), tokens_BS[:, PROMPT:])
    judge_traces(windowed, verdict, traces, about=f"window {WINDOW}")
