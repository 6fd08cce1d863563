"""What is wrong with a MoE block's output, found by taking it apart: every token's output as a sum of its experts' right outputs.

Least squares gives the coefficients with which the outputs of the oracle's experts make up what came. Where they do, the experts are
right and the coefficients tell what the sum did: 0 where an expert was dropped, w^2 where a weight was applied twice. Where they do
not, the outputs of the other experts are tried (somebody else computed the token), and else the experts themselves are wrong.

Legend: T tokens, E experts, K top-k, D hidden, B basis vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moe_harness.diagnosis.operators import Finding
from moe_harness.diagnosis.rejudge import expected_block
from moe_harness.judge.exhibit import PREFIX, Exhibit
from moe_harness.oracle.layers import swiglu
from moe_harness.oracle.routing import combine_weights


@dataclass(frozen=True)
class Fit:
    """One token: the coefficients of its experts (and, last, of the shared expert) and what they leave unexplained, over the RMS of all
    outputs."""

    coefficients: np.ndarray
    unexplained: float


def find_in_block(exhibit: Exhibit) -> Finding:
    """Shared expert, sum, dispatch or experts."""
    layer, arrays = exhibit.facts["layer"], exhibit.arrays
    expected_TD, observed_TD = expected_block(exhibit), arrays["y_TD"].astype(np.float64)
    scale = float(np.sqrt(np.mean(expected_TD**2))) or 1.0
    allowed = exhibit.limit("worst_token_error")
    off_T = np.asarray(~(_rms(observed_TD - expected_TD) <= allowed * scale) & arrays["judged_T"].astype(bool))
    tokens = tuple(int(t) for t in np.flatnonzero(off_T)[:8])
    if not off_T.any():
        return Finding(("experts",), layer, evidence=("no single token is over the bound, all together are",))
    if not np.isfinite(observed_TD[off_T]).all():
        return Finding(("dispatch", "experts"), layer, tokens=tokens, evidence=("the output is not finite",))
    if not exhibit.tensors:
        return Finding(("experts",), layer, tokens=tokens, evidence=("the weights are not in the capsule, so no closer look is possible",))
    guilty = guilty_experts(arrays["ids_TK"], off_T, arrays["judged_T"].astype(bool))
    wrong = [int(t) for t in np.flatnonzero(off_T)]
    fits = [fit(exhibit, t, scale) for t in wrong]
    explained = [f.unexplained <= allowed for f in fits]
    about = (f"{len(wrong)} of {len(off_T)} tokens are wrong", *_which(guilty))
    if np.mean(explained) >= 0.5:
        operators, said = _coefficients(exhibit, wrong, fits)
        return Finding(operators, layer, guilty, tokens, (*about, said))
    elsewhere = [_fit_others(exhibit, t, scale) <= allowed for t in wrong[:8]]
    if np.mean(elsewhere) >= 0.5:
        return Finding(("dispatch",), layer, guilty, tokens, (*about, "the outputs are those of other experts than the ones chosen"))
    said = "no weighting of the right experts' outputs gives what came: the experts compute something else"
    return Finding(("experts", "matrix products"), layer, guilty, tokens, (*about, said))


def guilty_experts(ids_TK: np.ndarray, off_T: np.ndarray, judged_T: np.ndarray) -> tuple[int, ...]:
    """Experts of which every judged token is wrong, if they account for every wrong token and are not all that there are."""
    used = np.unique(ids_TK[judged_T])
    bad = [int(e) for e in used if off_T[judged_T & (ids_TK == e).any(-1)].all()]
    explains = np.asarray(np.isin(ids_TK, bad).any(-1))[off_T].all() if bad else False
    return tuple(bad) if explains and len(bad) < len(used) else ()


def _which(guilty: tuple[int, ...]) -> tuple[str, ...]:
    return (f"they are those of expert{'s' * (len(guilty) > 1)} {', '.join(map(str, guilty))}",) if guilty else ()


def fit(exhibit: Exhibit, t: int, scale: float) -> Fit:
    """Least squares over the token's own experts and the shared one."""
    return _solve(exhibit, t, exhibit.arrays["ids_TK"][t], scale)


def _fit_others(exhibit: Exhibit, t: int, scale: float) -> float:
    """Unexplained by all experts together. Infinite where there are too many of them for the hidden size to tell."""
    assert exhibit.config is not None
    experts = np.array(exhibit.experts if exhibit.experts is not None else range(exhibit.config.routing.num_experts))
    return _solve(exhibit, t, experts, scale).unexplained if 2 * len(experts) < exhibit.config.hidden_size else float("inf")


def _solve(exhibit: Exhibit, t: int, experts: np.ndarray, scale: float) -> Fit:
    basis_BD = basis(exhibit, exhibit.arrays["x_TD"][t : t + 1].astype(np.float64), experts)
    y_D = exhibit.arrays["y_TD"][t].astype(np.float64)
    coefficients, *_ = np.linalg.lstsq(basis_BD.T, y_D, rcond=None)
    return Fit(coefficients, float(np.sqrt(np.mean((basis_BD.T @ coefficients - y_D) ** 2))) / scale)


def basis(exhibit: Exhibit, x_1D: np.ndarray, experts: np.ndarray) -> np.ndarray:
    """The right outputs of these experts, and of the shared one (gated) last, (B, D)."""
    assert exhibit.config is not None
    tensors = exhibit.tensors
    rows = range(exhibit.config.routing.num_experts) if exhibit.experts is None else exhibit.experts
    at = {e: i for i, e in enumerate(rows)}
    gate_up, down = (tensors[f"{PREFIX}{part}.weight"] for part in ("gate_up", "down"))
    found = [swiglu(x_1D, gate_up[at[int(e)]].astype(np.float64), down[at[int(e)]].astype(np.float64)) for e in experts]
    if exhibit.config.shared_expert != "none":
        found.append(exhibit.oracle.shared(0, x_1D))
    return np.concatenate(found)


def _coefficients(exhibit: Exhibit, wrong: list[int], fits: list[Fit]) -> tuple[tuple[str, ...], str]:
    """(operators, what the coefficients tell)."""
    assert exhibit.config is not None
    K = exhibit.config.routing.top_k
    came, wanted = np.stack([f.coefficients for f in fits]), right_weights(exhibit)[wrong]
    rounding = 4 * exhibit.limit("block_error") * max(1.0, float(np.abs(wanted).max()))
    routed_wrong = bool((np.abs(came[:, :K] - wanted).max(-1) > rounding).any())
    if came.shape[1] > K and (np.abs(came[:, K] - 1) > rounding).any():
        share = float(np.median(came[:, K]))
        said = f"the shared expert counts {share:.4g} times instead of once" + (", and the routed sum is wrong too" if routed_wrong else "")
        return ("shared expert", "combine") if not routed_wrong else ("combine", "shared expert"), said
    lost = (np.abs(came[:, :K]) <= rounding) & (np.abs(wanted) > rounding)
    if lost.any() and (lost | (np.abs(came[:, :K] - wanted) <= rounding)).all():
        return ("dispatch", "combine"), f"{int(lost.sum())} outputs of experts are missing from the sum"
    if np.allclose(came[:, :K], wanted**2, atol=rounding):
        return ("combine", "routing weights"), "the weights were applied twice"
    if np.allclose(np.sort(came[:, :K]), np.sort(wanted), atol=rounding):
        return ("combine", "routing weights"), "the weights are right, but belong to other experts of the same token"
    return ("combine", "routing weights"), "the experts are right, their weights in the sum are not: " + _example(came[0, :K], wanted[0])


def _example(came_K: np.ndarray, wanted_K: np.ndarray) -> str:
    return f"{np.array2string(came_K, precision=3)} instead of {np.array2string(wanted_K, precision=3)}"


def right_weights(exhibit: Exhibit) -> np.ndarray:
    """weights_TK that the experts must be combined with."""
    assert exhibit.config is not None
    if "weights_TK" in exhibit.arrays:
        return exhibit.arrays["weights_TK"].astype(np.float64)
    logits_TE = exhibit.oracle.route(0, exhibit.arrays["x_TD"])[0]
    return combine_weights(logits_TE, exhibit.arrays["ids_TK"], exhibit.config.routing)


def _rms(x_TD: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(x_TD**2, axis=-1))
