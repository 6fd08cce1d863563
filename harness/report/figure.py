"""The dot plot of errors over bounds: an SVG whose text stays text and whose colours are the page's variables."""

from __future__ import annotations

import html
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moe_harness.report.parity import Lane
from moe_harness.report.template import safe
from moe_harness.report.text import multiple, number, shortened

# Stand-ins that matplotlib accepts, each replaced by a variable of the style sheet, so that dark mode and print need no second figure.
COLOURS = {"#010101": "var(--ink)", "#020202": "var(--quiet)", "#030303": "var(--line)", "#040404": "var(--good)", "#050505": "var(--bad)"}
INK, QUIET, LINE, GOOD, BAD = COLOURS
_LANE, _FRAME = 0.2, 0.5  # inches: a lane's height, the axis below
_LABEL, _DOTS, _WORDS = 0.082, 6.2, 2.6  # inches: a label's character, in a wide font; the plot; the worst point in words
_LONGEST = 48  # characters of a label
_PIXELS = 96  # per inch on the page, at most: text of the size of the tables
_LEAST, _MOST = 1e-6, 1e3  # further out is drawn at the edge


@contextmanager
def drawing() -> Iterator[None]:
    """Settings that do not depend on the machine: the same records give the same figure."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not the reader's own matplotlibrc
        # Text is measured in the font that matplotlib ships; the page shows its own.
        matplotlib.rc("font", family="DejaVu Sans", size=9)
        matplotlib.rc("text", parse_math=False)  # a name with two dollars is no formula
        matplotlib.rc("svg", fonttype="none", hashsalt="moe-harness")
        yield


def dot_plot(lanes: Sequence[Lane], title: str) -> str:
    """One line per lane, a dot per metric at value / bound on a log axis. Beyond the bound, at 1, dots are crosses (not by colour
    alone); hollow ones are zero or too small to draw."""
    with drawing():
        height = _FRAME + _LANE * len(lanes)
        left = 0.3 + _LABEL * max(len(_label(lane)) for lane in lanes)
        width = left + _DOTS + _WORDS
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, 0.42 / height, _DOTS / width, _LANE * len(lanes) / height))
        low, high = _limits(lanes)
        _prepare(axes, lanes, low, high)
        for row, lane in enumerate(lanes):
            _draw(axes, row, lane, low, high)
        return inline(figure, title)


def _label(lane: Lane) -> str:
    return shortened(lane.label, _LONGEST)


def _limits(lanes: Sequence[Lane]) -> tuple[float, float]:
    """Whole decades around the drawn ratios, the bound and a decade of room to its right included."""
    drawn = [min(max(point.ratio, _LEAST), _MOST) for lane in lanes for point in lane.points if point.ratio > 0]
    low, high = min([0.1, *drawn]), max([1.0, *drawn])
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** (math.floor(math.log10(high)) + 1)


def _prepare(axes: Axes, lanes: Sequence[Lane], low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(len(lanes) - 0.5, -0.5)
    decades = range(round(math.log10(low)), round(math.log10(high)) + 1)
    axes.set_xticks([10.0**d for d in decades], [number(10.0**d) if d else "bound" for d in decades], color=QUIET)
    axes.set_yticks(range(len(lanes)), [_label(lane) for lane in lanes], color=INK)
    axes.tick_params(which="both", length=0)
    axes.tick_params(axis="y", pad=9)  # clear of a dot at the edge
    axes.minorticks_off()
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.axvline(1.0, color=INK, linewidth=1.2)
    axes.set_xlabel("measured error / bound", color=QUIET, fontsize=8)
    axes.patch.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _draw(axes: Axes, row: int, lane: Lane, low: float, high: float) -> None:
    for point in lane.points:
        place = min(max(point.ratio, low), high)
        if point.ratio < low:
            axes.plot([place], [row], "o", color=GOOD, markersize=4.5, markeredgewidth=1, fillstyle="none", clip_on=False)
        elif point.ratio <= 1:
            axes.plot([place], [row], "o", color=GOOD, markersize=4.5, markeredgewidth=0, clip_on=False, alpha=0.8)
        else:
            axes.plot([place], [row], "x", color=BAD, markersize=6, markeredgewidth=1.8, clip_on=False)
    worst = lane.points[0]
    words = shortened(f"{multiple(worst.ratio)}  {worst.check} {worst.metric.name}", _LONGEST)
    axes.annotate(words, (1, row), xycoords=("axes fraction", "data"), xytext=(10, 0), textcoords="offset points",
                  color=BAD if worst.ratio > 1 else QUIET, va="center", fontsize=8, annotation_clip=False)  # fmt: skip


def inline(figure: Figure, title: str) -> str:
    """The figure without its XML head, names and fixed size, with the page's colours and font."""
    figure.patch.set_visible(False)
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's font draws the text
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|PolyCollection|PathCollection)_\d+"', "", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)  # written so, or since 3.11 as font-size and font-family
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None, "matplotlib writes a viewBox"
    name, width = html.escape(title), figure.get_figwidth() * _PIXELS
    head = f'<svg class="figure" role="img" aria-label="{name}" style="max-width:{width:.0f}px" {view[0]}>'
    svg = re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
    for stand_in, variable in COLOURS.items():
        svg = svg.replace(stand_in, variable)
    return safe(svg.replace("xlink:href", "href"))  # matplotlib escapes its texts
