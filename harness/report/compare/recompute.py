"""The numbers that a report shows, from raw samples and raw metrics, by other means than the report's: numpy's median, scipy's binomial."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from moe_harness.records.status import Status

Record = Mapping[str, Any]
CONFIDENCE = 0.95


def number(value: Any) -> float:
    """A recorded number ("nan", "inf" included); NaN for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def metrics_of(record: Record) -> list[Record]:
    """A check's metrics, or those of a benchmark's gate, asked before and after."""
    return [*(record.get("metrics") or ()), *(record.get("gate") or ()), *(record.get("gate_after") or ())]


def judged(metrics: Iterable[Record]) -> list[Record]:
    return [metric for metric in metrics if metric.get("kind") == "judged" and metric.get("bound") is not None]


def violated(metrics: Iterable[Record]) -> list[Record]:
    """Judged metrics that are not within their bound; NaN never is."""
    return [metric for metric in judged(metrics) if not number(metric.get("value")) <= number(metric.get("bound"))]


def severity(metric: Record) -> float:
    """Value over bound; infinite where nothing is allowed and something is there, or where either is no number."""
    value, bound = number(metric.get("value")), number(metric.get("bound"))
    if math.isnan(value) or math.isnan(bound):
        return math.inf
    if bound == 0:
        return math.inf if value > 0 else 0.0
    return value / bound if math.isfinite(bound) else 0.0


def status(record: Record) -> str:
    """What a record's status has to be, given its metrics: the recorded one where they do not contradict it. Pairs have none."""
    if record.get("type") == "pair":
        return str(record.get("status"))
    recorded, timed = str(record.get("status")), record.get("type") == "bench"
    metrics = metrics_of(record)
    if recorded in (Status.PASS, Status.INCONCLUSIVE, Status.UNSUPPORTED, Status.UNAVAILABLE) and violated(metrics):
        return Status.VOID if timed else Status.FAIL
    if recorded == Status.PASS and timed:
        return Status.PASS if judged(metrics) and finite_samples(record) else Status.VOID
    if recorded == Status.PASS and not judged(metrics):
        return Status.INCONCLUSIVE
    if recorded == Status.KNOWN and "expected" in record and not record["expected"]:
        return Status.FAIL
    return Status.PASS if recorded == Status.FAIL and not record.get("reason") and not violated(metrics) else recorded


def told_once(records: Sequence[Record]) -> list[Record]:
    """What ended, for a report: what a pair's benchmark says by itself is not said twice. Such a pair is left out, or PASSes where it has
    an answer."""
    ended = [record for record in records if record["type"] in ("check", "bench", "pair")]
    said = {str(record["node"]): record["status"] for record in ended if record["type"] == "bench"}
    twice = [r["type"] == "pair" and r["status"] != Status.PASS and r["status"] == said.get(str(r.get("node"))) for r in ended]
    kept = [(record, again) for record, again in zip(ended, twice, strict=True) if not again or record.get("ratio") is not None]
    return [{**record, "status": Status.PASS} if again else record for record, again in kept]


def finite_samples(record: Record) -> list[float]:
    """The seconds per round; none where one of them is no number."""
    samples = [number(sample) for sample in record.get("samples") or ()]
    return samples if all(math.isfinite(sample) for sample in samples) else []


def median_interval(samples: Sequence[float]) -> tuple[float, float, float] | None:
    """Order statistics around the median that cover it with CONFIDENCE; None where there are too few."""
    ordered = np.sort(samples)
    rank = int(stats.binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5))
    if stats.binom.cdf(rank, len(ordered), 0.5) <= (1 - CONFIDENCE) / 2:
        rank += 1  # ppf is the smallest with at least that mass
    return (float(np.median(ordered)), float(ordered[rank - 1]), float(ordered[-rank])) if rank > 0 else None


def percentile(samples: Sequence[float], q: float) -> dict[str, Any] | None:
    """{value, low, high} of the q-quantile: the order statistics between which it lies with CONFIDENCE, None where there are none. None
    altogether where even the largest sample is not above it with CONFIDENCE."""
    n, tail = len(samples), (1 - CONFIDENCE) / 2
    if 1 - q**n < CONFIDENCE:
        return None
    ordered, below = np.sort(samples), [float(stats.binom.cdf(rank, n, q)) for rank in range(n)]
    low = max((rank for rank in range(n) if below[rank] <= tail), default=None)
    high = min((rank for rank in range(n) if below[rank] >= 1 - tail), default=None)
    ends = (None, None) if low is None or high is None else (float(ordered[low]), float(ordered[high]))
    return {"value": float(np.quantile(ordered, q)), "low": ends[0], "high": ends[1]}


def row(record: Record) -> dict[str, Any]:
    """The columns of results.csv that follow from one record."""
    found: dict[str, Any] = {"status": status(record), "duration_s": record.get("duration_s")}
    worst = max(judged(metrics_of(record)), key=severity, default=None)
    if worst is not None:
        found |= {"value": number(worst["value"]), "bound": number(worst["bound"]), "ratio": severity(worst)}
    if record.get("type") == "bench" and found["status"] == Status.PASS:
        found |= _speed(record)
    return found


def _speed(record: Record) -> dict[str, Any]:
    samples = finite_samples(record)
    interval, middle = median_interval(samples), float(np.median(samples))
    found: dict[str, Any] = {"rounds": len(samples), "median_s": middle}
    if interval is not None:
        found |= {"low_s": interval[1], "high_s": interval[2]}
    tokens = number(record.get("tokens"))
    return found | ({"tokens_per_s": tokens / middle} if tokens > 0 and middle > 0 else {})
