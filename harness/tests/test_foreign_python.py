"""The harness judges a backend under another interpreter: a virtual environment that holds numpy 1.26.4 and nothing else, made with this
Python and, where one is found, with another. Skipped only where such an environment cannot be made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.implementations.worker import WorkerBackend
from moe_harness.records.record import read_run

pytestmark = pytest.mark.wheel
TOY = "moe_harness.implementations.tests.toy_backend:backend"
NUMPY = "1.26.4"
PYTHONS = ("3.9", "3.10", "3.12", "3.11")  # those that numpy 1.26 has wheels for, the oldest first
TOPICS = ("BLOCK", "CACHE", "CONV-01", "CONV-02", "INPUT", "PAD", "PARITY", "ROUTE", "WINDOW")


def pythons(which: str) -> list[str]:
    """Interpreters to try: this one, or others on PATH and among pyenv's (whose shims run only the selected ones)."""
    here = "{}.{}".format(*sys.version_info)
    if which == "this":
        return [sys.executable] if here in PYTHONS else []
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = [(shutil.which(f"python{v}"), *sorted(versions.glob(f"{v}.*/bin/python"))) for v in PYTHONS if v != here]
    return [str(path) for group in named for path in group if path]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run([str(word) for word in command], env=clean, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module", params=["this", "another"])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with numpy 1.26.4."""
    home = tmp_path_factory.mktemp("foreign") / "venv"
    reason = "no Python that numpy 1.26 has wheels for"
    for python in pythons(request.param):
        if run(python, "-m", "venv", "--without-pip", home).returncode:
            continue
        install = (sys.executable, "-m", "pip", "--python", home / "bin" / "python", "install", "--quiet", "--only-binary=:all:")
        done = run(*install, f"numpy=={NUMPY}")
        if done.returncode == 0:
            return home / "bin" / "python"
        reason = f"numpy {NUMPY} cannot be installed: {done.stderr.strip()[-300:]}"
        shutil.rmtree(home)
    pytest.skip(reason)


def test_the_toy_is_judged_there(foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the toy does not declare is UNSUPPORTED, everything else passes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    asked = ["--backend", TOY, "--python", f"{TOY}={foreign}", "--dtype=float32", "-k", f"mixtral and ({' or '.join(TOPICS)})"]
    result = CliRunner().invoke(application(), ["run", "--run-dir=run", *asked])
    checks = [record for record in read_run(Path("run")) if record["type"] == "check"]
    passed = [record for record in checks if record["status"] == "PASS"]
    odd = [f"{r['check']} {r['status']}: {r['reason']}" for r in checks if r["status"] not in ("PASS", "UNSUPPORTED")]
    assert result.exit_code == 0 and not odd, odd
    assert all(any(record["check"].startswith(topic) for record in passed) for topic in TOPICS)
    version = run(foreign, "-c", "import platform; print(platform.python_version())").stdout.strip()
    assert {record["execution_note"] for record in checks} == {f"worker: Python {version}, numpy {NUMPY}"}


SPY = """
import importlib.util
from moe_harness.implementations.interface import Capabilities
from moe_harness.implementations.tests.toy_backend import ToyBackend

class Spy(ToyBackend):
    def capabilities(self):
        names = "numpy moe_harness moe_harness.interface moe_harness.cli pytest scipy hypothesis ml_dtypes safetensors torch".split()
        return Capabilities(tuple(name for name in names if importlib.util.find_spec(name)), (), ())

def backend(variant=None):
    return Spy()
"""


def test_nothing_of_this_environment_is_seen_there(foreign: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spy.py").write_text(SPY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    worker = WorkerBackend("spy:backend", str(foreign))
    assert worker.capabilities().features == ("numpy", "moe_harness", "moe_harness.interface")
    worker.close()
