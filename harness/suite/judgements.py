"""Judgements that several checks share: of traces, against the oracle with the candidate's routing pinned; of bad input, which must be
refused with InvalidInput and a message.

Legend: S sequence, V vocabulary, L MoE layers, E experts, K top-k.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from moe_harness.implementations.interface import InvalidInput, Unsupported
from moe_harness.judge import routing
from moe_harness.judge.certificate import certify, ranking_allowance
from moe_harness.judge.errors import logit_metrics, router_errors
from moe_harness.judge.limit import Limits
from moe_harness.judge.metric import Metric
from moe_harness.judge.rounding import weight_allowance
from moe_harness.judge.verdict import Verdict
from moe_harness.oracle.model import Oracle, OracleOutput
from moe_harness.suite.drivers import Trace
from moe_harness.suite.exhibits import model_exhibit
from moe_harness.suite.subject import Subject


def judge_traces(
    subject: Subject, verdict: Verdict, traces: list[Trace], oracle: Oracle | None = None, about: str = "", repeatable: bool = True
) -> None:
    """Logits of every trace against the pinned oracle; pooled error and worst position. `repeatable`: by the calls of an exhibit."""
    for b, trace in enumerate(traces):
        expected = pinned_run(subject, trace, oracle or subject.case.oracle)
        limits = subject.floors.forward(trace.input_ids_S)
        metrics = logit_metrics(trace.logits_SV, expected.logits_SV, limits)
        exhibit = partial(model_exhibit, subject, traces, trace, oracle) if repeatable else None
        verdict.judge(*metrics, about=f"row {b} {about}".strip(), exhibit=exhibit)
        verdict.saw(tokens=len(trace.input_ids_S), unobservable=len(trace.input_ids_S) if trace.ids_LSK is None else 0)


def pinned_run(subject: Subject, trace: Trace, oracle: Oracle) -> OracleOutput:
    """The oracle on the trace's tokens with its experts. Without visible routing, float32 is compared free-running (a flip would need a
    near-tie of a millionth); a lower precision has no smooth comparison and is Unsupported."""
    if trace.ids_LSK is None:
        if subject.dtype != "float32":
            raise Unsupported(f"{subject.backend.name} does not show routing; {subject.dtype} flips cannot be told from errors")
        return oracle.forward(trace.input_ids_S)
    for metric in routing.ids(trace.ids_LSK.reshape(-1, trace.ids_LSK.shape[-1]), subject.config.routing.num_experts):
        assert not metric.violated, f"routing inside the model is not a routing: {metric}"
    return oracle.forward(trace.input_ids_S, trace.ids_LSK)


def both_rounded(limits: Limits) -> Limits:
    """Where what is expected was rounded as well."""
    return {name: limit.times(2) for name, limit in limits.items()}


def judge_routing_inside(subject: Subject, verdict: Verdict, trace: Trace) -> None:
    """Every selection inside the model against the pinned oracle's router logits. The allowance covers the rounding that hidden states
    carry when they reach the router: the largest error of any logit. The logarithm of a weight moves by its own logit's error and by the
    largest of the token's."""
    expected, limits = pinned_run(subject, trace, subject.case.oracle), subject.floors.forward(trace.input_ids_S)
    assert trace.ids_LSK is not None
    shown = partial(model_exhibit, subject, [trace], trace)
    for layer, logits_SE in enumerate(expected.router_logits_LSE):
        delta = limits["worst_router_logit_error"].bound * float(np.sqrt(np.mean(logits_SE**2)))
        spec, ranking_SE = subject.config.routing, subject.case.oracle.ranking(layer, logits_SE)
        certificate = certify(ranking_SE, trace.ids_LSK[layer], ranking_allowance(delta, spec), spec)
        verdict.judge(Metric("uncertified_selections", certificate.uncertified, 0), about=f"MoE layer {layer}", exhibit=shown)
        if trace.weights_LSK is not None:
            weights_SK = expected.topk_weights_LSK[layer]
            allowance_SK = weight_allowance(weights_SK, np.full_like(weights_SK, 2 * delta), subject.dtype)
            within = routing.weights_within(trace.weights_LSK[layer], weights_SK, allowance_SK)
            verdict.judge(within, about=f"MoE layer {layer}", exhibit=shown)
        verdict.saw(tokens=len(logits_SE), experts_hit=len(np.unique(trace.ids_LSK[layer])), **certificate.counts())
    if trace.router_logits_LSE is not None:
        errors = router_errors(trace.router_logits_LSE, expected.router_logits_LSE)
        verdict.judge(*(Metric.within(name, value, limits[name]) for name, value in errors.items()), exhibit=shown)


def refuses(verdict: Verdict, what: str, call: Callable[[], object]) -> None:
    """Judges that `call` raises InvalidInput and says why. A declared gap passes through; any other exception fails the check."""
    try:
        call()
    except InvalidInput as error:
        accepted, mute = False, not str(error).strip()
    except Unsupported:
        raise
    except Exception as error:
        raise AssertionError(f"{what}: InvalidInput expected, {type(error).__name__} raised: {error}") from error
    else:
        accepted, mute = True, False
    verdict.judge(Metric("accepted", int(accepted), 0), Metric("refused_without_a_message", int(mute), 0), about=what)
    verdict.saw(refused=1)
