"""How a check ended: status and reason, from what it raised and what it measured. pytest's records and the self-test both ask here."""

from __future__ import annotations

import pytest

from moe_harness.judge.limit import Blind
from moe_harness.judge.verdict import Inconclusive, Verdict
from moe_harness.records.status import Status

SHOWN = 2000  # characters of a reason that a report can show


def classify(error: BaseException | None, verdict: Verdict | None, benchmark: bool = False) -> tuple[str, str]:
    """(status, reason) of what raised `error` (None: nothing). `verdict`: what it had measured, None where it did not get so far.
    `benchmark`: pytest-benchmark's own --benchmark-skip is a gap of the run, no crash."""
    return _of_silence(verdict) if error is None else _of_error(error, benchmark)


def _of_error(error: BaseException, benchmark: bool) -> tuple[str, str]:
    while isinstance(error, BaseExceptionGroup):  # Hypothesis groups what it could not repeat: the first is what happened
        error = error.exceptions[0]
    reason = str(error).strip() or type(error).__name__
    if isinstance(error, pytest.skip.Exception):
        return (
            (Status.UNSUPPORTED, reason)
            if benchmark
            else (Status.CRASHED, f"untyped skip, which says neither what is missing nor why: {reason}")
        )
    status = _status(error)
    return status, _with_notes(reason if status != Status.CRASHED else f"{type(error).__name__}: {reason}", error)


def _status(error: BaseException) -> str:
    from moe_harness.implementations.interface import Unsupported
    from moe_harness.implementations.worker import WorkerTimeout
    from moe_harness.suite.subject import Unavailable

    kinds: tuple[tuple[type[BaseException], str], ...] = (
        (Unsupported, Status.UNSUPPORTED),
        (Unavailable, Status.UNAVAILABLE),
        (Inconclusive, Status.INCONCLUSIVE),
        (Blind, Status.INCONCLUSIVE),
        (AssertionError, Status.FAIL),
        (WorkerTimeout, Status.TIMEOUT),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), Status.CRASHED)


def _of_silence(verdict: Verdict | None) -> tuple[str, str]:
    """A check that raised nothing passes only if it judged something, on evidence of which it asked for a least amount."""
    if verdict is None or not any(metric.bound is not None for metric in verdict.metrics.values()):
        return Status.INCONCLUSIVE, "nothing was judged"
    if not any(floor > 0 for floor in verdict.floors.values()):
        return Status.INCONCLUSIVE, "no evidence was required: the check asks for no least number of tokens, calls or the like"
    return Status.PASS, ""


def _with_notes(reason: str, error: BaseException) -> str:
    """The message with Hypothesis's falsifying example, cut to what a report can show."""
    text = "\n".join([reason, *getattr(error, "__notes__", ())])
    return text if len(text) <= SHOWN else text[:SHOWN] + " ..."
