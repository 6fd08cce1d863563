"""One case's outputs against the oracle's, and where they are wrong, in words.

Legend: T tokens, K top-k, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_harness.implementations.interface import KernelCall, KernelResult
from moe_harness.judge.distance import relative_rms
from moe_harness.judge.errors import block_metrics
from moe_harness.judge.limit import Limits
from moe_harness.judge.metric import Metric
from moe_harness.kernel.cases import Case
from moe_harness.kernel.noise import limits
from moe_harness.kernel.weights import Weights
from moe_harness.records.status import Status

SHOWN = 4


@dataclass(frozen=True)
class Line:
    """How a case ended. `status`: as in harness/records/record.py. `metrics`: the worst of all calls."""

    name: str
    group: str
    about: str
    status: str
    reason: str = ""
    metrics: tuple[Metric, ...] = ()
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Expected:
    """What every call of a case should give: (T, D) in float64, and the errors allowed. Spoilt rows hold the output for zeros."""

    outputs: tuple[np.ndarray, ...]
    limits: tuple[Limits, ...]


def expect(case: Case, weights: Weights, dtype: str) -> Expected:
    """The oracle's outputs. They do not depend on the arrays that a kernel was given and may have written to."""
    outputs = tuple(weights.outputs(np.nan_to_num(call.x_TD), call.topk_ids_TK, call.topk_weights_TK) for call in case.calls)
    return Expected(outputs, tuple(limits(dtype, weights.shape, len(call.x_TD)) for call in case.calls))


def judge(case: Case, expected: Expected, results: Sequence[KernelResult]) -> Line:
    """PASS or FAIL, with the reasons of the first call that is wrong."""
    reasons: list[str] = []
    worst: dict[str, Metric] = {}
    for i, (call, want_TD, allowed, result) in enumerate(zip(case.calls, expected.outputs, expected.limits, results, strict=True)):
        last = i == len(case.calls) - 1
        metrics, found = _judge_call(call, want_TD, result, allowed, case.spoilt_T if last else None)
        for metric in metrics:
            worst[metric.name] = max(worst.get(metric.name, metric), metric, key=_severity)
        about = f"in call {i + 1} of {len(case.calls)} ({count(len(call.x_TD))}): " if len(case.calls) > 1 else ""
        reasons += [about + "; ".join(found)] if found else []
    tokens = sum(len(call.x_TD) for call in case.calls)
    every = (*worst.values(), *_repeat(case, results))
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return Line(case.name, case.group, case.about, Status.FAIL if reasons else Status.PASS, "".join(reasons[:1]) + more, every, tokens)


def count(tokens: int) -> str:
    return f"{tokens} token{'' if tokens == 1 else 's'}"


def _severity(metric: Metric) -> float:
    return np.inf if np.isnan(metric.severity) else metric.severity


def _judge_call(
    call: KernelCall, want_TD: np.ndarray, result: KernelResult, limits: Limits, spoilt_T: np.ndarray | None
) -> tuple[list[Metric], list[str]]:
    reasons = list(result.problems)
    if result.y.shape != want_TD.shape:
        return [], [*reasons, f"shape {result.y.shape}, expected {want_TD.shape}"]
    observed_TD, ids_TK = result.y, call.topk_ids_TK
    if spoilt_T is not None:
        observed_TD = np.where(spoilt_T[:, None], want_TD, observed_TD)  # the others keep their numbers
    with np.errstate(invalid="ignore", over="ignore"):
        metrics = block_metrics(observed_TD, want_TD, ids_TK, limits)
    wrong = [metric for metric in metrics if metric.violated]
    if wrong:
        scales = (limits["worst_token_error"].bound, limits["block_error"].bound)
        where = next(filter(None, (locate(observed_TD, want_TD, ids_TK, allowed) for allowed in scales)), "spread over all tokens")
        reasons.append(f"{where}: {_not_finite(observed_TD) or max(wrong, key=_severity)}")
    return metrics, reasons


def _not_finite(y_TD: np.ndarray) -> str:
    bad = np.nonzero(~np.isfinite(y_TD).all(-1))[0]
    return f"NaN or infinity in {len(bad)} of {len(y_TD)} tokens ({ranges(bad.tolist())})" if len(bad) else ""


def _repeat(case: Case, results: Sequence[KernelResult]) -> list[Metric]:
    """How far the last call is from the first, where it should give the same. Reported: atomics and other orders of summation are honest,
    and both calls are held against the oracle."""
    if case.repeats_T is None or any(result.y.shape != call.x_TD.shape for result, call in zip(results, case.calls, strict=True)):
        return []
    return [Metric("repeat_difference", relative_rms(results[-1].y, results[0].y[case.repeats_T]))]


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
