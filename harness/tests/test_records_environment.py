"""The environment tells the machine as it is, and a program that is missing, fails, hangs or babbles costs nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moe_harness.records import environment as module
from moe_harness.records.environment import environment

KEYS = "hostname os python cpu cores threads memory_gib accelerators packages commit dirty".split()


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_it_has_the_shape_of_the_record_and_is_plain_json():
    found = environment()
    assert list(found) == KEYS and json.loads(json.dumps(found)) == found
    assert found["hostname"] and found["cpu"] and found["cores"] >= 1 and found["threads"] >= 1 and found["memory_gib"] > 0
    assert found["packages"]["numpy"] and found["python"] == sys.version.split()[0]


def test_it_imports_no_framework():
    code = "import sys; from moe_harness.records.environment import environment; environment();"
    code += "sys.exit('numpy' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).resolve().parents[2], check=True)


@pytest.mark.parametrize(("value", "expected"), [("1", 1), ("1,4", 1), ("100000", None), ("", None), ("many", None), ("0", None)])
def test_threads_are_the_affinity_capped_by_omp(monkeypatch: pytest.MonkeyPatch, value: str, expected: int | None):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert environment()["threads"] == (expected or allowed)


def test_gpus_are_listed_one_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    program(tmp_path, "nvidia-smi", 'echo "NVIDIA H200, 143771 MiB, 570.86.15"; echo "NVIDIA H200, 143771 MiB, 570.86.15"')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["accelerators"] == ["NVIDIA H200, 143771 MiB, 570.86.15"] * 2


def test_neuron_devices_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    listed = json.dumps([{"neuron_device": 0, "nc_count": 2, "memory_size": 34359738368, "connected_to": None}, {"neuron_device": 1}])
    program(tmp_path, "neuron-ls", f"echo '{listed}'")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["accelerators"] == ["Neuron device 0, 2 cores, 32 GiB", "Neuron device 1, ? cores, memory unknown"]


@pytest.mark.parametrize("text", ["exit 9", "echo no devices; exit 1", "echo '{}'", "echo 'not json'", "printf '\\377'"])
def test_a_failing_or_babbling_tool_lists_no_neuron_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str):
    program(tmp_path, "neuron-ls", text)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["accelerators"] == []


def test_a_tool_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    program(tmp_path, "nvidia-smi", "exec /bin/sleep 30")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_SECONDS", 0.2)
    assert environment()["accelerators"] == []


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git checkout that tracks a package like ours; the module believes to live in it."""
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    package = tmp_path / "repo" / "harness"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("'Doc.'\n")
    for command in ("init -q", "add harness", "-c user.name=a -c user.email=a@b -c commit.gpgsign=false commit -qm first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path / "repo", check=True)
    monkeypatch.setattr(module, "__file__", str(package / "environment.py"))
    return package


def test_the_commit_is_that_of_the_checkout(checkout: Path):
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, check=True, capture_output=True, text=True).stdout.strip()
    assert (environment()["commit"], environment()["dirty"]) == (head, False)
    (checkout / "__init__.py").write_text("'Changed.'\n")
    assert (environment()["commit"], environment()["dirty"]) == (head, True)


def test_a_hooks_git_dir_is_not_taken_for_ours(checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert environment()["commit"] is not None


def test_a_package_inside_somebodys_repository_has_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    installed = checkout.parent / "site-packages" / "harness"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    monkeypatch.setattr(module, "__file__", str(installed / "environment.py"))
    assert (environment()["commit"], environment()["dirty"]) == (None, None)
