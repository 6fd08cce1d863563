"""Where a block is wrong: the error of every expert of every layer."""

from __future__ import annotations

from moe_harness.records.frame import Frame
from moe_harness.report import template
from moe_harness.report.heatmap import heat_rows

TITLE = "Error by layer and expert"
ORDER = 45
DRAWN = 10  # rows that are open; the worst of them


def render(frame: Frame) -> str:
    rows = heat_rows(frame)
    if not rows:
        return ""
    chosen = sorted(rows, key=lambda row: -row.ratio)[:DRAWN]
    groups = ([row for row in rows if row in chosen], [row for row in rows if row not in chosen])
    return template.render("heatmap", groups=groups)
