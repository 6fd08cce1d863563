"""Judgement of the likeliest next tokens and their log-probabilities. Legend: S sequence, V vocabulary, N likeliest tokens."""

from __future__ import annotations

import numpy as np
from scipy.special import log_softmax

from moe_harness.implementations.interface import TopLogProbs
from moe_harness.judge import routing
from moe_harness.judge.certificate import certify
from moe_harness.judge.limit import Limits
from moe_harness.judge.metric import Metric
from moe_harness.judge.rounding import UNIT_ROUNDOFF

# |d log softmax(l)| <= 2 max |dl|: a log-probability moves by its own logit's error and by that of the sum.
BOTH = 2.0
# A float32 log-softmax takes the largest logit away, sums, takes the logarithm and that away: numbers of the size of the largest logit.
ROUNDINGS = 4


def of_logits(logits_BSV: np.ndarray, n: int) -> TopLogProbs:
    """What a backend that shows logits would tell of its n likeliest tokens."""
    log_probs_BSV = log_softmax(logits_BSV.astype(np.float64), axis=-1)
    ids_BSN = np.argsort(-log_probs_BSV, axis=-1, kind="stable")[..., :n]
    return TopLogProbs(ids_BSN, np.take_along_axis(log_probs_BSV, ids_BSN, axis=-1).astype(np.float32))


def metrics(ids_SN: np.ndarray, log_probs_SN: np.ndarray, logits_SV: np.ndarray, limits: Limits) -> list[Metric]:
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
