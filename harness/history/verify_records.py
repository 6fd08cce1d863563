"""Records against themselves: what one field says must follow from the others."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from harness.history import finding, recompute
from harness.history.finding import Finding
from harness.record import FAILING

Record = Mapping[str, Any]
_STATED = re.compile(r"(?:^|; )(\w+) = (\S+) \(bound ([^,)\s]+)")  # as harness.judge.metric writes it
_MARGIN = 1e-9  # relative: both sides compute in float64
_MISSING = ("missing", "a record: it was planned, and the run ended")


def record_findings(records: Sequence[Record], sealed: bool) -> Iterator[Finding]:
    """`sealed`: the seal holds, so what is planned and missing was never there."""
    for record in records:
        if record["type"] in ("check", "bench"):
            yield from _status(record)
            yield from _metrics(record)
            yield from _reason(record)
        if record["type"] == "bench":
            yield from _limit(record)
            yield from _work(record)
        if record["type"] == "pair":
            yield from _pair(record)
    yield from _ends(records)
    yield from _unplanned(records)
    if not sealed:
        yield from _missing(records)


def _status(record: Record) -> Iterator[Finding]:
    if (found := recompute.status(record)) != record["status"]:
        yield finding.of(record, "status", record["status"], found)


def _metrics(record: Record) -> Iterator[Finding]:
    for metric in (*(record.get("metrics") or ()), *(record.get("gate") or ()), *(record.get("gate_after") or ())):
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
        if record["status"] != "FAIL" or name not in metrics:
            continue
        for field, stated in (("value", value), ("bound", bound)):
            if (held := f"{recompute.number(metrics[name].get(field)):.4g}") != stated:
                yield finding.of(record, f"metrics.{name}.{field}", held, f"{stated} in its reason")


def _limit(record: Record) -> Iterator[Finding]:
    """The time that the machine's limits leave, which of them it is, and the share of it that was reached."""
    limit, work, samples = record.get("limit") or {}, record.get("work") or {}, recompute.finite_samples(record)
    if not limit or not work or not limit.get("flops_per_s") or not limit.get("bytes_per_s"):
        return
    times = {"compute": work["flops"] / limit["flops_per_s"], "bandwidth": work["bytes"] / limit["bytes_per_s"]}
    by = max(times, key=lambda name: times[name])
    expected = {"seconds": times[by], "by": by}
    if samples:
        expected["share"] = times[by] / float(np.median(samples))
    for name, value in expected.items():
        if name in limit and not _close(limit[name], value):
            yield finding.of(record, f"limit.{name}", limit[name], value)


def _work(record: Record) -> Iterator[Finding]:
    """Experts touched: those with a load, over all layers."""
    work = record.get("work") or {}
    loads = work.get("loads")
    if loads and "experts_touched" in work and work["experts_touched"] != (touched := sum(load > 0 for layer in loads for load in layer)):
        yield finding.of(record, "work.experts_touched", work["experts_touched"], touched)


def _pair(record: Record) -> Iterator[Finding]:
    """A verdict follows from its interval and margin, and the interval holds the ratio."""
    low, ratio, high, delta = (recompute.number(record.get(name)) for name in ("low", "ratio", "high", "delta"))
    if record.get("status", "PASS") != "PASS" or not math.isfinite(low + ratio + high + delta):
        return
    if not low <= ratio <= high:
        yield finding.of(record, "ratio", ratio, f"between {low:.6g} and {high:.6g}")
    if (found := _pair_verdict(low, high, delta)) and record.get("verdict") not in found:
        yield finding.of(record, "verdict", record.get("verdict"), " or ".join(found))


def _pair_verdict(low: float, high: float, delta: float) -> tuple[str, ...]:
    """What may be said of b against a; an interval inside the margin that excludes 1 may be told either way."""
    inside = 1 / (1 + delta) - _MARGIN <= low or 1 - delta - _MARGIN <= low
    equivalent = ("equivalent",) if inside and high <= 1 + delta + _MARGIN else ()
    told = ("slower",) if low > 1 else ("faster",) if high < 1 else ()
    return (*equivalent, *told) or ("inconclusive",)


def _ends(records: Sequence[Record]) -> Iterator[Finding]:
    """pytest's exit status 0 of all parts, and something that failed in one of them."""
    ends = [record for record in records if record["type"] == "end"]
    failed = [record for record in records if record["type"] in ("check", "bench") and record["status"] in FAILING]
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
