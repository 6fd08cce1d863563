"""Error of a pass through the whole model, routing pinned in the oracle. Legend: S sequence, V vocabulary, L MoE layers, E experts."""

from __future__ import annotations

import numpy as np

from moe_harness.judge.distance import kl_divergence, relative_rms, worst_row
from moe_harness.judge.limit import Limits
from moe_harness.judge.metric import Metric


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
