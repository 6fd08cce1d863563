"""Graphs: how many were exported and compiled, how long that took, and which operators ran on the host instead."""

from __future__ import annotations

from moe_harness.records.frame import Frame
from moe_harness.report import template
from moe_harness.report.compilation import graphs

TITLE = "Graphs"
ORDER = 58


def render(frame: Frame) -> str:
    found = graphs(frame)
    return template.render("compilation", graphs=found, left=any(each.host_operators for each in found)) if found else ""
