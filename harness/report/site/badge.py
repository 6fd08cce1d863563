"""A badge: a small SVG with the subject on the left and its state on the right. Made here, so that no service is asked."""

from __future__ import annotations

from moe_harness.report.template import render
from moe_harness.report.text import shortened

COLOURS = {"green": "#1c7c43", "amber": "#8a5a00", "red": "#b3211a"}  # white text on them has a contrast of at least 5:1
_CHARACTER, _PADDING, _LONGEST = 6.6, 7, 40  # pixels; of 11 px sans-serif, wide enough for any system's; characters


def badge(subject: str, state: str, colour: str) -> str:
    """`colour`: green | amber | red. The state is in words too."""
    left, right = shortened(subject, _LONGEST), shortened(state, _LONGEST)
    widths = [round(_CHARACTER * len(text)) + 2 * _PADDING for text in (left, right)]
    return render("badge", left=left, right=right, widths=widths, colour=COLOURS[colour])
