"""Two arms, one answer. A difference must recur in a second, independent series of blocks before it is one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from moe_harness.bench.blocks import Plan, Series, plan
from moe_harness.bench.clock import Arm, repeats
from moe_harness.bench.warmup import WarmUp, warm_up
from moe_harness.stats.paired import Estimate, PairConfig, estimate

DIFFERENT = ("slower", "faster")


@dataclass(frozen=True)
class Answer:
    """`final`: of B against A. The numbers are those of the last series: those of a first one that was repeated because it showed a
    difference are biased towards it."""

    final: Estimate
    series: tuple[Series, ...]
    pair_config: PairConfig

    @property
    def disturbed(self) -> list[int]:
        """Numbers of the disturbed blocks, counted through all series."""
        starts = [sum(len(earlier.songs) - 1 for earlier in self.series[:number]) for number in range(len(self.series))]
        return [start + block for start, each in zip(starts, self.series, strict=True) for block in each.disturbed]

    def to_record(self) -> dict[str, Any]:
        """The `pair` record's numbers. `blocks`: of each series, whose samples follow one another."""
        samples = {f"samples_{name}": [block for each in self.series for block in each.samples[arm]] for arm, name in enumerate("ab")}
        canaries = [each.songs for each in self.series]
        about = {"blocks": [each.plan.blocks for each in self.series], "canaries": canaries, "disturbed": self.disturbed}
        return {**samples, **about, **vars(self.final), **vars(self.pair_config)}


@dataclass(frozen=True)
class Prepared:
    """Two warm arms and the plan of their series."""

    arms: tuple[Arm, Arm]
    warm_ups: tuple[WarmUp, WarmUp]
    plan: Plan

    def series(self, seed: int) -> Series:
        return Series(self.arms, self.plan, seed)


def prepared(a: Arm, b: Arm, budget: float | None = None) -> Prepared:
    """Warms both up and chooses how many rounds to take. `budget`: seconds of a series; None: the default."""
    times = repeats(a, b)
    a, b = a.repeated(times), b.repeated(times)
    warm = warm_up(a), warm_up(b)
    return Prepared((a, b), warm, plan(*warm, budget))


def compare(ready: Prepared, pair_config: PairConfig, take: Callable[[Series], Series] = Series.take, seed: int = 0) -> Answer:
    """`take`: how the first series is taken. `seed`: of the order of rounds."""
    first = take(ready.series(seed))
    found = judge(first, pair_config)
    if found.verdict not in DIFFERENT:
        return Answer(found, (first,), pair_config)
    second = ready.series(seed + 1).take()
    return Answer(recurring(found, judge(second, pair_config)), (first, second), pair_config)


def judge(series: Series, pair_config: PairConfig) -> Estimate:
    return estimate(*series.samples, pair_config, series.disturbed)


def recurring(first: Estimate, second: Estimate) -> Estimate:
    """What two series say together, the first having shown a difference: the second's numbers, which nothing selected. A difference only
    where both show it. Where they contradict each other, the interval spans both."""
    if second.verdict == first.verdict:
        return second
    note = f"{first.verdict} in the first series, {second.verdict} in the second: it did not recur"
    note = "; ".join(filter(None, [note, second.note]))
    if second.verdict not in DIFFERENT:
        return replace(second, note=note)
    assert first.ratio and first.low and first.high and second.ratio and second.low and second.high
    ratio, low, high = math.sqrt(first.ratio * second.ratio), min(first.low, second.low), max(first.high, second.high)
    return replace(second, ratio=ratio, low=low, high=high, verdict="inconclusive", note=note)


def again(record: Mapping[str, Any]) -> Estimate:
    """The estimate of a `pair` record, from its samples: what its numbers have to be."""
    pair_config, found, start = PairConfig(record["delta"], record["confidence"]), [], 0
    for blocks in record["blocks"]:
        samples_a, samples_b = (record[f"samples_{name}"][start : start + blocks] for name in "ab")
        disturbed = [block - start for block in record["disturbed"] if start <= block < start + blocks]
        found.append(estimate(samples_a, samples_b, pair_config, disturbed))
        start += blocks
    return recurring(*found) if len(found) > 1 else found[0]
