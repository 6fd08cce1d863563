"""Available memory: what only holds cached files counts, and a container has its own limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_harness.implementations.common import memory
from moe_harness.implementations.interface import Unsupported

GB = 2**30
MEMINFO = "MemTotal: 25165824 kB\nMemFree: 20480 kB\nMemAvailable: {available} kB\nCached: 23000000 kB\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A Linux machine whose memory is full of cached files: next to no page is unused."""

    def make(available: int = 20 * GB, container: dict[str, str] | None = None) -> None:
        (tmp_path / "meminfo").write_text(MEMINFO.format(available=available // 1024))
        for name, text in (container or {}).items():
            (tmp_path / name).write_text(text)
        monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(memory, "CGROUP", tmp_path)
        monkeypatch.setattr(memory.os, "sysconf", lambda name: 5000 if name == "SC_AVPHYS_PAGES" else 4096)

    return make


def test_cached_files_count_as_available(machine):
    machine()
    assert memory.available_bytes() == 20 * GB


@pytest.mark.parametrize(
    ("limit", "expected"), [(f"{8 * GB}", 8 * GB - 6 * GB + 5 * GB), ("max", 20 * GB), (f"{2 * GB}", GB), ("broken", 20 * GB)]
)
def test_a_container_has_its_own_limit(machine, limit: str, expected: int):
    stat = f"anon 1\ninactive_file {5 * GB}\n"
    machine(container={"memory.max": limit + "\n", "memory.current": f"{6 * GB}\n", "memory.stat": stat})
    assert memory.available_bytes() == expected


def test_without_meminfo_unused_pages_are_all_that_is_known(machine, monkeypatch: pytest.MonkeyPatch):
    machine()
    monkeypatch.setattr(memory, "MEMINFO", Path("/nonexistent"))
    assert memory.available_bytes() == 5000 * 4096


def test_nobody_knows(machine, monkeypatch: pytest.MonkeyPatch):
    machine()

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(memory, "MEMINFO", Path("/nonexistent"))
    monkeypatch.setattr(memory.os, "sysconf", unknown)
    assert memory.available_bytes() is None


def test_a_kernel_that_copies_weights_runs_on_a_machine_full_of_cached_files(machine):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from moe_harness.implementations.kernels.examples import hf_batched_mm

    x, ids, weights = torch.zeros(4, 256), torch.zeros(4, 2, dtype=torch.int64), torch.full((4, 2), 0.5)
    w_gate_up, w_down = torch.zeros(2, 4096, 256), torch.zeros(2, 256, 2048)  # 50 MB are copied; 20 MB are unused pages
    machine()
    assert hf_batched_mm(x, ids, weights, w_gate_up, w_down).shape == x.shape
    machine(available=40 * 2**20)
    with pytest.raises(Unsupported, match="would copy"):
        hf_batched_mm(x, ids, weights, w_gate_up, w_down)
