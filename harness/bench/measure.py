"""One workload from end to end: gate and clock (timing.py), then what the number is held against: peak memory and a limit."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from moe_harness.bench import peak
from moe_harness.bench.place import place_of
from moe_harness.bench.roofline import roofline
from moe_harness.bench.timing import Timing
from moe_harness.bench.traffic import Work
from moe_harness.implementations.interface import Gauge
from moe_harness.implementations.worker import WorkerBackend
from moe_harness.records.status import Status
from moe_harness.suite.subject import Subject


def measure(
    timing: Timing,
    step: Callable[[], object],
    prepare: Callable[[], object] | None,
    tokens: int,
    work: Work | None,
    **parameters: int | str,
) -> None:
    """As `Timing.run`. `work` None: the backend does not show which experts it used, so there is no limit either. The peak is that of one
    more round, which is not timed; of a backend in another process it is not known here."""
    timing.run(step, prepare, tokens, work=work.to_record() if work else None, **parameters)
    record, subject = timing.record, timing.subject
    if not record.get("samples") or record.get("status", Status.PASS) != Status.PASS:
        return
    if not isinstance(subject.backend, WorkerBackend):
        if prepare:
            prepare()
        record["memory"] = peak.during(step, _device_peak(subject))
    if work and (place := place_of(subject)):
        record["limit"] = roofline(work, place, median(record["samples"]), parameters.get("cache") == "cold").to_record()


def _device_peak(subject: Subject) -> Callable[[], int | None]:
    backend, device = subject.backend, subject.workshop.device
    return (lambda: backend.device_peak_bytes(device)) if isinstance(backend, Gauge) else (lambda: None)
