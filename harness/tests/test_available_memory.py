"""Available memory is asked in one place, by all that ask: a machine whose memory holds cached files has that memory."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

from moe_harness.bench import machine as probe
from moe_harness.implementations.interface import InvalidInput
from moe_harness.implementations.tests.test_memory import GB, machine  # noqa: F401
from moe_harness.kernel.run import check_memory


def test_the_kernel_door_and_the_benchmarks_ask_there_too(machine):  # noqa: F811
    shape = SimpleNamespace(parameters=10**9)
    machine()
    check_memory(shape, "bfloat16", "torch")  # type: ignore[arg-type]
    assert probe.buffer_size(2**40) == probe.LARGEST
    machine(available=2 * GB)
    with pytest.raises(InvalidInput, match="2.1 GB are free"):
        check_memory(shape, "bfloat16", "torch")  # type: ignore[arg-type]
    assert probe.buffer_size(2**40) == 2 * GB // probe.SPARED


def test_nobody_else_reads_it():
    repo = Path(__file__).resolve().parents[2]
    files = [file for top in ("harness", "implementations") for file in (repo / top).rglob("*.py") if "tests" not in file.parts]
    asking = [file for file in files for node in ast.walk(ast.parse(file.read_text("utf-8"))) if _asks(node)]
    assert {file.relative_to(repo).as_posix() for file in asking} == {"implementations/common/memory.py"}


def _asks(node: ast.AST) -> bool:
    words = ("MemAvailable:", "MemAvailable", "SC_AVPHYS_PAGES")
    return isinstance(node, ast.Constant) and node.value in words
