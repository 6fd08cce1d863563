"""All candidates judged, one process per core."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.distributed import default_workers, environment
from harness.rivals.candidates import Candidate, sample
from harness.rivals.judge import Outcome, judge
from harness.rivals.references import Archive
from harness.subject import Workshop


def study(workers: int | None = None, share: float = 1.0) -> list[Outcome]:
    """The outcome of every candidate, or of a sample, in their order."""
    asked = sample(share)
    os.environ.update(environment(single_thread=True))  # the models are so small that a second thread costs more than it brings
    with ProcessPoolExecutor(workers or default_workers("cpu"), mp_context=get_context("spawn")) as pool:
        found = {outcome.candidate: outcome for outcomes in pool.map(judge_all, batches(asked)) for outcome in outcomes}
    return [found[candidate] for candidate in asked]


def batches(asked: Iterable[Candidate]) -> list[list[Candidate]]:
    """Those that share references go together; the largest first, so that no process is left with it in the end."""
    together: dict[tuple[str, str, int], list[Candidate]] = defaultdict(list)
    for candidate in asked:
        together[candidate.family, candidate.dtype, candidate.seed].append(candidate)
    return sorted(together.values(), key=len, reverse=True)


def judge_all(batch: list[Candidate]) -> list[Outcome]:
    """In this process."""
    with TemporaryDirectory(prefix="moe-harness-") as directory:
        workshop, archive = Workshop(Path(directory)), Archive()
        try:
            return [judge(candidate, workshop, archive) for candidate in batch]
        finally:
            workshop.close()
