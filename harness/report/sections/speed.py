"""How fast the conforming objects are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from moe_harness.records.frame import Frame
from moe_harness.report import template
from moe_harness.report.order import Labels
from moe_harness.report.speed import Speed, speeds

TITLE = "Speed"
ORDER = 50
SHOWN = 150
_OPTIONAL = ("peer", "note", "p99", "no_p99", "share", "first_call", "memory", "disturbed")  # columns that are there if one speed has them


def render(frame: Frame) -> str:
    found = speeds(frame)
    if not found:
        return ""
    labels = Labels(frame)
    groups = [list(members) for _, members in groupby(found[:SHOWN], key=lambda speed: speed.group)]
    tables = [[(speed, labels(speed.row), _share(speed, members)) for speed in members] for members in groups]
    shown = {name: any(getattr(speed, name) not in (None, False, "") for speed in found[:SHOWN]) for name in _OPTIONAL}
    shown["p99"] |= shown.pop("no_p99")
    own, common = _parameters(found[:SHOWN])
    few = next((speed.no_p99 for speed in found if speed.no_p99), "")
    return template.render("speed", few=few, own=own, common=common, groups=tables, left_out=len(found) - len(found[:SHOWN]), shown=shown)


def _parameters(found: Sequence[Speed]) -> tuple[dict[str, str], str]:
    """Of each parameter text what is its own, and what all have in common: that is said once."""
    parts = {speed.row["parameters"]: speed.row["parameters"].split(" ") for speed in found}
    common = [part for part in next(iter(parts.values())) if len(parts) > 1 and all(part in each for each in parts.values())]
    return {text: " ".join(part for part in each if part not in common) for text, each in parts.items()}, ", ".join(common)


def _share(speed: Speed, members: list[Speed]) -> float | None:
    """Percent of the group's highest rate, for the bar; the median is of seconds, so the fastest has the smallest."""
    fastest = min((member.median for member in members if member.median), default=None)
    return 100 * fastest / speed.median if fastest and speed.median else None
