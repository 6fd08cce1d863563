"""Run directories -> index.html, alone.html, runs/<run>/ with a report each, badges/*.svg."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from moe_harness.records.frame import Frame, load_frame, once
from moe_harness.report.build import files, write
from moe_harness.report.site.alone import alone
from moe_harness.report.site.badge import badge
from moe_harness.report.site.engine import engine
from moe_harness.report.site.names import slugs
from moe_harness.report.site.results import Line, lines, newest, results
from moe_harness.report.template import render
from moe_harness.report.verdict import verdict

PAST = 20  # earlier runs that a page compares with and draws
VERSIONS = 8  # of an engine, in the index


def build_site(run_directories: Sequence[Path], out: Path) -> Path:
    """Writes the site and returns its index. The order in which runs are given does not matter, and the same runs give the same bytes.
    Raises RecordError and ValueError as `load_frame` does; nothing is written then."""
    pages = _pages(run_directories)
    found = _with_badges(lines(results(pages)))
    frames = list(pages.values())
    site = {f"runs/{name}": files(_with_past(frames, index), "../../index.html") for index, name in enumerate(pages)}
    own = alone(newest(frames))
    runs = [(name, frame.runs[0], verdict(frame)) for name, frame in reversed(pages.items())]
    site[""] = {
        "index.html": render("site_index", lines=found, most=VERSIONS, alone=len(own), runs=runs),
        "alone.html": render("site_alone", found=own, engines=len({line.engine for line in found})),
    }
    site["badges"] = {line.badge: _badge(line) for line in found}
    for folder, texts in site.items():
        write(Path(out) / folder, texts)
    return Path(out) / "index.html"


def _badge(line: Line) -> str:
    """Of the newest version. What was emulated says so: it tells nothing about the device."""
    result = line.results[0]
    emulated = " (emulated)" if result.execution == "emulated" else ""
    return badge(f"{line.engine} {line.profile}{emulated}", result.word, result.colour)


def _pages(run_directories: Sequence[Path]) -> dict[str, Frame]:
    """Name of a run's folder -> its frame, oldest first."""
    if not run_directories:
        raise ValueError("no run directory")
    frames = sorted(
        (load_frame([directory]) for directory in run_directories), key=lambda each: (each.runs[0].started, each.runs[0].run_id)
    )
    once(frame.runs[0].run_id for frame in frames)
    named = slugs(frame.runs[0].run_id for frame in frames)
    return {named[frame.runs[0].run_id]: frame for frame in frames}


def _with_past(frames: Sequence[Frame], index: int) -> Frame:
    """One frame, with those before it of the same engines under the same profile."""
    frame = frames[index]
    return replace(frame, past=tuple(each for each in frames[:index] if _kind(each) == _kind(frame))[-PAST:])


def _kind(frame: Frame) -> tuple[frozenset[str], str]:
    profile: Mapping[str, object] = frame.runs[0].profile or {}
    return frozenset(engine(name) for name in frame.rows["backend"]), str(profile.get("name", ""))


def _with_badges(found: Sequence[Line]) -> list[Line]:
    names = slugs(f"{line.engine} {line.profile}" for line in found)
    return [replace(line, badge=f"{names[f'{line.engine} {line.profile}']}.svg") for line in found]
