"""Two backends timed in turn: how much longer the one takes than the other, and what the rounds could have seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.report import template
from moe_harness.report.pairs import PAIRED, Pair, pairs

TITLE = "Timed in turn"
ORDER = 52
SHOWN = 100
_SYMBOLS = {"slower": ("▼", "bad"), "undecided": ("?", "open"), "equivalent": ("=", "pass"), "faster": ("▲", "pass"), "": ("∅", "bad")}


def render(frame: Frame) -> str:
    found = pairs(frame)
    if not found:
        return ""
    reach = _reach(found)
    lines = [(pair, _SYMBOLS[pair.verdict], _bar(pair, reach)) for pair in found[:SHOWN]]
    words = [pair.verdict for pair in found]
    counts = [(name, words.count(name)) for name in PAIRED if name in words]
    return template.render("pairs", lines=lines, counts=counts, left_out=max(0, len(found) - SHOWN))


def _reach(found: Sequence[Pair]) -> float:
    """The widest |log ratio| that is drawn, at least that of 10 %."""
    edges = [value for pair in found for value in (pair.low, pair.high) if value and value > 0]
    return max([math.log(1.1), *(abs(math.log(edge)) for edge in edges)]) * 1.05


def _bar(pair: Pair, reach: float) -> dict[str, Any] | None:
    """Per cent from the left of the track, whose middle is "as fast": interval, ratio, margin of equivalence."""
    if not pair.ratio or not pair.low or not pair.high or min(pair.ratio, pair.low, pair.high) <= 0:
        return None
    place = {name: 50 + 50 * math.log(value) / reach for name, value in (("low", pair.low), ("high", pair.high), ("ratio", pair.ratio))}
    margin = 50 * math.log1p(pair.delta) / reach if pair.delta else 0.0
    return {name: f"{value:.2f}" for name, value in {**place, "width": place["high"] - place["low"], "margin": min(margin, 50)}.items()} | {
        "start": f"{50 - min(margin, 50):.2f}"
    }
