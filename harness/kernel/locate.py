"""Where an output is wrong, in words. Legend: T tokens, K top-k, D hidden."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHOWN = 4


def locate(observed_TD: np.ndarray, expected_TD: np.ndarray, ids_TK: np.ndarray, allowed: float) -> str:
    """Which tokens, experts or columns are off by more than `allowed` times the RMS of the expectation; empty if none is."""
    scale = float(np.sqrt(np.mean(expected_TD**2))) or 1.0
    with np.errstate(invalid="ignore", over="ignore"):
        squares_TD = ((observed_TD - expected_TD) / scale) ** 2
        bad_T = ~(np.sqrt(squares_TD.mean(-1)) <= allowed)
    if not bad_T.any():
        return ""
    return _columns(squares_TD[bad_T], allowed) + (_experts(bad_T, ids_TK) or _tokens(bad_T))


def _tokens(bad_T: np.ndarray) -> str:
    T, bad = len(bad_T), np.nonzero(bad_T)[0]
    if len(bad) == T:
        return "the only token" if T == 1 else f"all {T} tokens"
    if len(bad) == 1 and bad[0] == T - 1:
        return f"the last token of {T}"
    if bad[-1] == T - 1 and len(bad) == T - bad[0]:
        return f"the last {len(bad)} of {T} tokens, from {bad[0]} on"
    return f"{len(bad)} of {T} tokens ({ranges(bad.tolist())})"


def _experts(bad_T: np.ndarray, ids_TK: np.ndarray) -> str:
    """Experts all of whose tokens are wrong, if they explain every wrong token and are fewer than half of those in use."""
    used = np.unique(ids_TK)
    culprits = [int(e) for e in used if bad_T[(ids_TK == e).any(-1)].all()]
    explained_T = np.isin(ids_TK, culprits).any(-1)
    if not culprits or 2 * len(culprits) >= len(used) or (explained_T != bad_T).any():
        return ""
    return f"every token of expert{'s' if len(culprits) > 1 else ''} {ranges(culprits)}, no other ({bad_T.sum()} of {len(bad_T)})"


def _columns(squares_TD: np.ndarray, allowed: float) -> str:
    """Says so if the error is confined to some columns."""
    bad_D = ~(np.sqrt(squares_TD.mean(0)) <= allowed)
    return f"columns {ranges(np.nonzero(bad_D)[0].tolist())} of " if bad_D.any() and not bad_D.all() and bad_D.mean() < 0.75 else ""


def ranges(numbers: Sequence[int]) -> str:
    """1, 2, 3, 7 -> "1..3, 7"; long lists are cut."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(first) if first == last else f"{first}..{last}" for first, last in runs]
    return ", ".join(words[:SHOWN]) + (", ..." if len(words) > SHOWN else "")
