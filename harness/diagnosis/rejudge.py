"""Judges an exhibit anew from its arrays, with the oracle and the judge's own functions. Legend: S sequence, T tokens,
K top-k, D hidden."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moe_harness.judge import routing
from moe_harness.judge.certificate import certify, ranking_allowance
from moe_harness.judge.errors import block_metrics, logit_metrics, median_kl, router_errors
from moe_harness.judge.exhibit import BLOCK, MODEL, ROUTER, Exhibit
from moe_harness.judge.limit import Limits
from moe_harness.judge.metric import Metric
from moe_harness.judge.rounding import UNIT_ROUNDOFF, router_noise, weight_allowance
from moe_harness.oracle.model import OracleOutput
from moe_harness.oracle.routing import combine_weights
from moe_harness.repro.calls import pinned_row
from moe_harness.repro.capsule import Capsule


def rejudge(capsule: Capsule) -> list[Metric]:
    """The metrics of the exhibit, worst first. A metric that was recorded keeps its recorded bound. A record without arrays gives back what
    was recorded."""
    judge = {ROUTER: router_metrics, BLOCK: block_exhibit_metrics, MODEL: model_metrics}.get(capsule.exhibit.kind)
    if judge is None:
        return list(capsule.metrics)
    recorded = {metric.name: metric.bound for metric in capsule.metrics if metric.bound is not None}
    metrics = [replace(metric, bound=recorded.get(metric.name, metric.bound)) for metric in judge(capsule.exhibit)]
    return sorted(metrics, key=lambda metric: -severity(metric))


def severity(metric: Metric) -> float:
    """As Metric's, NaN being the worst."""
    return float("inf") if np.isnan(metric.severity) else metric.severity


def router_metrics(exhibit: Exhibit) -> list[Metric]:
    """Ids, selection within the margin, weights at the candidate's own ids. Tokens of NaN are judged for their ids alone."""
    assert exhibit.config is not None
    spec, arrays = exhibit.config.routing, exhibit.arrays
    found = routing.ids(arrays["ids_TK"], spec.num_experts)
    if any(metric.violated for metric in found):
        return found
    sound_T = np.asarray(np.isfinite(arrays["x_TD"]).all(-1))
    x_TD, ids_TK, weights_TK = (arrays[name][sound_T] for name in ("x_TD", "ids_TK", "weights_TK"))
    logits_TE, delta_TE = exhibit.oracle.route(0, x_TD)[0], router_delta(exhibit, x_TD)
    expected_TK = combine_weights(logits_TE, ids_TK, spec)
    selected = routing.selection(exhibit.oracle.ranking(0, logits_TE), ids_TK, ranking_allowance(delta_TE, spec), spec)
    weighed = routing.weights_within(weights_TK, expected_TK, weights_allowed(exhibit, delta_TE, ids_TK, expected_TK))
    return [*found, *routing.weights_sane(weights_TK), *selected, weighed, *_shown_logits(exhibit, sound_T, logits_TE, delta_TE)]


def router_delta(exhibit: Exhibit, x_TD: np.ndarray) -> np.ndarray:
    """delta_TE: what rounding may move the logits by; nothing where they are exact."""
    logits_TE = exhibit.oracle.route(0, x_TD)[0]
    if exhibit.facts.get("exact"):
        return np.zeros_like(logits_TE)
    return router_noise(x_TD, exhibit.oracle.router_weight(0), logits_TE, exhibit.dtype).delta_TE


def weights_allowed(exhibit: Exhibit, delta_TE: np.ndarray, ids_TK: np.ndarray, expected_TK: np.ndarray) -> np.ndarray:
    """Relative allowance of the weights whose logits may be off by delta."""
    moved_TK = np.take_along_axis(delta_TE, ids_TK, -1) + delta_TE.max(-1, keepdims=True)
    return weight_allowance(expected_TK, moved_TK, exhibit.dtype)


def _shown_logits(exhibit: Exhibit, sound_T: np.ndarray, expected_TE: np.ndarray, delta_TE: np.ndarray) -> list[Metric]:
    if "logits_TE" not in exhibit.arrays:
        return []
    ratio = logit_ratio(exhibit.arrays["logits_TE"][sound_T], expected_TE, delta_TE)
    return [Metric("router_logit_ratio", ratio, 1.0)]


def logit_ratio(observed_TE: np.ndarray, expected_TE: np.ndarray, delta_TE: np.ndarray) -> float:
    """The largest error of a router logit in units of what rounding may move it by, exact ones by a few roundings of float32."""
    allowed_TE = delta_TE + 16 * UNIT_ROUNDOFF["float32"] * np.maximum(np.abs(expected_TE), 1.0)
    return float(np.max(np.abs(observed_TE - expected_TE) / allowed_TE, initial=0.0))


def block_exhibit_metrics(exhibit: Exhibit) -> list[Metric]:
    """The block's output with the experts that the candidate used, over the tokens that count."""
    arrays = exhibit.arrays
    judged_T, expected_TD = arrays["judged_T"].astype(bool), expected_block(exhibit)
    return block_metrics(arrays["y_TD"][judged_T], expected_TD[judged_T], arrays["ids_TK"][judged_T], exhibit.limits)


def expected_block(exhibit: Exhibit) -> np.ndarray:
    """y_TD: the oracle's, or what was stored of it where the weights were too large."""
    arrays, weights_TK = exhibit.arrays, exhibit.arrays.get("weights_TK")
    if not exhibit.tensors:
        return arrays["expected_TD"].astype(np.float64)
    pinned = None if weights_TK is None else weights_TK.astype(np.float64)
    return exhibit.oracle.moe_block(0, arrays["x_TD"].astype(np.float64), arrays["ids_TK"], pinned)[0]


def model_metrics(exhibit: Exhibit) -> list[Metric]:
    """Logits of the judged row with its experts pinned, its selections and weights in every layer, and its distributions."""
    row = f"row{exhibit.facts['row']}."
    observed_SV, limits = exhibit.arrays[f"{row}logits_SV"], row_limits(exhibit)
    if not exhibit.tensors:
        return logit_metrics(observed_SV, exhibit.arrays["expected_SV"], limits)
    expected = pinned_run(exhibit)
    metrics = logit_metrics(observed_SV, expected.logits_SV, limits)
    if "median_kl_nats" in limits:
        free_SV = exhibit.oracle.forward(exhibit.arrays[f"{row}input_ids_S"]).logits_SV
        metrics.append(Metric.within("median_kl_nats", median_kl(free_SV, observed_SV), limits["median_kl_nats"]))
    return metrics + [metric for layer in layer_metrics(exhibit, expected) for metric in layer]


def row_limits(exhibit: Exhibit) -> Limits:
    """Of the judged row, by metric."""
    row = f"row{exhibit.facts['row']}."
    return {name.removeprefix(row): limit for name, limit in exhibit.limits.items() if name.startswith(row)}


def pinned_run(exhibit: Exhibit) -> OracleOutput:
    """The oracle on the judged row with the experts (and weights) that were pinned, or else with the experts that the candidate used."""
    row = f"row{exhibit.facts['row']}."
    pinned = pinned_row(exhibit, exhibit.facts["row"])
    if pinned is None:
        return exhibit.oracle.forward(exhibit.arrays[f"{row}input_ids_S"], exhibit.arrays.get(f"{row}ids_LSK"))
    weights = None if pinned.topk_weights_LTK is None else pinned.topk_weights_LTK.astype(np.float64)
    return exhibit.oracle.forward(exhibit.arrays[f"{row}input_ids_S"], pinned.topk_ids_LTK, weights)


def is_pinned(exhibit: Exhibit) -> bool:
    """Whether the experts were not the candidate's own choice."""
    return any(name.endswith(".pinned_ids") for name in exhibit.arrays)


def layer_metrics(exhibit: Exhibit, expected: OracleOutput) -> list[list[Metric]]:
    """By MoE layer: selections, weights and router logits of the judged row, as PARITY-03 judges them."""
    assert exhibit.config is not None
    row, spec, found = f"row{exhibit.facts['row']}.", exhibit.config.routing, []
    ids, weights, shown = (exhibit.arrays.get(row + name) for name in ("ids_LSK", "weights_LSK", "router_logits_LSE"))
    if ids is None or is_pinned(exhibit):
        return []
    for layer, logits_SE in enumerate(expected.router_logits_LSE):
        delta = exhibit.limit("worst_router_logit_error") * float(np.sqrt(np.mean(logits_SE**2)))
        certificate = certify(exhibit.oracle.ranking(layer, logits_SE), ids[layer], ranking_allowance(delta, spec), spec)
        metrics = [Metric("uncertified_selections", certificate.uncertified, 0)]
        if weights is not None:
            weights_SK = expected.topk_weights_LSK[layer]
            allowance = weight_allowance(weights_SK, np.full_like(weights_SK, 2 * delta), exhibit.dtype)
            metrics.append(routing.weights_within(weights[layer], weights_SK, allowance))
        if shown is not None:
            errors = router_errors(shown[layer : layer + 1], logits_SE[None])
            metrics += [Metric.within(name, value, row_limits(exhibit)[name]) for name, value in errors.items()]
        found.append(metrics)
    return found
