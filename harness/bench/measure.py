"""One workload from end to end: gate and clock (timing.py), then what the number is held against: peak memory and the machine's limit."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from harness.bench import peak
from harness.bench.limit import limit
from harness.bench.machine import machine
from harness.bench.timing import Timing
from harness.bench.traffic import Work
from implementations.worker import WorkerBackend


def measure(
    timing: Timing,
    step: Callable[[], object],
    prepare: Callable[[], object] | None,
    tokens: int,
    work: Work | None,
    **parameters: int | str,
) -> None:
    """As `Timing.run`. `work` None: the backend does not show which experts it used, so there is no limit either. The peak is that of one
    more round, which is not timed; of a backend in another process it is not known here. A limit stands for the host's processor alone."""
    timing.run(step, prepare, tokens, work=work.to_record() if work else None, **parameters)
    record, subject = timing.record, timing.subject
    if not record.get("samples") or record.get("status", "PASS") != "PASS":
        return
    if not isinstance(subject.backend, WorkerBackend):
        if prepare:
            prepare()
        record["memory"] = peak.during(step)
    if work and subject.capabilities.execution == "cpu":
        record["limit"] = limit(work, machine(), subject.dtype, median(record["samples"])).to_record()
