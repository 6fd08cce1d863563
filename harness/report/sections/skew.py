"""What uneven loads cost."""

from __future__ import annotations

from moe_harness.records.frame import Frame
from moe_harness.report import template
from moe_harness.report.skew import panels
from moe_harness.report.skew_figure import skew_plot

TITLE = "Skewed loads"
ORDER = 54
DRAWN = 4  # panels; the others are in the table


def render(frame: Frame) -> str:
    found = panels(frame)
    if not found:
        return ""
    figures = [skew_plot(panel, f"{panel.title}: time by skew of the loads") for panel in found[:DRAWN]]
    return template.render("skew", figures=figures, panels=found)
