"""The memory that can be had: of the system, and of a container whose limit is lower."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest

from moe_harness.implementations.common import memory
from moe_harness.implementations.common.memory import available_bytes
from moe_harness.implementations.interface import Unsupported

GB = 1 << 30


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system with 64 GB to be had, of which caches hold nearly all, and no control groups."""
    for name, path in (("MEMINFO", "meminfo"), ("CGROUPS", "cgroup"), ("OWN_CGROUP", "own")):
        monkeypatch.setattr(memory, name, tmp_path / path)
    (tmp_path / "meminfo").write_text(f"MemTotal: {80 << 20} kB\nMemFree: 64 kB\nMemAvailable: {64 << 20} kB\nHugePages_Total: 0\n")
    return tmp_path


def limit(group: Path, most: object, used: int, inactive: int) -> None:
    group.mkdir(parents=True, exist_ok=True)
    for name, value in (("max", most), ("current", used), ("stat", f"anon 5\ninactive_file {inactive}\n")):
        (group / f"memory.{name}").write_text(f"{value}\n")


def test_what_caches_would_give_back_counts(host: Path):
    assert available_bytes() == 64 * GB


def test_a_container_has_no_more_than_its_limit_leaves(host: Path):
    limit(host / "cgroup", 8 * GB, 5 * GB, 2 * GB)
    assert available_bytes() == 5 * GB
    limit(host / "cgroup", 8 * GB, 9 * GB, 0)
    assert available_bytes() == 0
    limit(host / "cgroup", "max", 5 * GB, 0)
    assert available_bytes() == 64 * GB


def test_the_lowest_limit_above_a_process_counts(host: Path):
    (host / "own").write_text("4:memory:/old\n0::/job/step\n")
    limit(host / "cgroup" / "job", 3 * GB, 1 * GB, 0)
    limit(host / "cgroup" / "job" / "step", "max", 1 * GB, 0)
    assert available_bytes() == 2 * GB
    limit(host / "cgroup" / "job" / "step", 4 * GB, 3 * GB, 0)
    assert available_bytes() == 1 * GB
    limit(host / "cgroup" / "another", 1, 1, 0)
    assert available_bytes() == 1 * GB


def test_unused_pages_count_only_where_the_system_tells_no_more(host: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert available_bytes() == 64 * GB
    (host / "meminfo").unlink()
    assert available_bytes() == 7 * 4096


def test_a_system_that_does_not_tell_is_no_limit(host: Path, monkeypatch: pytest.MonkeyPatch):
    (host / "meminfo").write_text("MemTotal: 64 kB\nMemFree: 64 kB\n")  # before Linux 3.14
    assert available_bytes() is None

    def unknown(name: str) -> int:
        raise ValueError("unrecognized configuration name")  # as on macOS

    (host / "meminfo").unlink()
    monkeypatch.setattr(os, "sysconf", unknown)
    assert available_bytes() is None


@pytest.fixture(params=["much", "little"])
def can_be_had(request: pytest.FixtureRequest, host: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """64 GB or 1 kB can be had; in both cases no page is unused."""
    if request.param == "little":
        (host / "meminfo").write_text("MemFree: 1 kB\nMemAvailable: 1 kB\n")
    told = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 0 if name == "SC_AVPHYS_PAGES" else told(name))
    return request.param == "much"


def test_a_copy_of_expert_weights_is_made_where_caches_would_give_way(can_be_had: bool):
    torch = pytest.importorskip("torch")
    check_copy = import_module("moe_harness.implementations.common.torch.memory").check_copy
    if can_be_had:
        check_copy("batched_mm", GB, 5, torch.device("cpu"))
    else:
        with pytest.raises(Unsupported, match="copies 1.1 GB"):
            check_copy("batched_mm", GB, 5, torch.device("cpu"))


def test_the_example_kernel_that_copies_weights_runs_where_caches_would_give_way(can_be_had: bool):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    hf_batched_mm = import_module("moe_harness.implementations.kernels.examples").hf_batched_mm
    x, ids, weights = torch.ones(3, 64), torch.tensor([[0, 1]] * 3), torch.full((3, 2), 0.5)
    gate_up, down = torch.zeros(4, 128, 64), torch.zeros(4, 64, 64)
    if can_be_had:
        assert hf_batched_mm(x, ids, weights, gate_up, down).shape == x.shape
    else:
        with pytest.raises(Unsupported, match="would copy"):
            hf_batched_mm(x, ids, weights, gate_up, down)
