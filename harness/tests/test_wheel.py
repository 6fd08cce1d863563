"""The wheel, installed outside the checkout: it holds what a run needs, golden data included, and a run from an empty directory works.

The virtual environment is not quite empty: it sees the third-party packages of the environment that runs this test through a .pth file, so
that torch is not downloaded a second time. A directory named in a .pth file is searched for packages, but its own .pth files are not read,
so the editable install of the checkout stays out of sight; `test_the_checkout_is_out_of_sight` makes sure of it.
"""

from __future__ import annotations

import importlib.util
import os
import re
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
            name = f"moe_harness/{path.relative_to(REPO).as_posix()}"
            assert name in held and archive.read(name) == path.read_bytes(), name
    kinds = ("report/templates/*.j2", "records/schemas/*.json", "suite/profiles/*.toml")
    there = [[f"moe_harness/{path.relative_to(REPO / 'harness').as_posix()}" for path in (REPO / "harness").glob(kind)] for kind in kinds]
    assert all(there) and {name for names in there for name in names} <= held
    modules = ("cli/app", "interface", "implementations/native/backend", "implementations/families/mixtral")
    assert {f"moe_harness/{name}.py" for name in modules} <= held


def test_the_wheel_holds_nothing_else(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        licence = [name for name in archive.namelist() if name.endswith("/LICENSE")]
    (metadata,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {"moe_harness", metadata} and len(licence) == 1


def test_the_checkout_is_out_of_sight(python: Path, tmp_path: Path):
    code = "import sys, moe_harness as h, moe_harness.golden as g, moe_harness.implementations as i\n"
    code += "print(*sys.path, g.__file__, h.__file__, i.__file__, sep='\\n')"
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
    run(python, "-m", "moe_harness", "run", "--backend", "native", "-k", "ROUTE", "--out", tmp_path / "out", cwd=tmp_path / "empty")
    report = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "native" in report and "ROUTE-" in report


@pytest.fixture(params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest) -> Path:
    """An interpreter that has the wheel, and the one that runs this test, which has the checkout."""
    return request.getfixturevalue("python") if request.param == "wheel" else Path(sys.executable)


def test_nobody_elses_names_are_taken(installed: Path, tmp_path: Path):
    code = (
        "from importlib.util import find_spec; print([find_spec(n) for n in ('harness', 'implementations', 'golden', 'reports', 'docs')])"
    )
    assert run(installed, "-c", code, cwd=tmp_path).strip() == str([None] * 5)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Somebody's project with packages named like folders of this one, and tests of its own."""
    for name in ("harness", "golden", "implementations"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"WHOSE = 'theirs: {name}'\n")
    (tmp_path / "tests").mkdir()
    theirs = "import golden, harness, implementations\n\ndef test_theirs():\n"
    theirs += "    assert [p.WHOSE[:6] for p in (golden, harness, implementations)] == ['theirs'] * 3\n"
    (tmp_path / "tests" / "test_theirs.py").write_text(theirs)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]\n')
    return tmp_path


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the native backend needs the extra `native`")
def test_checks_run_beside_a_project_with_our_folders_names(installed: Path, project: Path):
    asked = ("--pyargs", "moe_harness.checks", "--backend", "native", "-k", "ROUTE-01 or theirs", "tests", "-q", "-p", "no:cacheprovider")
    output = run(installed, "-m", "pytest", *asked, "--run-dir", "run", cwd=project)
    (counted,) = re.findall(r"moe-harness: (\d+) PASS", output)
    assert f"{int(counted) + 1} passed" in output and int(counted) >= 10


def test_every_command_runs_there(installed: Path, project: Path):
    kernel = ("moe_harness.tests.kernel_wrong:honest", "--like", "mixtral-8x7b", "--no-true-shape", "--arrays", "numpy")
    output = run(installed, "-m", "moe_harness", "kernel", *kernel, "--dtype", "fp32", "--case", "tokens-1", cwd=project)
    assert "PASS: 1 PASS of 1 cases" in output, output
    assert "native" in run(installed, "-m", "moe_harness", "list", cwd=project)
