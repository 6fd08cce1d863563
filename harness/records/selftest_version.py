"""What the figures of a self-test belong to: the text of all that can change a verdict."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parents[1]
PACKAGES = "cases checks diagnosis emulator judge mutants oracle processes repro selftest suite".split()
MODULES = tuple(f"records/{name}.py" for name in ("__init__", "plain", "status", "whole")) + ("stats/__init__.py", "stats/tolerance.py")


def judging_files() -> list[Path]:
    """Sources of the checks, of what they judge with and on, and of the self-test."""
    packages = (file for package in PACKAGES for file in (HERE / package).rglob("*.py"))
    return sorted([*packages, *(HERE / name for name in MODULES)])


def version(golden: Path) -> str:
    """sha256 over these files and the golden data: their manifest holds the sha256 of each, the figures themselves left out."""
    digest = sha256()
    for file in judging_files():
        digest.update(f"{file.relative_to(HERE)}\0".encode() + file.read_bytes() + b"\0")
    for name in ("floors.json", "manifest.json"):
        digest.update((golden / name).read_bytes() if (golden / name).exists() else b"\0")
    return digest.hexdigest()
