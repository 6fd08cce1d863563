"""Benchmark rows -> speeds: median with interval, tokens per second, ratio to the peer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.records.metric import finite
from moe_harness.records.status import SKIPPED, Status
from moe_harness.stats.medians import SMALLEST, median_interval

PEER = "hf"  # the reference implementation's backends: hf, hf:eager, hf:grouped_mm, ...
WORKLOADS = ("ttft", "prefill", "tpot", "decode", "end_to_end", "moe_block", "router", "conversion")  # shown in this order, others behind
Group = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Speed:
    """One benchmark row. Seconds per round. Every number is None unless the status is PASS: a speed without conformance is no speed.
    `ratio`: how many times as fast as `peer`; `distinct`: their intervals do not overlap; `note`: why a number is missing. `share`: of the
    machine's limit, which is one of `limited_by` (compute, bandwidth); `memory`: peak bytes, the device's if there is one; `disturbed`: the
    machine was not quiet meanwhile; `p99`: as recorded, or why there is none."""

    row: Mapping[str, Any]
    group: Group
    rounds: int = 0
    median: float | None = None
    low: float | None = None
    high: float | None = None
    tokens_per_s: float | None = None
    ratio: float | None = None
    peer: str = ""
    distinct: bool = False
    note: str = ""
    share: float | None = None
    limited_by: str = ""
    first_call: float | None = None
    memory: float | None = None
    disturbed: bool = False
    p99: float | None = None
    no_p99: str = ""


def speeds(frame: Frame) -> list[Speed]:
    """Speeds in order of group, fastest first, those without a number last. Declared gaps are left to the list of skips."""
    measured = [_measured(row) for row in frame.of("bench") if row["status"] not in SKIPPED]
    peers = _peers(measured)
    compared = [_compared(speed, peers.get(speed.group)) for speed in measured]
    return sorted(compared, key=_key)


def _key(speed: Speed) -> tuple[Any, ...]:
    workload = speed.group[0]
    rank = WORKLOADS.index(workload) if workload in WORKLOADS else len(WORKLOADS)
    return (
        rank,
        speed.group[1:3],
        not speed.group[3],
        [(len(part), part) for part in re.split(r"(\d+)", speed.group[3]) if part],
        speed.group,
        speed.median is None,
        speed.median or 0.0,
        speed.row["backend"],
        speed.row["node"],
    )


def _measured(row: Mapping[str, Any]) -> Speed:
    speed = Speed(row, (row["check"], row["case"], row["dtype"], row["parameters"] or "", row["machine"]))
    if row["status"] != Status.PASS:
        return speed
    samples = row["samples"]
    median, low, high = median_interval(samples)
    rate = row["tokens"] / median if row["tokens"] and median > 0 else None
    note = "" if low is not None else f"no interval under {SMALLEST} rounds"
    note = "still warming up" if row["facts"].get("steady") is False else note
    return replace(speed, rounds=len(samples), median=median, low=low, high=high, tokens_per_s=rate, note=note, **_about(row["facts"]))


def _about(facts: Mapping[str, Any]) -> dict[str, Any]:
    limit, memory, canary = (facts[name] if isinstance(facts.get(name), Mapping) else {} for name in ("limit", "memory", "canary"))
    peak = memory.get("device_peak_bytes") or memory.get("host_peak_bytes")
    return {
        "share": finite(limit.get("share")),
        "limited_by": str(limit.get("by") or ""),
        "first_call": finite(facts.get("first_call_s")),
        "memory": finite(peak),
        "disturbed": canary.get("disturbed") is True,
        **_tail(facts.get("percentiles")),
    }


def _tail(percentiles: Any) -> dict[str, Any]:
    found = percentiles.get("p99") if isinstance(percentiles, Mapping) else None
    return {"p99": finite(found.get("value")), "no_p99": str(found.get("reason") or "")} if isinstance(found, Mapping) else {}


def _peers(measured: Sequence[Speed]) -> dict[Group, Speed]:
    """The fastest conforming peer of each group. An emulation is nobody's peer."""
    found: dict[Group, Speed] = {}
    for speed in measured:
        name = speed.row["backend"]
        if speed.median is None or speed.row["execution"] == "emulated" or not (name == PEER or name.startswith(PEER + ":")):
            continue
        best = found.get(speed.group)
        if best is None or best.median is None or speed.median < best.median:
            found[speed.group] = speed
    return found


def _compared(speed: Speed, peer: Speed | None) -> Speed:
    if speed.median is None or peer is None or peer.median is None:
        return speed
    if speed.row["execution"] == "emulated":
        return replace(speed, note="emulated: says nothing about the device")
    return replace(speed, ratio=peer.median / speed.median, peer=peer.row["backend"], distinct=_distinct(speed, peer))


def _distinct(one: Speed, other: Speed) -> bool:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.high < other.low or other.high < one.low
