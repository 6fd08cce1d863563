"""What is wrong with a router's answer: its logits, the ids or the weights. Legend: T tokens, E experts, K top-k."""

from __future__ import annotations

import numpy as np

from moe_harness.diagnosis.operators import Finding
from moe_harness.diagnosis.rejudge import logit_ratio, router_delta, weights_allowed
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.judge.certificate import certify, ranking_allowance
from moe_harness.judge.exhibit import Exhibit
from moe_harness.oracle.routing import combine_weights


def find_in_router(exhibit: Exhibit) -> Finding:
    """The first of logits, ids, weights that the oracle does not agree with."""
    assert exhibit.config is not None
    spec, arrays, layer = exhibit.config.routing, exhibit.arrays, exhibit.facts["layer"]
    sound_T = np.asarray(np.isfinite(arrays["x_TD"]).all(-1))
    x_TD, ids_TK, weights_TK = (arrays[name][sound_T] for name in ("x_TD", "ids_TK", "weights_TK"))
    wrong_ids = illegal(ids_TK, spec)
    if wrong_ids.any():
        return Finding(("routing ids",), layer, tokens=_places(wrong_ids), evidence=("an expert is repeated or out of range",))
    logits_TE, delta_TE = exhibit.oracle.route(0, x_TD)[0], router_delta(exhibit, x_TD)
    found = _logits(exhibit, sound_T, logits_TE, delta_TE)
    certificate = certify(exhibit.oracle.ranking(0, logits_TE), ids_TK, ranking_allowance(delta_TE, spec), spec)
    flipped_T = certificate.excess_T > 0
    if flipped_T.any():
        said = f"{int(flipped_T.sum())} of {len(ids_TK)} tokens go to experts that rounding does not excuse"
        operators = ("router logits", "routing ids") if found else ("routing ids",)
        return Finding(operators, layer, tokens=_places(flipped_T), evidence=(*found, said))
    expected_TK = combine_weights(logits_TE, ids_TK, spec)
    off_T = ~(np.abs(weights_TK - expected_TK) <= expected_TK * weights_allowed(exhibit, delta_TE, ids_TK, expected_TK)).all(-1)
    said = describe_weights(weights_TK[off_T], expected_TK[off_T])
    if off_T.any():
        return Finding(("router logits",) if found else ("routing weights",), layer, tokens=_places(off_T), evidence=(*found, said))
    return Finding(("router logits", "routing ids"), layer, evidence=found or ("every part of the answer is right by itself",))


def _logits(exhibit: Exhibit, sound_T: np.ndarray, expected_TE: np.ndarray, delta_TE: np.ndarray) -> tuple[str, ...]:
    if "logits_TE" not in exhibit.arrays:
        return ()
    ratio = logit_ratio(exhibit.arrays["logits_TE"][sound_T], expected_TE, delta_TE)
    return (f"the router logits themselves are off, by up to {ratio:.3g} times what rounding may do",) if not ratio <= 1 else ()


def illegal(ids_TK: np.ndarray, spec: RoutingSpec) -> np.ndarray:
    """Boolean (T): an id is out of range or stands there twice."""
    ranked = np.sort(ids_TK, axis=-1)
    return ((ids_TK < 0) | (ids_TK >= spec.num_experts)).any(-1) | (ranked[:, 1:] == ranked[:, :-1]).any(-1)


def _places(where_T: np.ndarray) -> tuple[int, ...]:
    return tuple(int(t) for t in np.flatnonzero(where_T)[:8])


def describe_weights(weights_TK: np.ndarray, expected_TK: np.ndarray) -> str:
    """What wrong weights have to do with right ones."""
    if not len(weights_TK):
        return "the weights are right"
    ratio = weights_TK / expected_TK
    if not np.isfinite(weights_TK).all():
        return "weights are not finite"
    if (weights_TK < 0).any():
        return "weights are negative"
    if np.allclose(ratio, ratio.ravel()[0], rtol=1e-2):
        return f"all weights are {ratio.ravel()[0]:.4g} times what they must be"
    if np.allclose(ratio, ratio[:, :1], rtol=1e-2):
        low, high = weights_TK.sum(-1).min(), weights_TK.sum(-1).max()
        return f"a token's weights stand in the right proportion, but sum to {low:.4g} .. {high:.4g} (renormalisation or scaling)"
    if np.allclose(np.sort(weights_TK), np.sort(expected_TK), rtol=1e-2):
        return "the weights are right, but belong to other experts of the same token"
    return "the weights of a token are not in the right proportion"
