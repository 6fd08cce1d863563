"""Where a subject's models live and how fast it is there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from moe_harness.bench import machine, place
from moe_harness.bench.place import DEVICE_BUFFER, TAKES, place_of
from moe_harness.implementations.interface import Capabilities
from moe_harness.suite.hosts import runs_as
from moe_harness.suite.subject import Subject


class Measured:
    """A backend with a gauge; `asked`: what was asked of it."""

    name = "measured"

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def product_flops_per_s(self, dtype: str, device: str) -> float:
        self.asked.append((dtype, device))
        return 7.0

    def read_bytes_per_s(self, size: int, device: str) -> float:
        self.asked.append((size, device))
        return 9.0

    def device_peak_bytes(self, device: str) -> int | None:
        return None


def capabilities(execution: str, *devices: str) -> Capabilities:
    return Capabilities((), (), ("float32",), execution=execution, devices=devices)


def subject(backend: object, found: Capabilities, dtype: str = "float32", device: str = "cpu") -> Subject:
    return cast(Subject, SimpleNamespace(backend=backend, capabilities=found, dtype=dtype, workshop=SimpleNamespace(device=device)))


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_TAKEN", {})
    monkeypatch.setattr(machine, "flops_per_s", lambda: 5.0)
    monkeypatch.setattr(machine, "bytes_per_s", lambda size: 3.0)


@pytest.mark.parametrize(
    ("execution", "devices", "asked", "where"),
    [
        ("device", ("cpu", "cuda"), "cpu", "cpu"),  # a GPU is there, and was not asked for
        ("device", ("cpu", "cuda"), "cuda:0", "device"),
        ("device", ("cuda",), "cpu", "device"),  # it cannot run on a cpu, whatever it was told
        ("device", (), "cpu", "device"),  # an endpoint that does not choose
        ("emulated", ("cpu",), "neuron", "emulated"),
        ("cpu", (), "cpu", "cpu"),
    ],
)
def test_models_run_where_they_are_loaded(execution: str, devices: tuple[str, ...], asked: str, where: str):
    assert runs_as(capabilities(execution, *devices), asked) == where


def test_a_host_is_as_fast_as_the_faster_of_both_makes_it(monkeypatch: pytest.MonkeyPatch):
    found = place_of(subject(Measured(), capabilities("device", "cpu", "cuda")))
    assert found and (found.flops_per_s, found.read(1)) == (7.0, 3.0)
    monkeypatch.setattr(machine, "flops_per_s", lambda: 11.0)
    found = place_of(subject(Measured(), capabilities("cpu")))
    assert found and found.flops_per_s == 11.0


def test_numpy_has_no_say_in_other_dtypes():
    with_gauge, without = (place_of(subject(each, capabilities("cpu"), "bfloat16")) for each in (Measured(), object()))
    assert with_gauge and without and (with_gauge.flops_per_s, without.flops_per_s) == (7.0, None)


def test_a_device_is_measured_by_its_backend():
    backend = Measured()
    found = place_of(subject(backend, capabilities("device"), "bfloat16", "cuda"))
    assert found and (found.flops_per_s, found.read(1)) == (7.0, 9.0)
    assert backend.asked == [("bfloat16", "cuda"), (DEVICE_BUFFER, "cuda")]


def test_the_fastest_of_some_takes_counts(monkeypatch: pytest.MonkeyPatch):
    rates = iter([2.0, 7.0, 3.0, *[1.0] * (TAKES - 3)])
    backend = Measured()
    monkeypatch.setattr(backend, "product_flops_per_s", lambda dtype, device: next(rates))
    found = [place_of(subject(backend, capabilities("cpu"), "bfloat16")) for _ in range(TAKES + 2)]
    assert [each and each.flops_per_s for each in found] == [2.0] + [7.0] * (TAKES + 1)


def test_what_nobody_measures_has_no_limit():
    assert place_of(subject(object(), capabilities("device"), device="cuda")) is None
    assert place_of(subject(Measured(), capabilities("emulated"))) is None
