"""The gate: the very object that is timed must first compute the right thing. Legend: B batch, S sequence, L MoE layers, K top-k."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.checks.against_oracle import judge_traces
from harness.checks.passes import prefill_and_decode, request
from harness.judge.limit import Blind
from harness.subject import Subject
from harness.verdict import Verdict, Violation
from implementations.interface import Model

PROMPT, DECODED = 24, 4


def gate(subject: Subject, model: Model) -> dict[str, Any]:
    """What the record says of the gate: its metrics and, if it did not open, VOID with the reason. Each loaded model is judged once."""
    gates = subject.workshop.gates
    if id(model) not in gates:
        verdict = Verdict()
        closed: dict[str, Any] = {}
        try:
            _judge(subject, model, verdict)
        except Violation as violation:
            closed = {"status": "VOID", "reason": f"no number: the timed model is wrong: {violation}"}
        except Blind as blind:
            closed = {"status": "VOID", "reason": f"no number: the timed model cannot be judged: {blind}"}
        gates[id(model)] = {"gate": verdict.to_record()["metrics"]} | closed
    return gates[id(model)]


def _judge(subject: Subject, model: Model, verdict: Verdict) -> None:
    """Prefill and decode of one short sequence against the pinned oracle; leaves the cache empty. Raises Violation."""
    tokens_BS = np.random.default_rng(3).integers(0, subject.config.vocab_size, (1, PROMPT + DECODED))
    prompt_BS = np.ascontiguousarray(tokens_BS[:, :PROMPT])
    model.reset()
    traces = prefill_and_decode(model, prompt_BS, np.array([PROMPT]), DECODED, request(subject), tokens_BS[:, PROMPT:])
    judge_traces(subject, verdict, traces, about="of the timed model")
    model.reset()
