"""What a status means to a reader: how bad it is, its symbol (legible without colour) and its class in the style sheet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NOT_RUN = "NOT RUN"  # made by the frame: planned, but no record
SKIPPED = ("UNSUPPORTED", "UNAVAILABLE")


@dataclass(frozen=True)
class Status:
    """`tone` is a CSS class, shared by statuses that ask the same of the reader."""

    name: str
    symbol: str
    tone: str
    meaning: str


# Worst first. A gap stands above PASS: where a cell merges cases, "passes" must not hide that a part of it was never judged.
STATUSES = (
    Status("FAIL", "✗", "bad", "wrong beyond its bound"),
    Status("CRASHED", "!", "bad", "the process died or raised"),
    Status("TIMEOUT", "t", "bad", "no result in time"),
    Status("VOID", "∅", "bad", "a speed without conformance: no number"),
    Status(NOT_RUN, "…", "open", "planned, but there is no record"),
    Status("INCONCLUSIVE", "?", "open", "too little evidence for a verdict"),
    Status("KNOWN", "k", "known", "fails as the expectation file says"),
    Status("UNAVAILABLE", "○", "gap", "no hardware or library here"),
    Status("UNSUPPORTED", "–", "gap", "a gap the backend declares"),
    Status("PASS", "✓", "good", "within its bound"),
)
# Of a cell that merges both. No record has it.
PARTLY = Status("PARTLY", "✓–", "part", "passes where it is judged; a part is a gap that the backend declares")
_BY_NAME = {status.name: status for status in STATUSES}
_RANK = {status.name: rank for rank, status in enumerate(STATUSES)}


def status(name: str) -> Status:
    """Raises KeyError for a status that no record can have."""
    return _BY_NAME[name]


def rank(name: str) -> int:
    """0 is the worst."""
    return _RANK[name]


def worst(names: Iterable[str]) -> str:
    """The worst of at least one status."""
    return min(names, key=rank)
