"""Times one workload with pytest-benchmark, behind the gate. Seconds per round, wall-clock: a call ends with its result on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from harness.bench.gate import judge_timed_model
from harness.subject import Subject
from harness.verdict import Verdict, Violation
from implementations.interface import Model

WARM_UP, ROUNDS = 3, 12


class Timing:
    """What a benchmark is given. `record` is what the report will read, filled whether or not a number comes out."""

    def __init__(self, subject: Subject, benchmark: Any, record: dict[str, Any]):
        self.subject, self._benchmark, self.record = subject, benchmark, record

    def run(self, model: Model, step: Callable[[], object], prepare: Callable[[], object], tokens: int, **parameters: int) -> None:
        """Gates `model`, then times `step` after an untimed `prepare` each round. `tokens` per round; VOID if the gate does not open."""
        self.record |= {"unit": "s", "tokens": tokens, "parameters": parameters, "samples": [], "gate": []}
        if not self._passes_gate(model):
            return
        self._benchmark.extra_info.update(backend=self.subject.backend.name, tokens=tokens, **parameters)
        self._benchmark.group = f"{self.record['workload']} {self.subject.case.name} {self.subject.dtype}"
        self._benchmark.pedantic(step, setup=lambda: (prepare(), None)[1], rounds=ROUNDS, warmup_rounds=WARM_UP)
        if self._benchmark.stats is None:
            self.record |= {"status": "UNSUPPORTED", "reason": "timing is switched off (--benchmark-disable)"}
        else:
            self.record["samples"] = list(self._benchmark.stats.stats.data)

    def _passes_gate(self, model: Model) -> bool:
        verdict = Verdict()
        try:
            judge_timed_model(self.subject, model, verdict)
        except Violation as violation:
            self.record |= {"status": "VOID", "reason": f"no number: the timed model is wrong: {violation}"}
        self.record["gate"] = verdict.to_record()["metrics"]
        return "status" not in self.record
