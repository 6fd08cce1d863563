"""The counts as one picture: for every rule, faults killed and honest runs alarmed on the same scale. Legible without colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from allclose.candidates import DTYPES
from allclose.page import ORDER, TITLES, Counts
from allclose.tally import Rate

INK, QUIET, GRID, BAND, KILL, ALARM = "#1b1f24", "#59636e", "#d9dee3", "#eef3f8", "#0b4f8a", "#b8480e"
LANE, HEAD, FOOT = 0.29, 0.82, 0.62  # inches
WIDTH, LABELS, GAP = 10.4, 3.15, 0.35
OURS = 2  # lanes


def draw(counts: Counts, path: Path) -> None:
    """Writes SVG or PNG, by the name's ending; the same counts give the same bytes."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rc("font", family="DejaVu Sans", size=9)
        matplotlib.rc("svg", fonttype="none", hashsalt="moe-harness")
        height = HEAD + LANE * len(ORDER) + FOOT
        figure = Figure(figsize=(WIDTH, height), facecolor="white")
        for place, dtype in enumerate(DTYPES):
            panel = (WIDTH - LABELS - 2 * GAP) / 2
            left = LABELS + place * (panel + GAP)
            axes = figure.add_axes((left / WIDTH, FOOT / height, panel / WIDTH, LANE * len(ORDER) / height))
            _panel(axes, counts, dtype, named=place == 0)
        _legend(figure, height)
        metadata: dict[str, Any] = {"Date": None, "Creator": None} if path.suffix == ".svg" else {}
        figure.savefig(path, metadata=metadata, dpi=110)


def _panel(axes: Axes, counts: Counts, dtype: str, named: bool) -> None:
    axes.set_xlim(-3, 103)
    axes.set_ylim(len(ORDER) - 0.5, -0.5)
    axes.axhspan(-0.5, OURS - 0.5, color=BAND, linewidth=0)
    axes.set_xticks(range(0, 101, 25), [f"{share} %" for share in range(0, 101, 25)], color=QUIET, fontsize=8)
    axes.set_yticks(range(len(ORDER)), [_label(name) for name in ORDER] if named else [""] * len(ORDER), color=INK)
    axes.tick_params(length=0)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    seen = counts["candidates"][dtype]
    axes.set_title(
        f"{dtype}: {seen['visible_faults']} faults, {seen['honest_runs']} honest runs", loc="left", fontsize=9.5, color=INK, pad=6
    )
    for lane, name in enumerate(ORDER):
        _lane(axes, lane, counts["rows"][name][dtype])


def _label(name: str) -> str:
    title, site = TITLES[name]
    return title.replace("**", "") if name.startswith("ours") else f"{title}, {site}"


def _lane(axes: Axes, lane: int, rates: dict[str, list[int]]) -> None:
    kills, alarms = Rate(*rates["kills"]), Rate(*rates["alarms"])
    axes.plot([100 * alarms.share, 100 * kills.share], [lane, lane], color=GRID, linewidth=2.2, zorder=1, solid_capstyle="butt")
    for rate, colour in ((kills, KILL), (alarms, ALARM)):
        axes.plot([100 * end for end in rate.interval], [lane, lane], color=colour, linewidth=1.4, zorder=2)
    if "tuned" in rates:
        axes.plot([100 * Rate(*rates["tuned"]).share], [lane], "|", color=KILL, markersize=10, markeredgewidth=1.6, zorder=3)
    axes.plot(
        [100 * alarms.share], [lane], "D", color=ALARM, markersize=6, markerfacecolor="white", markeredgewidth=1.6, zorder=4, clip_on=False
    )
    axes.plot([100 * kills.share], [lane], "o", color=KILL, markersize=7, zorder=5, clip_on=False)


def _legend(figure: Figure, height: float) -> None:
    figure.text(0.012, 1 - 0.2 / height, "Faults killed, honest variants alarmed", fontsize=12, weight="bold", color=INK, va="top")
    y = 0.22 / height
    marks = (
        ("o", KILL, KILL, "faults killed"),
        ("D", ALARM, "white", "honest runs alarmed"),
        ("|", KILL, KILL, "killed, limit tuned to no alarm"),
    )
    axes = figure.add_axes((LABELS / WIDTH, y - 0.02, 1 - LABELS / WIDTH, 0.04))
    axes.set_axis_off()
    axes.set_xlim(0, 10)
    axes.set_ylim(-1, 1)
    for place, (marker, colour, face, words) in zip((0.15, 2.15, 4.75), marks, strict=True):
        axes.plot([place], [0], marker, color=colour, markerfacecolor=face, markersize=7, markeredgewidth=1.6)
        axes.text(place + 0.2, 0, words, va="center", fontsize=8.5, color=INK)
    axes.text(8.1, 0, "bars: 95 % intervals", va="center", fontsize=8.5, color=QUIET)
