"""The matrix of the first screen: topics, or clauses where they are few, by backends."""

from __future__ import annotations

from moe_harness.records.frame import Frame
from moe_harness.report import template
from moe_harness.report.matrix import overview
from moe_harness.report.sections.matrix import legend

TITLE = "Checks by backend"
ORDER = 30


def render(frame: Frame) -> str:
    found = overview(frame)
    return "" if found is None else template.render("overview", matrix=found, **legend(frame, found))
