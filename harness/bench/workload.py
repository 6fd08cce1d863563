"""A workload as a benchmark states it: one step on one model, what has to be done before each, and how much work it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from moe_harness.bench.clock import Arm, clock_of
from moe_harness.bench.gate import traces
from moe_harness.implementations.interface import Model
from moe_harness.suite.drivers import Trace
from moe_harness.suite.subject import Subject


@dataclass(frozen=True)
class Workload:
    """`tokens`: of a step. `parameters`: what makes it this workload and no other. `work`: as in the record, None where not stated."""

    subject: Subject
    model: Model
    step: Callable[[], object]
    prepare: Callable[[], object] | None
    tokens: int
    parameters: Mapping[str, Any]
    work: Mapping[str, Any] | None = None

    def arm(self) -> Arm:
        return Arm(self.subject.backend.name, self.step, self.prepare, clock_of(self.model))

    def once(self) -> object:
        """What one prepared step returns."""
        if self.prepare is not None:
            self.prepare()
        return self.step()

    def trace(self) -> Trace:
        """On the gate's tokens."""
        return traces(self.subject, self.model)[0]
