"""The gauge of the backends on torch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from moe_harness.implementations.common.torch import gauge as torch_gauge  # noqa: E402
from moe_harness.implementations.common.torch.gauge import LAUNCHES, SIDE  # noqa: E402
from moe_harness.implementations.interface import DTYPES, Gauge  # noqa: E402
from moe_harness.implementations.native.backend import NativeBackend  # noqa: E402

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_cuda)]


def test_the_backends_on_torch_have_one():
    assert isinstance(NativeBackend(), Gauge)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_device_multiplies(monkeypatch: pytest.MonkeyPatch, dtype: str, device: str):
    monkeypatch.setattr(torch_gauge, "SIDE", 256)
    assert 1e8 < NativeBackend().product_flops_per_s(dtype, device) < 1e16


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_reads(device: str):
    assert 1e8 < NativeBackend().read_bytes_per_s(1 << 20, device) < 1e15


def test_a_host_has_no_memory_of_a_device():
    assert NativeBackend().device_peak_bytes("cpu") is None


@needs_cuda
def test_the_peak_of_a_device_forgets_what_was_before_the_last_call():
    gauge = NativeBackend()
    gauge.device_peak_bytes("cuda")
    before = gauge.device_peak_bytes("cuda")
    torch.empty(1 << 24, dtype=torch.uint8, device="cuda")
    assert gauge.device_peak_bytes("cuda") - before == 1 << 24
    assert gauge.device_peak_bytes("cuda") == before


def test_rates_are_operations_and_bytes_over_the_best_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch_gauge, "_best_time", lambda call, device: call() is None or 0.5)
    assert NativeBackend().product_flops_per_s("float32", "cpu") == 2 * SIDE**3 / 0.5
    assert NativeBackend().read_bytes_per_s(1 << 20, "cpu") == (1 << 20) / 0.5


def test_a_device_is_waited_for_and_its_launches_share_the_time(monkeypatch: pytest.MonkeyPatch):
    ticks = iter([0.0, 8.0, 0.0, 4.0, 0.0, 16.0, 0.0, 8.0])
    events: list[str] = []
    monkeypatch.setattr(torch_gauge, "_wait", lambda: events.append("wait"))
    monkeypatch.setattr(torch_gauge.time, "perf_counter", lambda: next(ticks))
    assert torch_gauge._best_time(lambda: events.append("call"), "cuda") == 4.0 / LAUNCHES
    assert events == ["call"] + (["wait"] + ["call"] * LAUNCHES + ["wait"]) * 4
