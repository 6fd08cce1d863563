"""What an interpreter is, asked of itself before a backend is put under it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict

OLDEST = (3, 9)
MARK = "moe-harness-worker"
SECONDS = 60.0
# Runs under whatever is there, Python 2 included, and after whatever its startup files print.
PROBE = f"""
import sys
try:
    import numpy
    found = "numpy|" + numpy.__version__
except Exception:
    found = "error|" + str(sys.exc_info()[1])
sys.stdout.write("\\n{MARK}|%d|%d|" % sys.version_info[:2] + found.replace("\\n", " ") + "\\n")
"""
# They belong to this interpreter and would lead another one astray; the last would hide the package lent to it.
OURS = ("PYTHONHOME", "PYTHONEXECUTABLE", "PYTHONSTARTUP", "PYTHONPLATLIBDIR", "PYTHONSAFEPATH", "__PYVENV_LAUNCHER__")


class BadInterpreter(ValueError):
    """No backend can run under it. `str()` says why and, where one can, how to mend it."""


@dataclass(frozen=True)
class Interpreter:
    """`path` is absolute and not resolved: a virtual environment is known by its link."""

    path: str
    python: str
    numpy: str


def environment() -> Dict[str, str]:
    """This process's variables without those that are about its own interpreter."""
    return {name: value for name, value in os.environ.items() if name not in OURS}


def inspect(given: str) -> Interpreter:
    """The interpreter at a path, or found on PATH by a bare name. Raises BadInterpreter: missing, not executable, not Python, older
    than 3.9, without numpy."""
    path = _locate(given)
    version, found = _ask(path)
    if version < OLDEST:
        raise BadInterpreter(f"{path} is Python {_dotted(version)}; a worker needs {_dotted(OLDEST)} or newer")
    word, _, detail = found.partition("|")
    if word != "numpy":
        raise BadInterpreter(f"{path} cannot import numpy ({detail}); mend it with: {path} -m pip install numpy")
    return Interpreter(path, _dotted(version), detail)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _locate(given: str) -> str:
    expanded = os.path.expanduser(given or sys.executable)
    path = Path(expanded if os.sep in expanded else shutil.which(expanded) or expanded).absolute()
    if path.is_dir():
        inside = path / "bin" / "python"
        raise BadInterpreter(f"{path} is a directory" + (f"; did you mean {inside}?" if inside.exists() else ""))
    if not path.exists():
        raise BadInterpreter(f"no such interpreter: {path}")
    if not os.access(path, os.X_OK):
        raise BadInterpreter(f"{path} is not executable")
    return str(path)


def _ask(path: str) -> tuple[tuple[int, int], str]:
    """((major, minor), "numpy|version" or "error|why")."""
    try:
        done = subprocess.run(
            [path, "-c", PROBE], env=environment(), cwd=os.sep, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise BadInterpreter(f"{path} did not answer within {SECONDS:g} s") from error
    except OSError as error:
        raise BadInterpreter(f"{path} cannot be run: {error}") from error
    lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith(MARK + "|")]
    if not lines:
        raise BadInterpreter(f"{path} is not a Python interpreter (exit code {done.returncode})")
    _, major, minor, found = lines[-1].split("|", 3)
    return (int(major), int(minor)), found
