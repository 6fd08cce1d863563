"""Whether the subjects of a run conform to the profile that it was asked for (`moe-harness run --profile model-1.0`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_harness.records.frame import Frame, Run
from moe_harness.records.status import Status, rank
from moe_harness.report.order import Labels

NAMED = 8  # clauses that a sentence names


@dataclass(frozen=True)
class Conformance:
    """One backend against one profile. `gaps`: check -> its worst status, or "left out" where the user's selection dropped it."""

    run: str
    profile: str
    place: str
    cases: tuple[str, ...]
    gaps: Mapping[str, str]
    not_asked: tuple[str, ...]

    @property
    def conforms(self) -> bool:
        return not self.gaps

    @property
    def sentence(self) -> str:
        """ "model-1.0: native conforms on mixtral, qwen3_moe", or what is missing."""
        head = f"{self.profile}: {self.place}"
        on = f" on {', '.join(self.cases)}"
        rest = f" (not asked of these models: {', '.join(self.not_asked)})" if self.not_asked else ""
        if self.conforms:
            return f"{head} conforms{on}{rest}"
        named = [f"{check} {status}" for check, status in list(self.gaps.items())[:NAMED]]
        more = [f"and {len(self.gaps) - NAMED} more"] if len(self.gaps) > NAMED else []
        return f"{head} does not conform{on}: {', '.join([*named, *more])}{rest}"


def conformances(frame: Frame) -> tuple[Conformance, ...]:
    """One per backend of every run that was asked for a profile."""
    return tuple(found for run in frame.runs if run.profile for found in _of(frame, run, run.profile))


def _of(frame: Frame, run: Run, profile: Mapping[str, Any]) -> Iterator[Conformance]:
    name = str(profile["name"]) + ("" if profile.get("released") else " (draft)")
    required = {str(check): tuple(dtypes) for check, dtypes in profile["required"].items()}
    labels, places = Labels(frame), dict[str, list[Mapping[str, Any]]]()
    for row in frame.records(run):
        if row["kind"] == "check" and row["dtype"] in required.get(row["check"], ()):
            places.setdefault(labels(row), []).append(row)
    for place, rows in places.items():
        omitted = [str(item["check"]) for item in profile.get("omitted") or () if item["backend"] == rows[0]["backend"]]
        gaps = _gaps(rows) | dict.fromkeys(omitted, "left out")
        asked = {row["check"] for row in rows} | set(omitted)
        cases = tuple(dict.fromkeys(row["case"] for row in rows))
        yield Conformance(
            run.run_id, name, place, cases, dict(sorted(gaps.items())), tuple(check for check in required if check not in asked)
        )


def _gaps(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Nothing but PASS conforms: neither a declared gap, nor too little evidence, nor a known failure."""
    found: dict[str, str] = {}
    for row in rows:
        if row["status"] != Status.PASS:
            found[row["check"]] = min(found.get(row["check"], row["status"]), row["status"], key=rank)
    return found
