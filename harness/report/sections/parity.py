"""How far below its bound every measured error lies."""

from __future__ import annotations

from moe_harness.records.frame import Frame
from moe_harness.report import template
from moe_harness.report.figure import dot_plot
from moe_harness.report.parity import Lane, checks_of, lanes

TITLE = "Error against bound"
ORDER = 40
DRAWN = 40  # lanes; the worst of them
LISTED = 300  # lines of the table


def render(frame: Frame) -> str:
    found = lanes(frame)
    if not found:
        return ""
    drawn = _worst(found)
    points = [(lane, point) for lane in found for point in lane.points]
    figure = dot_plot(drawn, _alternative(drawn))
    left_out = (len(found) - len(drawn), max(0, len(points) - LISTED))
    has_zero = any(point.ratio == 0 for lane in drawn for point in lane.points)
    context = {"figure": figure, "left_out": left_out, "checks": checks_of(found), "has_zero": has_zero}
    return template.render("parity", points=points[:LISTED], **context)


def _worst(found: tuple[Lane, ...]) -> list[Lane]:
    """All lanes in their order, or the DRAWN worst of them."""
    chosen = sorted(found, key=lambda lane: -lane.points[0].ratio)[:DRAWN]
    return [lane for lane in found if lane in chosen]


def _alternative(drawn: list[Lane]) -> str:
    beyond = sum(lane.points[0].ratio > 1 for lane in drawn)
    return f"Dot plot of measured error over bound, one line for each of {len(drawn)} backend, case and dtype; {beyond} beyond the bound"
