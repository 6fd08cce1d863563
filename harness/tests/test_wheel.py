"""The wheel, installed outside the checkout: it holds what a run needs, golden data included, and a run from an empty directory works.

The virtual environment is not quite empty: it sees the third-party packages of the environment that runs this test through a .pth file, so
that torch is not downloaded a second time. A directory named in a .pth file is searched for packages, but its own .pth files are not read,
so the editable install of the checkout stays out of sight; `test_the_checkout_is_out_of_sight` makes sure of it.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy
import pytest

REPO = Path(__file__).resolve().parents[2]
SOURCES = ("golden", "harness", "implementations", "pyproject.toml", "README.md", "LICENSE")
pytestmark = pytest.mark.wheel


def run(*command: object, cwd: Path) -> str:
    """Output of the command, which must succeed. PYTHONPATH and the like would let the checkout in."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST", "COV_", "VIRTUAL_ENV"))}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=clean, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\nexit code {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that neither an old build/ folder gets in nor a new one is left behind; without a network."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(REPO / name, source / name)
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment that holds the wheel."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    interpreter = home / "bin" / "python"
    (site_packages,) = home.glob("lib/python*/site-packages")
    (site_packages / "third_party.pth").write_text(f"{Path(numpy.__file__).resolve().parents[1]}\n")
    install = ("install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", wheel)
    run(sys.executable, "-m", "pip", "--python", interpreter, *install, cwd=home)
    return interpreter


def test_the_wheel_holds_what_a_run_needs(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        data = [path for path in (REPO / "golden").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert any(path.suffix == ".safetensors" for path in data), "no golden data in the checkout"
        for path in data:
            name = path.relative_to(REPO).as_posix()
            assert name in held and archive.read(name) == path.read_bytes(), name
    templates = [path.relative_to(REPO).as_posix() for path in (REPO / "harness/report/templates").iterdir() if path.is_file()]
    profiles = {path.relative_to(REPO).as_posix() for path in (REPO / "harness/profiles").glob("*.toml")}
    assert templates and profiles and profiles | set(templates) <= held
    assert {"harness/cli/app.py", "implementations/native/backend.py", "implementations/families/mixtral.py"} <= held


def test_the_wheel_holds_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        licence = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    (metadata,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {"golden", "harness", "implementations", metadata} and len(licence) == 1


def test_the_checkout_is_out_of_sight(python: Path, tmp_path: Path):
    code = "import golden as g, harness as h, implementations as i, sys; print(*sys.path, g.__file__, h.__file__, i.__file__, sep='\\n')"
    seen = [Path(line) for line in run(python, "-c", code, cwd=tmp_path).splitlines() if line]
    assert len(seen) > 3 and not [path for path in seen if path.is_relative_to(REPO) and ".tox" not in path.parts]
    assert all(path.is_relative_to(python.parents[1]) for path in seen[-3:])


def test_one_version_and_one_command(python: Path, tmp_path: Path):
    version = run(python, "-c", "from importlib.metadata import version; print(version('moe-harness'))", cwd=tmp_path).strip()
    assert f'version = "{version}"' in (REPO / "pyproject.toml").read_text("utf-8")
    assert "run" in run(python.parent / "moe-harness", "--help", cwd=tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the native backend needs the extra `native`")
def test_a_backend_runs_from_an_empty_directory(python: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    run(python, "-m", "moe_harness.cli.app", "run", "--backend", "native", "-k", "ROUTE", "--out", tmp_path / "out", cwd=tmp_path / "empty")
    report = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "native" in report and "ROUTE-" in report
