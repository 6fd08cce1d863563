"""Errors held against their limits: of one MoE block's output, pooled three ways; of a pass through the whole model, routing pinned in the
oracle; of the likeliest next tokens and their log-probabilities.

Legend: T tokens, D hidden, S sequence, L MoE layers, E experts, K top-k, V vocabulary, N likeliest tokens.
"""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

from moe_harness.implementations.interface import TopLogProbs
from moe_harness.judge import routing
from moe_harness.judge.certificate import certify
from moe_harness.judge.distance import kl_divergence, relative_rms, worst_row
from moe_harness.judge.limit import Limits
from moe_harness.judge.metric import Metric
from moe_harness.judge.rounding import UNIT_ROUNDOFF


def block_metrics(observed_TD: np.ndarray, expected_TD: np.ndarray, ids_TK: np.ndarray, limits: Limits) -> list[Metric]:
    """Error pooled over all tokens, over the tokens of the worst expert, and of the worst token. `ids_TK`: the experts of every token.
    Raises AssertionError for a wrong shape."""
    assert observed_TD.shape == expected_TD.shape, f"expected shape {expected_TD.shape}, got {observed_TD.shape}"
    return [Metric.within(name, value, limits[name]) for name, value in block_errors(observed_TD, expected_TD, ids_TK).items()]


def block_errors(observed_TD: np.ndarray, expected_TD: np.ndarray, ids_TK: np.ndarray) -> dict[str, float]:
    """The three errors by name."""
    return {
        "block_error": relative_rms(observed_TD, expected_TD),
        "worst_expert_error": max(expert_errors(observed_TD, expected_TD, ids_TK).values(), default=0.0),
        "worst_token_error": worst_row(observed_TD, expected_TD),
    }


def expert_errors(observed_TD: np.ndarray, expected_TD: np.ndarray, ids_TK: np.ndarray) -> dict[int, float]:
    """Relative RMS error over the tokens of every expert that has any."""
    pools = {int(e): (ids_TK == e).any(-1) for e in np.unique(ids_TK)}
    return {e: relative_rms(observed_TD[pool], expected_TD[pool]) for e, pool in pools.items()}


def logit_metrics(observed_SV: np.ndarray, expected_SV: np.ndarray, limits: Limits) -> list[Metric]:
    """Relative RMS error over all positions, and of the worst position."""
    return [Metric.within(name, value, limits[name]) for name, value in logit_errors(observed_SV, expected_SV).items()]


def logit_errors(observed_SV: np.ndarray, expected_SV: np.ndarray) -> dict[str, float]:
    return {"logit_error": relative_rms(observed_SV, expected_SV), "worst_position_error": worst_row(observed_SV, expected_SV)}


def router_errors(observed_LSE: np.ndarray, expected_LSE: np.ndarray) -> dict[str, float]:
    """Router logits inside the model: of the worst layer, the relative RMS error and the largest error over the layer's RMS logit."""
    layers = list(zip(observed_LSE, expected_LSE, strict=True))
    largest = [float(np.max(np.abs(o - e)) / np.sqrt(np.mean(e**2))) for o, e in layers]
    return {"router_logit_error": max(relative_rms(o, e) for o, e in layers), "worst_router_logit_error": max(largest)}


def median_kl(expected_SV: np.ndarray, observed_SV: np.ndarray) -> float:
    """KL (nats) of the median position between free-running distributions. Where an expert flips it jumps by orders of magnitude, honestly:
    the mean measures how many flips there were, the median what happens elsewhere."""
    return float(np.median(kl_divergence(expected_SV, observed_SV)))


# |d log softmax(l)| <= 2 max |dl|: a log-probability moves by its own logit's error and by that of the sum.
BOTH = 2.0
# A float32 log-softmax takes the largest logit away, sums, takes the logarithm and that away: numbers of the size of the largest logit.
ROUNDINGS = 4


def likeliest(logits_BSV: np.ndarray, n: int) -> TopLogProbs:
    """What a backend that shows logits would tell of its n likeliest tokens."""
    log_probs_BSV = log_softmax(logits_BSV.astype(np.float64), axis=-1)
    ids_BSN = np.argsort(-log_probs_BSV, axis=-1, kind="stable")[..., :n]
    return TopLogProbs(ids_BSN, np.take_along_axis(log_probs_BSV, ids_BSN, axis=-1).astype(np.float32))


def likeliest_metrics(ids_SN: np.ndarray, log_probs_SN: np.ndarray, logits_SV: np.ndarray, limits: Limits) -> list[Metric]:
    """`logits_SV`: the oracle's; `limits`: those of logits. Errors of log-probabilities are in units of the RMS logit. A token may be
    missing, or stand before a likelier one, only where the two lie as close as two logits may be off."""
    known = routing.ids(ids_SN, logits_SV.shape[-1])
    if any(metric.violated for metric in known):
        return known
    scale = float(np.sqrt(np.mean(logits_SV**2)))
    expected_SN = np.take_along_axis(log_softmax(logits_SV, axis=-1), ids_SN, axis=-1)
    errors_S = np.sqrt(np.mean((log_probs_SN - expected_SN) ** 2, axis=-1)) / scale
    rounding = ROUNDINGS * UNIT_ROUNDOFF["float32"] * float(np.abs(logits_SV).max()) / scale
    pooled, worst = limits["logit_error"], limits["worst_position_error"]
    allowed = (worst.bound + rounding) * scale
    return [
        *known,
        Metric.within("log_prob_error", float(np.sqrt(np.mean(errors_S**2))), pooled.times(BOTH).plus(rounding)),
        Metric.within("worst_log_prob_error", float(errors_S.max()), worst.times(BOTH).plus(rounding)),
        Metric("missing_tokens", certify(logits_SV, ids_SN, allowed).uncertified, 0),
        Metric("wrong_order", int(np.sum(np.diff(expected_SN, axis=-1) > 2 * allowed)), 0),
        Metric("not_likeliest_first", int(np.sum(~(np.diff(log_probs_SN, axis=-1) <= 0))), 0),
    ]
