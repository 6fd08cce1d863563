"""The machine's rates, the limit they make, and peak memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moe_harness.bench import machine, peak
from moe_harness.bench.machine import GEMM, LARGEST, SMALLEST, best_time, buffer_size
from moe_harness.bench.place import Place
from moe_harness.bench.roofline import roofline
from moe_harness.bench.traffic import Work

MB = 1 << 20


def work(flops: int, moved: int, weights: int = 10**6) -> Work:
    return Work(flops, moved, 1, np.array([[1]]), weights)


def test_the_longer_of_both_times_is_the_limit():
    place = Place(500.0, lambda size: 1000.0)
    by_bytes = roofline(work(flops=1000, moved=4000), place, measured=8.0)
    assert (by_bytes.seconds, by_bytes.share, by_bytes.by) == (4.0, 0.5, "bandwidth")
    by_compute = roofline(work(flops=3000, moved=4000), place, measured=8.0)
    assert (by_compute.seconds, by_compute.share, by_compute.by) == (6.0, 0.75, "compute")
    assert by_compute.to_record() == {"flops_per_s": 500.0, "bytes_per_s": 1000.0, "seconds": 6.0, "share": 0.75, "by": "compute"}


def test_where_nobody_multiplies_this_dtype_bytes_alone_limit():
    found = roofline(work(flops=10**9, moved=4000), Place(None, lambda size: 1000.0), measured=8.0)
    assert found.flops_per_s is None and found.by == "bandwidth" and found.share == 0.5


def test_reads_are_held_against_a_buffer_of_what_they_can_come_from():
    asked: list[int] = []

    def read(size: int) -> float:
        asked.append(size)
        return 1000.0

    place = Place(None, read)
    roofline(work(0, moved=3 * MB, weights=100 * MB), place, 1.0)
    roofline(work(0, moved=900 * MB, weights=5 * MB), place, 1.0)
    roofline(work(0, moved=3 * MB, weights=5 * MB), place, 1.0, cold=True)
    assert asked == [3 * MB, 5 * MB, LARGEST]


def test_buffers_are_powers_of_two_within_bounds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "available_bytes", lambda: None)
    sizes = (0, 1, SMALLEST + 1, 3 * MB, 4 * MB, LARGEST + 1)
    assert [buffer_size(n) for n in sizes] == [SMALLEST, SMALLEST, 2 * MB, 4 * MB, 4 * MB, LARGEST]
    monkeypatch.setattr(machine, "available_bytes", lambda: 100 * MB)
    assert buffer_size(LARGEST) == 16 * MB  # a quarter of what is free, rounded down


def test_rates_are_operations_and_bytes_over_the_best_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "best_time", lambda call: call() is None or 0.5)
    assert machine.flops_per_s.__wrapped__() == 2 * GEMM**3 / 0.5
    assert machine._read_rate.__wrapped__(4 * MB, 2) == 4 * MB / 0.5


def test_the_best_time_leaves_out_the_first_call(monkeypatch: pytest.MonkeyPatch):
    ticks = iter(np.cumsum([0.0, 3.0, 0.0, 1.0, 0.0, 2.0, 0.0, 5.0]))
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(ticks))
    calls: list[int] = []
    assert best_time(lambda: calls.append(1)) == 1.0 and len(calls) == 5


def test_this_machine_multiplies_and_reads():
    assert 1e8 < machine.flops_per_s() < 1e15
    assert 1e8 < machine.bytes_per_s(MB) < 1e13


def hold(size: int) -> Callable[[], object]:
    return lambda: np.ones(size, np.uint8).sum()


def test_peak_sees_what_a_call_held_and_forgets_what_was_before():
    peak.during(hold(192 * MB))
    small, large = peak.during(hold(MB)), peak.during(hold(96 * MB))
    if small["method"] != peak.RESET:
        pytest.skip("this kernel does not reset a process's peak")
    grown = [found["host_peak_bytes"] - found["host_before_bytes"] for found in (small, large)]
    assert grown[0] < 64 * MB and 90 * MB < grown[1] < 160 * MB
    assert large["device_peak_bytes"] is None and large["device_before_bytes"] is None


def test_a_devices_peak_forgets_what_was_before_the_call():
    told = iter([900, 100, 160])
    found = peak.during(lambda: None, lambda: next(told))
    assert (found["device_before_bytes"], found["device_peak_bytes"]) == (100, 160)


def test_without_the_kernels_help_the_peak_is_an_upper_bound_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(peak, "PROCESS", tmp_path / "nothing")
    found = peak.during(hold(MB))
    assert found["method"] == peak.SINCE_START and found["host_before_bytes"] is None and found["host_peak_bytes"] > MB
