"""Where a subject's models live, and how fast it is there: the host, measured by numpy and by the backend's own framework, whichever is
faster; or a device, which that framework alone can measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from moe_harness.bench import machine
from moe_harness.implementations.interface import Gauge
from moe_harness.suite.hosts import runs_as
from moe_harness.suite.subject import Subject

DEVICE_BUFFER = 1 << 30  # bytes: more than a device's cache holds, and enough that starting the kernel does not count
TAKES = 8  # times that a session measures a rate: once a benchmark, so that one disturbed moment does not stand for all
_TAKEN: dict[tuple[str, ...], list[float]] = {}  # rates that backends measured, by what was asked of which of them


@dataclass(frozen=True)
class Place:
    """`flops_per_s` None: nobody here multiplies this dtype. `read`: bytes a second of a buffer of so many bytes."""

    flops_per_s: float | None
    read: Callable[[int], float]


def place_of(subject: Subject) -> Place | None:
    """Measured on the first calls of a session, in some tenths of a second; the fastest so far counts. None: an emulation, or a device that
    nobody measures."""
    execution = runs_as(subject.capabilities, subject.workshop.device)
    if execution == "cpu":
        return Place(_host_flops_per_s(subject), machine.bytes_per_s)
    if execution == "device" and isinstance(subject.backend, Gauge):
        return Place(_flops_per_s(subject), lambda size: _bytes_per_s(subject))
    return None


def _host_flops_per_s(subject: Subject) -> float | None:
    found = [_flops_per_s(subject)] if isinstance(subject.backend, Gauge) else []
    return max(found + [machine.flops_per_s()] * (subject.dtype == "float32"), default=None)


def _flops_per_s(subject: Subject) -> float:
    device = subject.workshop.device
    return _fastest(subject, lambda gauge: gauge.product_flops_per_s(subject.dtype, device), subject.dtype, device)


def _bytes_per_s(subject: Subject) -> float:
    device = subject.workshop.device
    return _fastest(subject, lambda gauge: gauge.read_bytes_per_s(DEVICE_BUFFER, device), device)


def _fastest(subject: Subject, measure: Callable[[Gauge], float], *asked: str) -> float:
    assert isinstance(subject.backend, Gauge)
    taken = _TAKEN.setdefault((subject.backend.name, *asked), [])
    if len(taken) < TAKES:
        taken.append(measure(subject.backend))
    return max(taken)
