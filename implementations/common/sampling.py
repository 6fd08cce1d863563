"""From one row of logits to one token id, on the host in float64: the same draw on every device."""

from __future__ import annotations

import numpy as np

from moe_harness.implementations.interface import GenerationSpec, InvalidInput


def check_spec(spec: GenerationSpec) -> None:
    """Raises InvalidInput."""
    if spec.max_new_tokens < 1:
        raise InvalidInput(f"max_new_tokens must be at least 1, got {spec.max_new_tokens}")
    if not (spec.temperature >= 0 and np.isfinite(spec.temperature)):
        raise InvalidInput(f"temperature must be finite and not negative, got {spec.temperature}")
    if spec.top_k < 0 or not 0 < spec.top_p <= 1:
        raise InvalidInput(f"top_k must be >= 0 and top_p in (0, 1], got {spec.top_k} and {spec.top_p}")


def pick(logits_V: np.ndarray, spec: GenerationSpec, rng: np.random.Generator) -> int:
    """Greedy (lowest id among equals) at temperature 0, else a draw from what top_k and then top_p leave of the distribution."""
    if spec.temperature == 0:
        return int(logits_V.argmax())
    order_V = np.argsort(-logits_V, kind="stable")
    probability = _softmax(logits_V[order_V].astype(np.float64) / spec.temperature)
    kept = probability[: spec.top_k or None]
    kept = kept / kept.sum()
    # The smallest set that reaches top_p: a token stays while those before it have not reached it. The first always stays.
    kept = kept[np.concatenate(([0.0], kept.cumsum()[:-1])) < spec.top_p]
    return int(order_V[rng.choice(len(kept), p=kept / kept.sum())])


def _softmax(descending_V: np.ndarray) -> np.ndarray:
    weights_V = np.exp(descending_V - descending_V[0])
    return weights_V / weights_V.sum()
