"""PARITY: whole-model logits against HF's golden logits and against the oracle. Legend: B batch, S sequence, V vocabulary."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from moe_harness.implementations.interface import Padded, PinnedRouting
from moe_harness.judge.distance import kl_divergence, top1_disagreement
from moe_harness.judge.errors import logit_metrics
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.drivers import Trace, pinned_request, prefill, prefill_and_decode, request
from moe_harness.suite.exhibits import model_exhibit
from moe_harness.suite.judgements import both_rounded, judge_routing_inside, judge_traces
from moe_harness.suite.situations import excerpts, like, text, two_layers
from moe_harness.suite.subject import Subject

FIRST_INEXACT = 257  # the first position that bfloat16 cannot hold
LATE = 300
ACROSS = 2  # tokens decoded after a prompt at the edge of a size


@clause("PARITY-01", "float32 logits equal HF's golden logits", dtypes=("float32",), golden=True)
def test_logits_equal_hf_golden(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill")
    expected = subject.case.expected
    traces = prefill(subject.model(), expected["input_ids_BS"], request(subject))
    for b, trace in enumerate(traces):
        limits = both_rounded(subject.floors.forward(trace.input_ids_S))
        metrics = logit_metrics(trace.logits_SV, expected["logits_BSV"][b], limits)
        verdict.judge(*metrics, about=f"row {b}", exhibit=partial(model_exhibit, subject, traces, trace))
        verdict.saw(tokens=len(trace.input_ids_S))
    verdict.require(tokens=64)


@clause("PARITY-02", "Logits equal the oracle's with the candidate's routing pinned")
def test_logits_equal_pinned_oracle(subject: Subject, verdict: Verdict) -> None:
    judge_traces(subject, verdict, _traces(subject))
    verdict.require(tokens=64)


@clause("PARITY-03", "Every selection inside the model is certified by the oracle's margin")
def test_routing_inside_is_certified(subject: Subject, verdict: Verdict) -> None:
    subject.needs("routing")
    for trace in _traces(subject):
        judge_routing_inside(subject, verdict, trace)
    verdict.require(tokens=64)


@clause("PARITY-04", "Free-running next-token distributions stay close to the reference")
def test_distributions_stay_close(subject: Subject, verdict: Verdict) -> None:
    """Where an expert flips, the divergence jumps by orders of magnitude, honestly. So what is judged is the median position of the
    quietest row; the mean and the largest are reported."""
    traces = _traces(subject)
    divergence_BS = np.stack([kl_divergence(subject.case.free_run(b).logits_SV, trace.logits_SV) for b, trace in enumerate(traces)])
    limit = subject.floors.free(np.stack([trace.input_ids_S for trace in traces]))["median_kl_nats"]
    verdict.judge(
        Metric.within("median_kl_nats", float(np.median(divergence_BS, axis=1).min()), limit),
        Metric("mean_kl_nats", float(divergence_BS.mean())),
        Metric("max_kl_nats", float(divergence_BS.max())),
        Metric("top1_disagreement", float(np.mean([_disagreement(subject, b, trace) for b, trace in enumerate(traces)]))),
        exhibit=partial(model_exhibit, subject, traces, traces[int(np.median(divergence_BS, axis=1).argmin())]),
    )
    verdict.saw(tokens=divergence_BS.size)
    verdict.require(tokens=64)


def _disagreement(subject: Subject, row: int, trace: Trace) -> float:
    return top1_disagreement(subject.case.free_run(row).logits_SV, trace.logits_SV)


@clause("PARITY-05", "Late positions are as exact as early ones")
def test_late_positions_equal_pinned_oracle(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill")
    length = min(LATE, subject.config.max_position_embeddings)
    tokens_BS = np.resize(subject.case.prompts_BS, (1, length))
    traces = prefill(subject.model(max_length=length, max_batch=1), tokens_BS, request(subject))
    judge_traces(subject, verdict, traces, about=f"of {length} tokens")
    verdict.require(tokens=FIRST_INEXACT + 1)


@clause("PARITY-06", "RoPE base and norm epsilon are the config's own", dtypes=LOGIC)
def test_unusual_constants_are_obeyed(subject: Subject, verdict: Verdict) -> None:
    """Values far from every default, where a constant in the code would show."""
    subject.needs("prefill", "decode")
    for changes in ({"rope_theta": 37.0}, {"rms_norm_eps": 0.3}):
        model = like(subject, "constants", two_layers(subject.config.family, **changes))
        tokens_BS = text(model, 2, 28)
        traces = prefill_and_decode(model.model(), tokens_BS[:, :24].copy(), np.full(2, 24), 4, request(model), tokens_BS[:, 24:])
        judge_traces(model, verdict, traces, about=str(changes))
    verdict.require(tokens=64)


@clause("PARITY-07", "Pinned experts and weights are used throughout the model", dtypes=LOGIC)
def test_pinned_routing_is_used(subject: Subject, verdict: Verdict) -> None:
    """In float32: experts that no router would choose amplify rounding."""
    subject.needs("prefill", "pinned")
    tokens_BS = excerpts(subject, 2, 24)
    pin = pinned_request(subject, tokens_BS.size)
    assert pin.pinned is not None
    ids_LBSK = pin.pinned.topk_ids_LTK.reshape(len(pin.pinned.topk_ids_LTK), *tokens_BS.shape, -1)
    drawn_LBSK = subject.random(4).uniform(0.1, 1.0, ids_LBSK.shape).astype(np.float32)
    for weights_LBSK in (None, drawn_LBSK):
        flat = None if weights_LBSK is None else weights_LBSK.reshape(pin.pinned.topk_ids_LTK.shape)
        asked = replace(pin, pinned=PinnedRouting(pin.pinned.topk_ids_LTK, flat))
        traces = prefill(subject.model(), tokens_BS, asked)
        for b, trace in enumerate(traces):
            weights_LSK = None if weights_LBSK is None else weights_LBSK[:, b].astype(np.float64)
            expected = subject.case.oracle.forward(tokens_BS[b], ids_LBSK[:, b], weights_LSK)
            about = f"row {b}, {'its own' if flat is None else 'pinned'} weights"
            pinned = PinnedRouting(ids_LBSK[:, b].copy(), None if weights_LBSK is None else weights_LBSK[:, b].copy())
            limits = subject.floors.forward(trace.input_ids_S, pinned)
            metrics = logit_metrics(trace.logits_SV, expected.logits_SV, limits)
            verdict.judge(*metrics, about=about, exhibit=partial(model_exhibit, subject, traces, trace))
            verdict.saw(tokens=len(trace.input_ids_S))
    verdict.require(tokens=64)


def _traces(subject: Subject) -> list[Trace]:
    subject.needs("prefill")
    return prefill(subject.model(), subject.case.prompts_BS, request(subject))


@clause("PARITY-11", "Prompts a token short of the sizes that engines compile for, as long, and one longer; decode across the edge")
def test_prompts_at_the_edges_of_sizes(subject: Subject, verdict: Verdict) -> None:
    subject.needs("prefill", "decode")
    for size in _sizes(subject):
        for length in (size - 1, size, size + 1):
            tokens_BS = excerpts(subject, 2, length + ACROSS)
            head_BS = np.ascontiguousarray(tokens_BS[:, :length])
            traces = prefill_and_decode(subject.model(), head_BS, np.full(2, length), ACROSS, request(subject), tokens_BS[:, length:])
            judge_traces(subject, verdict, traces, about=f"of {length} tokens")
    verdict.require(tokens=64)


def _sizes(subject: Subject) -> list[int]:
    """The backend's own where it tells, else powers of two; as many as the prompts are long enough for."""
    model, longest = subject.model(), subject.case.prompts_BS.shape[1] - ACROSS - 1
    if not isinstance(model, Padded):
        return [size for size in (16, 32) if size <= longest]
    sizes = {model.computed_batch(1, columns)[1] for columns in range(2, longest + 1)}
    return sorted(size for size in sizes if size <= longest)[-3:]
