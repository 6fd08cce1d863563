"""How a check ended, as far as it can be compared: the status, the judged numbers, and the words about the input they were found on."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from moe_harness.judge.metric import Metric
from moe_harness.repro.capsule import Capsule

ALIKE = 0.05  # of a count or a probability, which rounding moves a little and no floor bounds
SAME_SIZE = 1.0  # of what is reported beside it: once more or half as much is alike
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\bnan\b|\binf\b)")
AGAIN = "Failing test case"  # Hypothesis's own words, after which the example is told a second time


@dataclass(frozen=True)
class Echo:
    """`metrics`: those in question, by name."""

    status: str
    reason: str = ""
    metrics: Mapping[str, Metric] = field(default_factory=dict)

    @cached_property
    def words(self) -> str:
        """On which input, or, where nothing was judged, the error. One line."""
        line = self.reason.split(AGAIN)[0].partition("\n")[0]
        return line if not self.metrics else line[line.find("[") :] if "[" in line else ""


def echo_of(capsule: Capsule) -> Echo:
    """The candidate's."""
    return Echo(capsule.identity.get("status", ""), capsule.identity.get("reason", ""), violated(capsule.metrics))


def violated(metrics: Iterable[Metric]) -> dict[str, Metric]:
    """The violated ones and what was reported beside them; nothing where none is."""
    found = list(metrics)
    return {m.name: m for m in found if m.violated or m.bound is None} if any(m.violated for m in found) else {}


def alike(one: Echo, other: Echo) -> bool:
    """The same status, the same metrics violated, by as much, in the same words about the same input."""
    if one.status != other.status or one.metrics.keys() != other.metrics.keys():
        return False
    if not all(_alike(metric, other.metrics[name]) for name, metric in one.metrics.items()):
        return False
    return _same_words(one.words, other.words, exact=bool(one.metrics))


def _alike(one: Metric, other: Metric) -> bool:
    """Within what honest implementations may differ by, twice (both are rounded), where a floor says so."""
    if one.noise and one.bound:
        return _near(one.value, other.value, 2 * one.bound)
    share = ALIKE if one.bound is not None else SAME_SIZE
    return _near(one.value, other.value, share * min(abs(one.value), abs(other.value)))


def _near(a: float, b: float, allowed: float) -> bool:
    return a == b or abs(a - b) <= allowed or (math.isnan(a) and math.isnan(b))


def _same_words(one: str, other: str, exact: bool) -> bool:
    """`exact`: their numbers tell the input and must be near; those in the message of an error need not."""
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return False
    pairs = zip(map(float, NUMBER.findall(one)), map(float, NUMBER.findall(other)), strict=True)
    return not exact or all(_near(a, b, ALIKE * max(abs(a), abs(b))) for a, b in pairs)
