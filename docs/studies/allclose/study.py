"""All candidates judged, one process per core."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from allclose.candidates import Candidate, sample
from allclose.judge import Outcome, judge
from allclose.references import Archive
from moe_harness.processes.threads import default_workers
from moe_harness.selftest.pool import pool
from moe_harness.suite.subject import Workshop

BATCH = 8  # candidates: enough to share what they are compared with, few enough to keep all processes busy to the end


def study(workers: int | None = None, share: float = 1.0) -> list[Outcome]:
    """The outcome of every candidate, or of a sample, in their order."""
    asked = sample(share)
    with pool(workers or default_workers("cpu")) as mapped:
        found = {outcome.candidate: outcome for outcomes in mapped(judge_all, batches(asked)) for outcome in outcomes}
    return [found[candidate] for candidate in asked]


def batches(asked: Iterable[Candidate]) -> list[tuple[Candidate, ...]]:
    """Those that share what they are compared with go together."""
    together: dict[tuple[str, str, int], list[Candidate]] = defaultdict(list)
    for candidate in asked:
        together[candidate.family, candidate.dtype, candidate.seed].append(candidate)
    return [tuple(group[start : start + BATCH]) for group in together.values() for start in range(0, len(group), BATCH)]


def judge_all(directory: Path, batch: tuple[Candidate, ...]) -> list[Outcome]:
    """In this process. `directory`: where processes may write, each in a folder of its own name."""
    return [judge(candidate, *_kept(directory)) for candidate in batch]


@cache
def _kept(directory: Path) -> tuple[Workshop, Archive]:
    """What all batches of this process share."""
    own = directory / f"allclose-{os.getpid()}"
    own.mkdir()
    return Workshop(own), Archive()
