"""Simulated pairs of runs, and what is true of them by the plainest means: for the tests of what is said of such pairs."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe_harness.records.status import FAILING, rank
from moe_harness.tests.report_samples import bench, check, write_run

Question = tuple[str, str, str, str]  # check, backend, dtype, variant
STATUSES = ("FAIL", "CRASHED", "UNSUPPORTED", "INCONCLUSIVE", "KNOWN", "absent", "NOT RUN")
GPU = {"accelerators": ["H100"]}


@dataclass
class Simulated:
    """One run. `answers`: status of each question; `pace`: how long its speeds take."""

    name: str
    answers: dict[Question, str]
    pace: float
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def hardware(self) -> str:
        return "H100" if self.environment.get("accelerators") else "AMD EPYC 9654"

    def write(self, root: Path) -> Path:
        planned = [self._record(question, status) for question, status in self.answers.items() if status != "absent"]
        judged = [record for record in planned if record["status"] != "NOT RUN"]
        failed = any(record["status"] in FAILING for record in judged)
        return write_run(root / self.name, judged, planned=planned, end=int(failed), environment=self.environment)

    def _record(self, question: Question, status: str) -> dict[str, Any]:
        name, backend, dtype, variant = question
        reason = {} if status == "PASS" else {"reason": "wrong", "metrics": [], "samples": []}
        if name == "decode":
            samples = {"samples": [self.pace * (1 + 1e-3 * step) for step in range(-4, 4)]}
            return bench(name, backend, "mixtral", dtype, self.pace, status=status, **samples | reason)
        bracket = "-".join(filter(None, (backend, "mixtral", dtype, variant)))
        return check(name, backend, "mixtral", dtype, node=f"test_x.py::{name}[{bracket}]", status=status, **reason)


def simulated(seed: int) -> tuple[list[Simulated], list[Simulated]]:
    """One base, or two of two kinds of machine; one or two runs. Most answers are PASS; a question has up to three variants."""
    rng = random.Random(seed)
    questions = [
        (name, backend, dtype, variant)
        for name, variants in (("ROUTE-01", ("",)), ("ROUTE-02", ("",)), ("BLOCK-04", ("0", "1", "512")))
        for backend in ("native", "te")
        for dtype in ("float32", "bfloat16")
        for variant in variants
    ]
    questions += [("decode", "native", "bfloat16", ""), ("decode", "te", "bfloat16", "")]
    spread = rng.choice((0.0, 0.2, 0.6))

    def one(name: str, **environment: Any) -> Simulated:
        answers = {question: rng.choice(_possible(question)) if rng.random() < spread else "PASS" for question in questions}
        return Simulated(name, answers, 0.01 * rng.choice((1.0, 1.0, 1.3, 0.7)), environment)

    host = {"hostname": rng.choice(("bench-01", "bench-01", "other"))}
    bases = [one("01-base"), *([one("02-base", hostname="gpu-01", **GPU)] if rng.random() < 0.25 else [])]
    second: dict[str, Any] = rng.choice(({}, host, {"hostname": "gpu-01"} | GPU))
    return bases, [one("03-run", **host), *([one("04-run", **second)] if second else [])]


def _possible(question: Question) -> tuple[str, ...]:
    return ("VOID", "UNSUPPORTED", "absent", "NOT RUN") if question[0] == "decode" else STATUSES


def expected(bases: list[Simulated], runs: list[Simulated]) -> dict[str, set[str]]:
    """Kind -> names of questions, "" for those that nothing is said of: from what was simulated, by the plainest means."""
    hardware = [
        {question: {run.hardware for run in side if run.answers[question] != "absent"} for question in runs[0].answers}
        for side in (bases, runs)
    ]
    found: dict[str, set[str]] = {}
    for question in runs[0].answers:
        several = any(len(side[question]) > 1 for side in hardware)
        for place in {run.hardware for run in [*bases, *runs]} if several else {""}:
            before, after = (_worst(side, question, place) for side in (bases, runs))
            name, backend, dtype, variant = question
            words = (name, backend, "mixtral", dtype, f"[{variant}]" if variant else "", f"on {place}" if place else "")
            found.setdefault(_kind(before, after), set()).add(" ".join(filter(None, words)))
    return found


def _worst(side: list[Simulated], question: Question, place: str) -> str:
    statuses = [run.answers[question] for run in side if place in ("", run.hardware)]
    return min((status for status in statuses if status != "absent"), key=rank, default="absent")


def _kind(before: str, after: str) -> str:
    if after in FAILING and before not in FAILING:
        return "new failure"
    if before == after:
        return "still failing" if after in FAILING else ""
    if after in ("absent", "NOT RUN"):
        return {"absent": "vanished", "NOT RUN": "not run"}[after]
    if before == "absent":
        return "newly asked"
    return "fixed" if before in FAILING and after == "PASS" else "status changed"
