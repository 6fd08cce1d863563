"""What came of each engine in each run, and the table of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.records.status import FAILING, Status
from moe_harness.report.profile import conformances
from moe_harness.report.site.engine import engine, version
from moe_harness.report.verdict import run_notes

NO_PROFILE = "all checks"
_JUDGED = (*FAILING, Status.PASS, Status.INCONCLUSIVE, Status.KNOWN)


@dataclass(frozen=True)
class Result:
    """One engine in one run. `colour`: green | amber | red; `word`: what a badge says; `execution`: where it ran.
    `speeds_only`: it was asked no check."""

    engine: str
    profile: str
    version: str
    machine: str
    execution: str
    started: str
    page: str
    colour: str
    word: str
    speeds_only: bool = False

    @property
    def symbol(self) -> str:
        return {"green": "✓", "amber": "?", "red": "✗"}[self.colour]


@dataclass(frozen=True)
class Line:
    """The results of one engine under one profile, newest first, one a version; `badge`: its file's name."""

    engine: str
    profile: str
    results: tuple[Result, ...]
    badge: str = ""


def results(pages: Mapping[str, Frame]) -> list[Result]:
    """`pages`: name of a run's page -> its frame of one run."""
    return [found for page, frame in pages.items() for found in _of(page, frame)]


def lines(found: Iterable[Result]) -> list[Line]:
    """By engine, then profile; of a version's several runs the newest one counts, but speeds without a failure replace no checks."""
    grouped: dict[tuple[str, str], dict[str, Result]] = {}
    for result in sorted(found, key=lambda each: (each.started, each.page)):
        versions = grouped.setdefault((result.engine, result.profile), {})
        if result.speeds_only and result.colour == "green" and result.version in versions:
            continue
        versions.pop(result.version, None)
        versions[result.version] = result
    return [Line(*key, tuple(reversed(versions.values()))) for key, versions in sorted(grouped.items())]


def newest(frames: Iterable[Frame]) -> dict[str, list[dict[str, Any]]]:
    """Engine -> the check rows of the newest run that has any of it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for frame in sorted(frames, key=lambda each: (each.runs[0].started, each.runs[0].run_id)):
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in frame.of("check"):
            rows.setdefault(engine(row["backend"]), []).append(row)
        found |= rows
    return found


def _of(page: str, frame: Frame) -> Iterable[Result]:
    run = frame.runs[0]
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in frame.records():
        rows.setdefault(engine(row["backend"]), []).append(row)
    profile = str(run.profile["name"]) if run.profile else NO_PROFILE
    for name, members in sorted(rows.items()):
        colour, word = _judged(members, _gaps(frame, name), bool(run_notes(frame, run)))
        executions = sorted({row["execution"] for row in members if row["execution"]})
        speeds_only = not any(row["kind"] == "check" for row in members)
        yield Result(name, profile, version(name, run), run.machine, ", ".join(executions), run.started, page, colour, word, speeds_only)


def _gaps(frame: Frame, name: str) -> list[bool]:
    """Of each of the engine's backends, whether it conforms to the profile that was asked for."""
    backends = {row["backend"] for row in frame.records() if engine(row["backend"]) == name}
    return [found.conforms for found in conformances(frame) if found.place.partition(" @ ")[0] in backends]


def _judged(rows: Sequence[Mapping[str, Any]], conforming: Sequence[bool], unfinished: bool) -> tuple[str, str]:
    counts = Counter(row["status"] for row in rows)
    failed, judged = sum(counts[name] for name in FAILING), sum(counts[name] for name in _JUDGED)
    if failed:
        return "red", f"{failed} of {judged} fail"
    if counts[Status.NOT_RUN] or unfinished:
        return "amber", "incomplete"
    if conforming:
        return ("green", "conforms") if all(conforming) else ("red", "does not conform")
    if not judged:
        return "amber", "nothing judged"
    passed = f"{counts['PASS']} of {len(rows)} pass"  # declared gaps are among the others: green must not hide them
    return ("amber", f"{counts['INCONCLUSIVE']} inconclusive") if counts[Status.INCONCLUSIVE] else ("green", passed)
