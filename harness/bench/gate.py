"""The gate: the very object that is timed must compute the right thing, before and after. Legend: B batch, S sequence, L MoE layers, K
top-k."""

from __future__ import annotations

from typing import Any

import numpy as np

from moe_harness.bench.layer import judge_layer
from moe_harness.bench.models import layer_cases
from moe_harness.implementations.interface import Model
from moe_harness.judge.limit import Blind
from moe_harness.judge.verdict import Verdict
from moe_harness.records.status import Status
from moe_harness.suite.drivers import Trace, prefill_and_decode, request
from moe_harness.suite.judgements import judge_routing_inside, judge_traces
from moe_harness.suite.subject import Subject

PROMPT, DECODED = 24, 4


def gate(subject: Subject, model: Model) -> dict[str, Any]:
    """What the record says of the gate: its metrics and, if it did not open, VOID with the reason. Each loaded model is judged once."""
    gates = subject.workshop.gates
    if id(model) not in gates:
        metrics, closed = _ask(subject, model, "the timed model")
        gates[id(model)] = {"gate": metrics} | closed
    return gates[id(model)]


def gate_after(subject: Subject, model: Model) -> dict[str, Any]:
    """The same question again, of the object as timing left it. A model that fails now passes no later gate either."""
    metrics, closed = _ask(subject, model, "after timing, the timed model")
    if closed:
        subject.workshop.gates[id(model)] = {"gate": metrics} | closed
    return {"gate_after": metrics} | closed


def _ask(subject: Subject, model: Model, whom: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    verdict = Verdict()
    closed: dict[str, Any] = {}
    try:
        _judge(subject, model, verdict)
    except AssertionError as wrong:  # a Violation, or routing that is none
        closed = {"status": Status.VOID, "reason": f"no number: {whom} is wrong: {wrong}"}
    except Blind as blind:
        closed = {"status": Status.VOID, "reason": f"no number: {whom} cannot be judged: {blind}"}
    return verdict.to_record()["metrics"], closed


def _judge(subject: Subject, model: Model, verdict: Verdict) -> None:
    """Of a single layer, see layer.py. Prefill and decode of one short sequence against the oracle: the outputs with the model's own
    experts pinned, and that each choice of an expert that differs from the oracle's is a near-tie. Leaves the cache empty. Raises
    Violation."""
    if subject.case in layer_cases():
        return judge_layer(subject, model, verdict)
    (trace,) = traces(subject, model)
    judge_traces(subject, verdict, [trace], about="of the timed model")
    if trace.ids_LSK is not None:
        judge_routing_inside(subject, verdict, trace)


def traces(subject: Subject, model: Model) -> list[Trace]:
    """What the model computes on the gate's tokens; the cache is empty before and after."""
    tokens_BS = np.random.default_rng(3).integers(0, subject.config.vocab_size, (1, PROMPT + DECODED))
    prompt_BS = np.ascontiguousarray(tokens_BS[:, :PROMPT])
    model.reset()
    found = prefill_and_decode(model, prompt_BS, np.array([PROMPT]), DECODED, request(subject), tokens_BS[:, PROMPT:])
    model.reset()
    return found
