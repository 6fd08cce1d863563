"""Records against themselves: what one field says must follow from the others."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from moe_harness.records import finding
from moe_harness.records.finding import Finding
from moe_harness.records.status import Status
from moe_harness.report.compare import recompute

Record = Mapping[str, Any]
Again = Callable[[Record], Any]  # with ratio, low, high, mde, verdict
_STATED = re.compile(r"(?:^|; )(\w+) = (\S+) \(bound ([^,)\s]+)")  # as moe_harness.judge.metric writes it
_MARGIN = 1e-9  # relative: both sides compute in float64
_MISSING = ("missing", "a record: it was planned, and the run ended")


def record_findings(records: Sequence[Record], sealed: bool, again: Again | None = None) -> Iterator[Finding]:
    """`sealed`: the seal holds, so what is planned and missing was never there. `again`: the estimate of a pair from its samples."""
    for record in records:
        if record["type"] in ("check", "bench"):
            yield from _status(record)
            yield from _metrics(record)
            yield from _reason(record)
        if record["type"] == "bench":
            yield from _limit(record)
            yield from _work(record)
            yield from _percentiles(record)
            yield from _canary(record)
        if record["type"] == "pair":
            yield from _pair(record)
            yield from _estimate(record, again) if again is not None else ()
    yield from _ends(records)
    yield from _unplanned(records)
    if not sealed:
        yield from _missing(records)


def _status(record: Record) -> Iterator[Finding]:
    if (found := recompute.status(record)) != record["status"]:
        yield finding.of(record, "status", record["status"], found)


def _metrics(record: Record) -> Iterator[Finding]:
    for metric in recompute.metrics_of(record):
        kind = "reported" if metric.get("bound") is None else "judged"
        if metric.get("kind") != kind:
            yield finding.of(record, f"metrics.{metric.get('name')}.kind", metric.get("kind"), kind)
        if "visible" in metric and not _close(metric["visible"], visible := _visible(metric)):
            yield finding.of(record, f"metrics.{metric.get('name')}.visible", metric["visible"], visible)


def _visible(metric: Record) -> float | None:
    """The smallest further error that would have failed: errors add in squares."""
    value, bound = recompute.number(metric.get("value")), recompute.number(metric.get("bound"))
    if metric.get("noise") is None or metric.get("bound") is None or not value <= bound:
        return None
    return math.sqrt(bound**2 - value**2)


def _reason(record: Record) -> Iterator[Finding]:
    """A failure's reason states values and bounds: those of its metrics, to four digits."""
    metrics = {str(metric.get("name")): metric for metric in record.get("metrics") or ()}
    for name, value, bound in _STATED.findall(str(record.get("reason") or "")):
        if record["status"] != Status.FAIL or name not in metrics:
            continue
        for field, stated in (("value", value), ("bound", bound)):
            if (held := f"{recompute.number(metrics[name].get(field)):.4g}") != stated:
                yield finding.of(record, f"metrics.{name}.{field}", held, f"{stated} in its reason")


def _limit(record: Record) -> Iterator[Finding]:
    """The time that the machine's limits leave, which of them it is, and the share of it that was reached."""
    limit, work, samples = record.get("limit") or {}, record.get("work") or {}, recompute.finite_samples(record)
    if not work or not limit.get("bytes_per_s"):
        return
    compute = work["flops"] / limit["flops_per_s"] if limit.get("flops_per_s") else 0.0
    reading = work["bytes"] / limit["bytes_per_s"]
    least = max(compute, reading)
    expected: dict[str, Any] = {"seconds": least, "by": "compute" if compute > reading else "bandwidth"}
    if samples:
        expected["share"] = least / float(np.median(samples))
    for name, value in expected.items():
        if name in limit and not _close(limit[name], value):
            yield finding.of(record, f"limit.{name}", limit[name], value)


def _work(record: Record) -> Iterator[Finding]:
    """Experts touched are counted by call, loads are summed over calls: at least one touch for every load."""
    work = record.get("work") or {}
    loaded = sum(load > 0 for layer in work.get("loads") or () for load in layer)
    if work.get("experts_touched") is not None and work["experts_touched"] < loaded:
        yield finding.of(record, "work.experts_touched", work["experts_touched"], f"at least {loaded}")


def _percentiles(record: Record) -> Iterator[Finding]:
    """{"p90": {value, low, high}}, or {reason} where there are too few samples."""
    samples = recompute.finite_samples(record)
    for name, stated in (record.get("percentiles") or {}).items() if samples else ():
        found = recompute.percentile(samples, float(name.removeprefix("p")) / 100)
        if (found is None) != ("reason" in stated):
            yield finding.of(record, f"percentiles.{name}", stated, found or "too few samples")
        for field, value in (found or {}).items() if "reason" not in stated else ():
            if not _close(stated.get(field), value):
                yield finding.of(record, f"percentiles.{name}.{field}", stated.get(field), value)


def _canary(record: Record) -> Iterator[Finding]:
    """Disturbed: a canary took longer than its reference times the tolerance. Records of before 2026-12 do not state the tolerance."""
    canary = record.get("canary") or {}
    before, after, reference, tolerance = (recompute.number(canary.get(name)) for name in ("before", "after", "reference", "tolerance"))
    if not math.isfinite(before + after + reference + tolerance):
        return
    if (disturbed := max(before, after) > tolerance * reference) != canary.get("disturbed"):
        yield finding.of(record, "canary.disturbed", canary.get("disturbed"), disturbed)


def _pair(record: Record) -> Iterator[Finding]:
    """A verdict follows from its interval and margin, and the interval holds the ratio."""
    low, ratio, high, delta = (recompute.number(record.get(name)) for name in ("low", "ratio", "high", "delta"))
    if not math.isfinite(low + ratio + high + delta):
        return
    if not low * (1 - _MARGIN) <= ratio <= high * (1 + _MARGIN):
        yield finding.of(record, "ratio", ratio, f"between {low:.6g} and {high:.6g}")
    if (found := _pair_verdict(low, high, delta)) != record.get("verdict"):
        yield finding.of(record, "verdict", record.get("verdict"), found)


def _estimate(record: Record, again: Again) -> Iterator[Finding]:
    """What the samples give, where there are any."""
    if not record.get("samples_a") or record.get("ratio") is None:
        return
    try:
        found = again(record)
    except (KeyError, TypeError, ValueError) as error:
        yield finding.of(record, "samples", "samples", f"no estimate: {error!r}")
        return
    for name in ("ratio", "low", "high", "mde", "verdict"):
        if not _close(record.get(name), getattr(found, name)):
            yield finding.of(record, name, record.get(name), getattr(found, name))


def _pair_verdict(low: float, high: float, delta: float) -> str:
    """Of b against a. Within the margin is equivalent, even where the interval does not hold 1."""
    if 1 / (1 + delta) < low and high < 1 + delta:
        return "equivalent"
    return "slower" if low > 1 else "faster" if high < 1 else "inconclusive"


def _ends(records: Sequence[Record]) -> Iterator[Finding]:
    """pytest's exit status 0 of all parts, and something that failed in one of them. CRASHED may be said of a machine that was lost, by
    one on which all went well."""
    ends = [record for record in records if record["type"] == "end"]
    failed = [record for record in records if record["type"] in ("check", "bench") and record["status"] in (Status.FAIL, Status.VOID)]
    if ends and failed and all(end["exit_status"] == 0 for end in ends):
        yield finding.of(ends[-1], "exit_status", 0, f"1: {len(failed)} failed, {failed[0]['node']} first")


def _planned(records: Sequence[Record]) -> dict[str, Record]:
    return {str(item["node"]): item for record in records if record["type"] == "plan" for item in record["items"]}


def _judged(records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record["type"] in ("check", "bench")]


def _unplanned(records: Sequence[Record]) -> Iterator[Finding]:
    planned = _planned(records)
    for record in _judged(records) if planned else ():
        if record["node"] not in planned:
            yield finding.of(record, "node", "a record", "no plan has it")


def _missing(records: Sequence[Record]) -> Iterator[Finding]:
    """Only of a run that ended by itself, within any budget."""
    ends = [record["exit_status"] for record in records if record["type"] == "end"]
    cut = any(record["type"] == "truncated" for record in records)
    limited = any((record.get("requested") or {}).get("budget") for record in records if record["type"] == "run")
    if not ends or cut or limited or any(status not in (0, 1) for status in ends):
        return
    seen = {record["node"] for record in _judged(records)}
    for node, item in _planned(records).items():
        if node not in seen:
            kind = "bench" if str(item.get("check")).startswith("BENCH-") else "check"
            yield Finding(str(item.get("shard") or "plan"), kind, node, "record", *_MISSING)


def _close(recorded: Any, recomputed: Any) -> bool:
    if isinstance(recorded, str) and isinstance(recomputed, str):
        return recorded == recomputed
    if recorded is None or recomputed is None:
        return recorded is recomputed
    one, other = recompute.number(recorded), recompute.number(recomputed)
    return math.isclose(one, other, rel_tol=_MARGIN, abs_tol=1e-300) or (math.isnan(one) and math.isnan(other)) or one == other
