"""Pairs: two backends timed in turn, so that a machine that grows slower slows both. The figures are the record's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.records.metric import finite
from moe_harness.records.status import Status
from moe_harness.report.order import place_key

PAIRED = ("slower", "undecided", "equivalent", "faster")  # in this order on the page
_MEASURED = (Status.PASS, Status.FAIL)  # FAIL: slower, where that was not to be
_WORDS = {"slower": "slower", "faster": "faster", "equivalent": "equivalent", "inconclusive": "undecided"}


@dataclass(frozen=True)
class Pair:
    """b against a. `ratio`: b's time over a's with its interval [`low`, `high`]; `delta`: margin of equivalence; `mde`: smallest
    change that these rounds would have seen; `disturbed`: blocks in which the machine was not quiet. Numbers are None where it is VOID."""

    row: Mapping[str, Any]
    a: str
    b: str
    verdict: str
    disturbed: int
    ratio: float | None
    low: float | None
    high: float | None
    confidence: float | None
    delta: float | None
    mde: float | None

    @property
    def gain(self) -> str:
        """How many per cent more or less time b takes."""
        return "" if self.ratio is None else f"{100 * (self.ratio - 1):+.1f} %".replace("-", "\u2212")


def pair_of(row: Mapping[str, Any]) -> Pair:
    """The pair of a row of that kind; "undecided" where the record names no verdict that is known here."""
    facts, valid = row["facts"], row["status"] in _MEASURED
    numbers = {name: finite(facts.get(name)) if valid else None for name in ("ratio", "low", "high", "confidence", "delta", "mde")}
    word = _WORDS.get(str(facts.get("verdict")), "undecided") if valid else ""
    disturbed = facts.get("disturbed")
    blocks = len(disturbed) if isinstance(disturbed, list) else 0
    return Pair(row, str(facts.get("a") or "?"), row["backend"], word, disturbed=blocks, **numbers)


def pairs(frame: Frame) -> list[Pair]:
    """All pairs that were timed or are VOID, by verdict, then by workload and place."""
    found = [pair_of(row) for row in frame.of("pair", *_MEASURED, Status.VOID)]
    return sorted(found, key=_key)


def _key(pair: Pair) -> tuple[Any, ...]:
    rank = PAIRED.index(pair.verdict) if pair.verdict else -1
    return (rank, pair.row["check"], place_key(pair.row), pair.row["parameters"], pair.a)
