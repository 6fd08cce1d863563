"""Everybody here who asks for free memory counts what caches would give back: after large files were read, hardly a page is unused."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from moe_harness.bench.machine import LARGEST, buffer_size
from moe_harness.implementations.common import memory
from moe_harness.implementations.interface import InvalidInput
from moe_harness.kernel.run import check_memory
from moe_harness.kernel.weights import Shape

REPO = Path(__file__).resolve().parents[2]
SMALL = Shape("small", E=4, K=2, D=64, F=64)


@pytest.fixture(params=["much", "little"])
def can_be_had(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """64 GB or 1 kB can be had; in both cases hardly a page is unused."""
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemFree: 1 kB\nMemAvailable: {64 << 20 if request.param == 'much' else 1} kB\n")
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    unused, told = {"SC_AVPHYS_PAGES": 0}, os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: unused[name] if name in unused else told(name))
    return request.param == "much"


def test_the_kernel_door_accepts_a_shape_that_fits(can_be_had: bool):
    if can_be_had:
        check_memory(SMALL, "float32", "torch")
    else:
        with pytest.raises(InvalidInput, match="0.0 GB are free"):
            check_memory(SMALL, "float32", "torch")


def test_the_probe_of_memory_bandwidth_has_room(can_be_had: bool):
    assert (buffer_size(LARGEST) == LARGEST) == can_be_had


def _asks(source: str) -> list[str]:
    """What a module reads about free memory of the host."""
    texts = (node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant) and isinstance(node.value, str))
    return [word for text in texts for word in ("MemAvailable", "MemFree", "SC_AVPHYS_PAGES", "memory.max") if word in text]


def test_one_module_alone_reads_free_memory():
    files = [file for top in ("harness", "implementations") for file in (REPO / top).rglob("*.py") if "tests" not in file.parts]
    assert [str(file.relative_to(REPO)) for file in files if _asks(file.read_text())] == ["implementations/common/memory.py"]


def test_a_module_that_reads_it_elsewhere_is_found():
    assert _asks('import os\nfree = os.sysconf("SC_AVPHYS_PAGES")') and _asks('x = line.startswith("MemAvailable:")')
    assert not _asks("from moe_harness.implementations.common.memory import available_bytes")
