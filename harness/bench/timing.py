"""Times one workload with pytest-benchmark, behind the gate. Seconds per round, wall-clock: a call ends with its result on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.bench.gate import gate
from harness.subject import Subject

WARM_UP, ROUNDS = 3, 12
MAX_LENGTH, MAX_BATCH = 512, 8


class Timing:
    """What a benchmark is given: `model`, one loaded model for all workloads of a subject, and `run`. `record` is what the report reads,
    filled whether or not a number comes out."""

    def __init__(self, subject: Subject, benchmark: Any, record: dict[str, Any]):
        self.subject, self._benchmark, self.record = subject, benchmark, record
        self.model = subject.model(max_length=min(MAX_LENGTH, subject.config.max_position_embeddings), max_batch=MAX_BATCH)

    def run(
        self,
        step: Callable[[], object],
        prepare: Callable[[], object],
        tokens: int,
        work: Mapping[str, Any] | None = None,
        **parameters: int | str,
    ) -> None:
        """Gates the model, then times `step` after an untimed `prepare` each round. `tokens` and `work` per round; VOID if the gate does
        not open."""
        self.record |= {"unit": "s", "tokens": tokens, "parameters": parameters, "samples": []}
        self.record |= {"work": dict(work)} if work else {}
        self.record |= gate(self.subject, self.model)
        if self.record.get("status") == "VOID":
            return
        self._benchmark.extra_info.update(backend=self.subject.backend.name, tokens=tokens, **parameters)
        self._benchmark.group = f"{self.record['workload']} {self.subject.case.name} {self.subject.dtype}"
        self._benchmark.pedantic(step, setup=lambda: (prepare(), None)[1], rounds=ROUNDS, warmup_rounds=WARM_UP)
        if self._benchmark.stats is None:
            self.record |= {"status": "UNSUPPORTED", "reason": "timing is switched off (--benchmark-disable)"}
        else:
            self.record["samples"] = list(self._benchmark.stats.stats.data)
