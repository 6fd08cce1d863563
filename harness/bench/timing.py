"""Times one workload with pytest-benchmark, between two askings of the gate. Wall-clock seconds a step: a call ends with its result on the
host."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from moe_harness.bench import canary
from moe_harness.bench.clock import Arm, no_collection, repeats
from moe_harness.bench.gate import gate, gate_after
from moe_harness.bench.warmup import warm_up
from moe_harness.bench.workload import Workload
from moe_harness.implementations.interface import Model
from moe_harness.records.status import Status
from moe_harness.stats.quantiles import percentiles
from moe_harness.suite.subject import Subject

FEWEST_ROUNDS, MOST_ROUNDS = 12, 400
TIMED_S = 2.0  # of rounds, unless FEWEST_ROUNDS take longer
PATIENCE_S, PATIENT_ROUNDS = 60.0, 6  # where FEWEST_ROUNDS take longer than that: no fewer give the median an interval
MAX_LENGTH, MAX_BATCH = 512, 8


def load(subject: Subject) -> Model:
    """One model for all workloads of a subject."""
    return subject.model(max_length=min(MAX_LENGTH, subject.config.max_position_embeddings), max_batch=MAX_BATCH)


class Timing:
    """What a benchmark is given: `model`, one loaded model for all workloads of a subject, and `run`. `record` is what the report reads,
    filled whether or not a number comes out."""

    def __init__(self, subject: Subject, benchmark: Any, record: dict[str, Any]):
        self.subject, self._benchmark, self.record = subject, benchmark, record
        self.model = load(subject)

    def run(
        self,
        step: Callable[[], object],
        prepare: Callable[[], object] | None,
        tokens: int,
        work: Mapping[str, Any] | None = None,
        **parameters: int | float | str,
    ) -> None:
        """Gates the model, times `step` after an untimed `prepare` each round (None: nothing to prepare), gates it again. `tokens` a step;
        `work` is recorded as it is. VOID if a gate does not open."""
        workload = Workload(self.subject, self.model, step, prepare, tokens, {"cache": "warm", **parameters}, work)
        self.record |= {**described(workload), "samples": []}
        arm = workload.arm()
        first_call_s = arm.time()  # before the gate, whose calls would be the first ones
        self.record |= gate(self.subject, self.model)
        if self.record.get("status") == Status.VOID:
            return
        self._benchmark.group = f"{self.record['workload']} {self.subject.case.name} {self.subject.dtype}"
        self._benchmark.extra_info.update(backend=self.subject.backend.name, tokens=tokens, **workload.parameters)
        if not self._benchmark.enabled:
            self._benchmark.pedantic(arm.time)
            self.record |= {"status": Status.UNSUPPORTED, "reason": "timing is switched off (--benchmark-disable)"}
            return
        self.record |= {"first_call_s": first_call_s, **self._timed(arm)}
        self._finish()

    def _timed(self, arm: Arm) -> dict[str, Any]:
        """Warms up and takes the rounds, a canary before and after them."""
        arm = arm.repeated(repeats(arm))
        samples: list[float] = []
        with no_collection():
            warm = warm_up(arm)
            rounds = rounds_for(warm.cost)
            reference, before = canary.reference(), canary.sing()
            self._benchmark.pedantic(lambda: samples.append(arm.time()), rounds=rounds)
            found = canary.Canary(before, canary.sing(), reference)
        about = {"warmup": warm.rounds, "steady": warm.steady, "steps_per_round": arm.repeats, "canary": found.to_record()}
        return {"samples": samples, "percentiles": percentiles(samples), **about}

    def _finish(self) -> None:
        """The gate again, and what pytest-benchmark's JSON says beside its own figures."""
        self.record |= gate_after(self.subject, self.model)
        if self.record.get("status") == Status.VOID:
            self._benchmark.has_error = True  # keeps the number out of pytest-benchmark's tables and files
            self.record |= {"samples": [], "percentiles": {}}
            return
        told = {name: self.record[name] for name in ("percentiles", "warmup", "steady", "first_call_s", "steps_per_round")}
        self._benchmark.extra_info.update(told, disturbed=self.record["canary"]["disturbed"])


def described(workload: Workload) -> dict[str, Any]:
    """What the record says of a workload before it is timed."""
    about = {"unit": "s", "tokens": workload.tokens, "parameters": dict(workload.parameters)}
    return about if workload.work is None else about | {"work": workload.work}


def rounds_for(round_s: float) -> int:
    """How many rounds of so many seconds: enough to fill TIMED_S, within limits."""
    fewest = FEWEST_ROUNDS if FEWEST_ROUNDS * round_s <= PATIENCE_S else PATIENT_ROUNDS
    return min(MOST_ROUNDS, max(fewest, math.ceil(TIMED_S / max(round_s, 1e-9))))
