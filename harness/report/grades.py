"""What a verdict does not cover because a backend shows less than everything: see docs/spec.md, "Grades"."""

from __future__ import annotations

from moe_harness.records.frame import Frame
from moe_harness.report.order import Labels, place_key

UNJUDGED = {
    "B": "no router and no block is judged by itself, so an error is not traced to its layer and expert",
    "C": "which experts it selects is not judged, nor, below float32, anything but the golden prompts of at most 16 tokens",
    "D": "nothing is judged but its likeliest tokens on the golden prompts of at most 16 tokens",
}


def grade_notes(frame: Frame) -> list[str]:
    """A sentence on every backend whose grade is weaker than A."""
    labels = Labels(frame)
    found = {labels(row): row["grade"] for row in sorted(frame.of("check"), key=place_key) if row["grade"]}
    return [f"{backend} is of grade {grade}: {UNJUDGED[grade]}" for backend, grade in found.items() if grade in UNJUDGED]
