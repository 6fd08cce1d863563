"""Interpreters that cannot host a worker are refused with a reason and a remedy, before anything runs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from moe_harness.implementations.worker import BadInterpreter, WorkerBackend
from moe_harness.implementations.worker.interpreter import MARK, inspect


@pytest.fixture
def program(tmp_path: Path):
    """A program that says what it is told to say, after a line of its own."""

    def make(*lines: str) -> str:
        path = tmp_path / "python"
        path.write_text("#!/bin/sh\necho welcome\n" + "".join(f"echo '{line}'\n" for line in lines))
        path.chmod(0o755)
        return str(path)

    return make


def test_this_one_is_good():
    found = inspect(sys.executable)
    assert found.path == sys.executable and found.numpy == np.__version__
    assert found.python == ".".join(map(str, sys.version_info[:2])) and inspect("") == found


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """An environment whose python is a link to this one, which has its libraries whatever this Python makes of links to links."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "our-python").symlink_to(sys.executable)
    if (config := Path(sys.prefix) / "pyvenv.cfg").exists():
        (tmp_path / "pyvenv.cfg").write_text(config.read_text())
        (tmp_path / "lib").symlink_to(Path(sys.prefix) / "lib")
    return tmp_path / "bin" / "our-python"


def test_a_link_stays_a_link(linked: Path):
    """A virtual environment's python is one; resolved, it would be another environment's."""
    assert inspect(str(linked)).path == str(linked)


def test_a_bare_name_is_looked_up(linked: Path, monkeypatch):
    monkeypatch.setenv("PATH", str(linked.parent), prepend=":")
    assert inspect("our-python").path == str(linked)


def test_what_the_program_prints_before_does_no_harm(program):
    assert inspect(program(f"{MARK}|3|12|numpy|1.26.4")).python == "3.12"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ((f"{MARK}|3|8|numpy|1.24.4",), "is Python 3.8; a worker needs 3.9 or newer"),
        ((f"{MARK}|2|7|numpy|1.16.6",), "is Python 2.7"),
        ((f"{MARK}|3|11|error|No numpy",), r"cannot import numpy \(No numpy\); mend it with: .*/python -m pip install numpy"),
        (("hello",), r"is not a Python interpreter \(exit code 0\)"),
    ],
)  # fmt: skip
def test_unfit_programs_are_refused(program, said, message):
    with pytest.raises(BadInterpreter, match=message):
        inspect(program(*said))


def test_a_missing_one_is_refused():
    with pytest.raises(BadInterpreter, match="no such interpreter: /nowhere/python"):
        WorkerBackend("native", "/nowhere/python")


def test_what_is_not_executable_is_refused(tmp_path):
    (tmp_path / "python").write_text("")
    with pytest.raises(BadInterpreter, match="is not executable"):
        inspect(str(tmp_path / "python"))


def test_a_directory_is_refused_with_a_guess(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    with pytest.raises(BadInterpreter, match="is a directory; did you mean .*/bin/python?"):
        inspect(str(tmp_path))


def test_one_that_hangs_is_refused(program, monkeypatch):
    monkeypatch.setattr("moe_harness.implementations.worker.interpreter.SECONDS", 0.3)
    path = Path(program())
    path.write_text("#!/bin/sh\nexec sleep 60\n")
    with pytest.raises(BadInterpreter, match="did not answer within 0.3 s"):
        inspect(str(path))


def test_a_file_that_cannot_be_run_is_refused(tmp_path):
    (tmp_path / "python").write_bytes(b"\x7fELF broken")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(BadInterpreter, match="cannot be run"):
        inspect(str(tmp_path / "python"))
