"""Speeds that are VOID or slower."""

from __future__ import annotations

from moe_harness.records.frame import Frame
from moe_harness.report import template
from moe_harness.report.slower import alerts

TITLE = "Void and slower"
ORDER = 25
FIRST = 3  # in sight
SHOWN = 60


def render(frame: Frame) -> str:
    if not any(row["kind"] in ("bench", "pair") for row in frame.records()):
        return ""
    found = alerts(frame)
    return template.render("slower", first=found[:FIRST], rest=found[FIRST:SHOWN], left_out=max(0, len(found) - SHOWN))
