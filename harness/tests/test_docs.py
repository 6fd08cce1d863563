"""The walk-throughs of docs/, followed literally in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
# A plain package, as in a wheel: what an editable install maps elsewhere lies beneath it.
PLACES = {"harness": "", "implementations": "implementations", "golden": "golden"}


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    text = (REPO / "docs" / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """The command lines of a page."""
    return re.findall(r"^moe-harness .*", (REPO / "docs" / page).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout")
    for folder, place in PLACES.items():
        shutil.copytree(REPO / folder, copy / "moe_harness" / place, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    return copy


def follow(command: str, checkout: Path, *more: str, folder: Path | None = None, code: int = 0) -> str:
    """One line of a page, with this Python instead of an installed `moe-harness`."""
    words = command.split()
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    launched = [sys.executable, "-m", "moe_harness", *words[1:], *more]
    done = subprocess.run(launched, cwd=folder or checkout, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def file_of(block: str) -> tuple[str, str]:
    """(path, text) of a block whose first line is a comment with its path."""
    first, text = block.split("\n", 1)
    return first.removeprefix("# "), text


def test_new_backend_page(checkout: Path, tmp_path: Path) -> None:
    path, code = file_of(blocks("new-backend.md", "python")[0])
    (tmp_path / path).write_text(code, encoding="utf-8")
    (run,) = commands("new-backend.md")
    right = follow(run, checkout, "-k", "ROUTE", "--workers", "0", folder=tmp_path)
    assert re.search(r"(\d+) of \1 checks passed", right), right
    forgotten = "        if self.weights.bias_E is not None:\n            logits_TE = logits_TE + self.weights.bias_E\n"
    assert forgotten in code, "step 3 deletes these two lines"
    (tmp_path / path).write_text(code.replace(forgotten, ""), encoding="utf-8")
    wrong = follow(run, checkout, "-k", "ROUTE", "--workers", "0", folder=tmp_path, code=1)
    assert "FAIL ROUTE-15" in wrong and "FAIL: 7 failed" in wrong, wrong


@pytest.mark.transformers
def test_new_family_page(checkout: Path) -> None:
    path, code = file_of(blocks("new-family.md", "python")[0])
    assert not (REPO / path).exists(), "the page's example must be one that does not ship"
    (checkout / "moe_harness" / path).write_text(code, encoding="utf-8")
    (checkout / "config.json").write_text(blocks("new-family.md", "json")[0], encoding="utf-8")
    listing, synthesize, run, *_ = commands("new-family.md")
    assert re.search(r"102\.\d+ B total, 12\.\d+ B active", follow(listing, checkout))
    follow(synthesize, checkout)
    selected = "ROUTE-13 or BLOCK-01 or PARITY-02 or CACHE-01 or CONV or PAD-01"  # all of it takes half a minute more
    out = follow(run, checkout, "-k", selected, "--workers", "0")
    assert re.search(r"(\d+) of \1 checks passed", out), out
