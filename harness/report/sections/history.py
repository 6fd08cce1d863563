"""Speeds and failures over the earlier runs that are given, oldest first."""

from __future__ import annotations

from harness.history.steps import FEWEST
from harness.report import template
from harness.report.frame import Frame
from harness.report.trend import trends

TITLE = "History"
ORDER = 58
SHOWN = 40


def render(frame: Frame) -> str:
    if not (found := trends(frame)):
        return ""
    return template.render("history", lines=found[:SHOWN], left_out=len(found[SHOWN:]), runs=len(frame.past) + 1, fewest=FEWEST)
