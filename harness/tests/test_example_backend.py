"""A third party's backend: `examples/moe-harness-backend-example`, installed beside the checkout, is found and judged as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moe_harness.records.record import read_run

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "moe-harness-backend-example"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that holds the package and its metadata, built from a copy; without a network."""
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(EXAMPLE, folder / "source")
    source, site = str(folder / "source"), str(folder / "site")
    install = ("pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", site, source)
    done = subprocess.run([sys.executable, "-m", *install], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Another distribution, whose entry point leads nowhere."""
    metadata = tmp_path / "site" / "broken-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[moe_harness.backends]\nbroken = nowhere.to_be_found:backend\n")
    return metadata.parent


def moe_harness(cwd: Path, *arguments: str, paths: list[Path]) -> tuple[int, str]:
    inherited = os.environ.get("PYTHONPATH", "")
    variables = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, paths), inherited]), "COLUMNS": "400"}
    command = [sys.executable, "-m", "moe_harness", *arguments]
    done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_the_example_passes(installed: Path, tmp_path: Path) -> None:
    selection = "mixtral and (ROUTE-04 or BLOCK-01 or PARITY-02 or CACHE-01)"
    arguments = ("run", "--backend", "toy", "--dtype", "float32", "-k", selection, "--run-dir", "run")
    code, output = moe_harness(tmp_path, *arguments, paths=[installed])
    judged = {record["check"]: record["status"] for record in read_run(tmp_path / "run") if record["type"] == "check"}
    assert code == 0, output
    assert judged == dict.fromkeys(("ROUTE-04", "BLOCK-01", "PARITY-02", "CACHE-01"), "PASS")


def test_it_is_listed_and_a_broken_plugin_hides_nothing(installed: Path, broken: Path, tmp_path: Path) -> None:
    code, output = moe_harness(tmp_path, "list", paths=[installed, broken])
    rows = {line.split()[0]: line for line in output.splitlines() if line.strip()}
    assert code == 0 and {"hf", "native", "toy", "broken"} <= rows.keys(), output
    assert "mixtral" in rows["toy"] and "broken: " in rows["broken"] and "nowhere" in rows["broken"]


def test_a_broken_plugin_is_a_usage_error_only_for_itself(installed: Path, broken: Path, tmp_path: Path) -> None:
    selection = ("--dtype", "float32", "-k", "mixtral and ROUTE-09", "--run-dir", "run")
    assert moe_harness(tmp_path, "run", "--backend", "toy", *selection, paths=[installed, broken])[0] == 0
    code, output = moe_harness(tmp_path, "run", "--backend", "broken", *selection, paths=[installed, broken])
    assert code == 2 and "cannot be imported: ModuleNotFoundError: No module named 'nowhere'" in output


def test_without_the_package_there_is_no_such_backend(tmp_path: Path) -> None:
    code, output = moe_harness(tmp_path, "run", "--backend", "toy", paths=[])
    assert code == 2 and "unknown backend 'toy'" in output
