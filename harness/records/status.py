"""The words for how a check or a benchmark ended, and what they mean to a reader: how bad, which symbol, which class in the style sheet."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Status(StrEnum):
    """One word; on disk it is that word. Worst first: a gap stands above PASS, because "passes" must not hide, where a cell merges cases,
    that a part of it was never judged. Two words are never on disk: NOT_RUN, made by the frame, and PARTLY, of a cell that merges PASS and
    UNSUPPORTED."""

    FAIL = "FAIL"
    CRASHED = "CRASHED"
    TIMEOUT = "TIMEOUT"
    VOID = "VOID"
    NOT_RUN = "NOT RUN"
    INCONCLUSIVE = "INCONCLUSIVE"
    KNOWN = "KNOWN"
    UNAVAILABLE = "UNAVAILABLE"
    UNSUPPORTED = "UNSUPPORTED"
    PASS = "PASS"
    PARTLY = "PARTLY"

    @property
    def symbol(self) -> str:
        """Legible without colour."""
        return _LOOKS[self][0]

    @property
    def tone(self) -> str:
        """A CSS class, shared by statuses that ask the same of the reader."""
        return _LOOKS[self][1]

    @property
    def meaning(self) -> str:
        return _LOOKS[self][2]


_LOOKS = {
    Status.FAIL: ("✗", "bad", "wrong beyond its bound"),
    Status.CRASHED: ("!", "bad", "the process died or raised"),
    Status.TIMEOUT: ("t", "bad", "no result in time"),
    Status.VOID: ("∅", "bad", "a speed without conformance: no number"),
    Status.NOT_RUN: ("…", "open", "planned, but there is no record"),
    Status.INCONCLUSIVE: ("?", "open", "too little evidence for a verdict"),
    Status.KNOWN: ("k", "known", "fails as the expectation file says"),
    Status.UNAVAILABLE: ("○", "gap", "no hardware or library here"),
    Status.UNSUPPORTED: ("–", "gap", "a gap the backend declares"),
    Status.PASS: ("✓", "good", "within its bound"),
    Status.PARTLY: ("✓–", "part", "passes where it is judged; a part is a gap that the backend declares"),
}
STATUSES = tuple(status for status in Status if status != Status.PARTLY)
FAILING = (Status.FAIL, Status.CRASHED, Status.TIMEOUT, Status.VOID)  # exit code 1
SKIPPED = (Status.UNSUPPORTED, Status.UNAVAILABLE)
CHECK_STATUSES = tuple(status for status in STATUSES if status not in (Status.VOID, Status.NOT_RUN))
BENCH_STATUSES = tuple(status for status in STATUSES if status not in (Status.INCONCLUSIVE, Status.NOT_RUN))


def status(word: str) -> Status:
    """The status of that word. Raises ValueError for a word that is none."""
    return Status(word)


def rank(word: str) -> int:
    """The place of a status among all, 0 for the worst. Raises ValueError for one that no row can have."""
    return STATUSES.index(Status(word))


def worst(words: Iterable[str]) -> str:
    """The worst of at least one status."""
    return min(words, key=rank)
