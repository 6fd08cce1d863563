"""The skew curves of one panel: a line a backend, told apart by marker, dash and a label at its end, not by colour."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moe_harness.report.figure import INK, LINE, QUIET, drawing, inline
from moe_harness.report.skew import Curve, Panel
from moe_harness.report.text import multiple, shortened

_SIZE = (6.0, 2.9)  # inches
_MARKERS, _DASHES = "osD^vPX*", ("-", "--", ":", "-.")
_LONGEST, _LEAST_GAP = 34, 0.075  # characters of a label; between two labels, as a part of the axis


def skew_plot(panel: Panel, title: str) -> str:
    """Factors over skews, from even to extreme."""
    with drawing():
        figure = Figure(figsize=_SIZE)
        axes = figure.add_axes((0.08, 0.2, 0.5, 0.68))
        names = [name for name, _ in panel.skews]
        for number, curve in enumerate(panel.curves):
            points = [(names.index(name), factor) for name, factor in curve.factors.items()]
            axes.plot(*zip(*points, strict=True), color=INK if number % 2 == 0 else QUIET, linestyle=_DASHES[number % len(_DASHES)],
                      marker=_MARKERS[number % len(_MARKERS)], markersize=4.5, linewidth=1.2, clip_on=False)  # fmt: skip
        _prepare(axes, panel)
        _label(axes, panel.curves)
        return inline(figure, title)


def _prepare(axes: Axes, panel: Panel) -> None:
    top = max(factor for curve in panel.curves for factor in curve.factors.values())
    axes.set_ylim(0, max(1.25, 1.08 * top))
    labels = [name if busiest is None else f"{name}\n{multiple(busiest)}" for name, busiest in panel.skews]
    axes.set_xticks(range(len(labels)), labels, color=QUIET, fontsize=8)
    axes.tick_params(which="both", length=0, labelcolor=QUIET)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.axhline(1.0, color=QUIET, linewidth=0.8)
    axes.set_title(shortened(panel.title, 70), color=INK, fontsize=9, loc="left")
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _label(axes: Axes, curves: Sequence[Curve]) -> None:
    """At the right edge, in the order of the curves' ends, moved apart where they would overlap."""
    high, place = axes.get_ylim()[1], -1.0
    for number, curve in sorted(enumerate(curves), key=lambda pair: list(pair[1].factors.values())[-1]):
        end = list(curve.factors.values())[-1]
        place = max(end / high, place + _LEAST_GAP)
        words = f"{shortened(curve.label, _LONGEST)} {multiple(end)}"
        axes.annotate(words, (1.04, place), xycoords="axes fraction", color=INK, fontsize=8, va="center", annotation_clip=False)
        axes.plot([1.02], [place], marker=_MARKERS[number % len(_MARKERS)], color=INK if number % 2 == 0 else QUIET, markersize=4,
                  transform=axes.transAxes, clip_on=False)  # fmt: skip
