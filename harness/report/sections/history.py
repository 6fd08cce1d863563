"""Speeds and failures over the earlier runs that are given, oldest first."""

from __future__ import annotations

from moe_harness.records.frame import Frame
from moe_harness.report import template
from moe_harness.report.trend import trends
from moe_harness.stats.changepoints import FEWEST

TITLE = "History"
ORDER = 58
SHOWN = 40


def render(frame: Frame) -> str:
    if not (found := trends(frame)):
        return ""
    return template.render("history", lines=found[:SHOWN], left_out=len(found[SHOWN:]), runs=len(frame.past) + 1, fewest=FEWEST)
