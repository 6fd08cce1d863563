"""All candidates judged, one process per core; the outcomes as records of a JSON file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from harness.distributed import cores
from harness.rivals.candidates import DTYPES, Candidate, candidates
from harness.rivals.judge import Outcome, judge
from harness.rivals.references import Archive
from harness.subject import Workshop


def run(workers: int | None = None) -> list[Outcome]:
    """Outcomes in the order of `candidates`."""
    batches = list(_batches())
    with ProcessPoolExecutor(workers or cores(), mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        judged = [outcome for outcomes in pool.map(judge_batch, batches) for outcome in outcomes]
    order = {candidate: place for place, candidate in enumerate(c for dtype in DTYPES for c in candidates(dtype))}
    return sorted(judged, key=lambda outcome: order[outcome.candidate])
