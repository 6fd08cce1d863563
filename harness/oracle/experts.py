"""Expert and dense feed-forward in float64. Legend: T tokens, K top-k, E experts, D hidden, F expert FFN."""

from __future__ import annotations

import numpy as np
from scipy.special import expit


def silu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(x), without overflow for large negative x."""
    return x * expit(x)


def swiglu(x_TD: np.ndarray, gate_up_2FD: np.ndarray, down_DF: np.ndarray) -> np.ndarray:
    """SwiGLU (Shazeer 2020): down(silu(gate x) * (up x)), shape (T, D). Gate is the first half of the rows."""
    gate, up = np.split(x_TD @ gate_up_2FD.T, 2, axis=-1)
    return (silu(gate) * up) @ down_DF.T


def moe(x_TD: np.ndarray, ids_TK: np.ndarray, weights_TK: np.ndarray, gate_up_E2FD: np.ndarray, down_EDF: np.ndarray) -> np.ndarray:
    """Sum over the K experts of weight * expert(x), shape (T, D), one expert at a time."""
    y_TD = np.zeros_like(x_TD)
    for e in np.unique(ids_TK):
        token, slot = np.nonzero(ids_TK == e)
        out = swiglu(x_TD[token], gate_up_E2FD[e].astype(np.float64), down_EDF[e].astype(np.float64))
        np.add.at(y_TD, token, weights_TK[token, slot, None] * out)
    return y_TD
