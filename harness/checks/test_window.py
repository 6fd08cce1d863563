"""WINDOW: sliding-window attention. Legend: B batch, S sequence."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.drivers import prefill_and_decode, request
from moe_harness.suite.judgements import judge_traces
from moe_harness.suite.situations import WINDOW, has_window, like, text, two_layers
from moe_harness.suite.subject import Subject

PROMPT, DECODED = 20, 6


@clause("WINDOW-01", "A sliding window of w shows a query its last w positions, in prefill and in decode", dtypes=LOGIC, family=has_window)
def test_window_equals_oracle(subject: Subject, verdict: Verdict) -> None:
    _judge(subject, verdict, PROMPT, DECODED)


@clause("WINDOW-02", "Prompts of w-1, w and w+1 tokens, and decode across the edge", dtypes=LOGIC, family=has_window)
@pytest.mark.parametrize("length", [WINDOW - 1, WINDOW, WINDOW + 1])
def test_prompts_at_the_edge_of_the_window(subject: Subject, verdict: Verdict, length: int) -> None:
    _judge(subject, verdict, length, 3)


@clause("WINDOW-03", "Positions many windows in, with another RoPE base", dtypes=LOGIC, family=has_window)
def test_positions_far_beyond_the_window(subject: Subject, verdict: Verdict) -> None:
    _judge(subject, verdict, 5 * WINDOW + 3, 2 * WINDOW, rope_theta=100.0)


def _judge(subject: Subject, verdict: Verdict, prompt: int, decoded: int, **changes: object) -> None:
    subject.needs("prefill", "decode")
    windowed = like(subject, "window", two_layers(subject.config.family, sliding_window=WINDOW, **changes))
    tokens_BS = text(windowed, 2, prompt + decoded)
    head_BS = np.ascontiguousarray(tokens_BS[:, :prompt])
    traces = prefill_and_decode(windowed.model(), head_BS, np.full(2, prompt), decoded, request(windowed), tokens_BS[:, prompt:])
    judge_traces(windowed, verdict, traces, about=f"window {WINDOW}, prompt of {prompt}")
    verdict.saw(decoded=2 * decoded)
    verdict.require(decoded=2 * decoded)
