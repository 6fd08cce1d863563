"""What the verdicts rest on: tokens, experts hit, flips excused, and whatever else the checks counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.records.status import Status
from moe_harness.report import template
from moe_harness.report.order import Labels, place_key
from moe_harness.report.text import grouped, number
from moe_harness.report.trust import trust

TITLE = "Evidence"
ORDER = 70
_JUDGED = (Status.PASS, Status.FAIL, Status.INCONCLUSIVE, Status.KNOWN)
_SUMMED = ("tokens", "flips_excused")


def render(frame: Frame) -> str:
    rows = sorted(frame.of("check", *_JUDGED), key=place_key)
    sentences = trust(frame)
    if not sentences and not any(row["evidence"] for row in rows):
        return ""
    labels, places = Labels(frame), dict[tuple[str, str, str, str], list[Mapping[str, Any]]]()
    for row in rows:
        places.setdefault((labels(row), row["grade"], row["case"], row["dtype"]), []).append(row["evidence"])
    lines = [(place, len(found), _cells(found)) for place, found in places.items()]
    return template.render("evidence", lines=lines, sentences=sentences)


def _cells(found: Iterable[Mapping[str, Any]]) -> tuple[str, str, str, str]:
    """Tokens and flips add up; of the rest the range is shown."""
    values: dict[str, list[float]] = {}
    for evidence in found:
        for name, value in evidence.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                values.setdefault(name, []).append(value)
    sums = [grouped(sum(values.pop(name))) if name in values else "" for name in _SUMMED]
    experts = _range(values.pop("experts_hit", []))
    return sums[0], experts, sums[1], "; ".join(f"{name.replace('_', ' ')} {_range(values[name])}" for name in sorted(values))


def _range(values: list[float]) -> str:
    if not values:
        return ""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"
