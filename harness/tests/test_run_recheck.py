"""`recheck`: a capsule's case on another build, with the exit codes of `git bisect run`; and a bisection that finds the commit."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moe_harness.cases.cases import named_cases
from moe_harness.checks.in_process import checks_of
from moe_harness.cli.app import application
from moe_harness.implementations import registry
from moe_harness.judge.exhibit import RECORD, Exhibit
from moe_harness.mutants.catalogue import SPECIFICATION, backend
from moe_harness.repro.storage import write
from moe_harness.run.recheck import CANNOT, FAILS, PASSES, recheck, run_check
from moe_harness.selftest.diagnoses import experiment
from moe_harness.suite.subject import Subject, Workshop

REPO = Path(__file__).resolve().parents[2]
FAILING = {
    "router": ("uniform-weights", "ROUTE-05", "mixtral"),
    "bare router": ("scaling-twice", "ROUTE-14", "deepseek_v3"),
    "block": ("gelu-for-silu", "BLOCK-01", "mixtral"),
    "pinned block": ("last-expert-never-runs", "BLOCK-02", "qwen2_moe"),
    "model": ("decode-position-off-by-one", "CACHE-01", "mixtral"),
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("recheck"))


@pytest.fixture(scope="module")
def capsules(workshop):
    def made(name, check, case):
        return experiment(checks_of([check])[0], Subject(backend(name), named_cases()[case], "float32", workshop))

    return {kind: made(*failing) for kind, failing in FAILING.items()}


@pytest.mark.parametrize("kind", FAILING)
def test_the_wrong_build_fails_and_the_right_one_passes(kind, capsules):
    fault = FAILING[kind][0]
    assert recheck(capsules[kind], backend(fault)).code == FAILS
    found = recheck(capsules[kind], backend())
    assert found.code == PASSES, found.sentence


@pytest.mark.parametrize("kind", ["block", "model"])
def test_a_real_backend_passes_on_the_checkpoint_of_a_capsule(kind, capsules):
    native = registry.backend("native")
    if native.capabilities().unavailable:
        pytest.skip(native.capabilities().unavailable)
    found = recheck(capsules[kind], native)
    assert found.code == PASSES, found.sentence


class Broken:
    """A build of which `capabilities` or `load` fails as told."""

    name = "broken"

    def __init__(self, error: Any, at: str):
        self.error, self.at = error, at

    def capabilities(self):
        if self.at == "capabilities":
            raise self.error
        return backend().capabilities()

    def load(self, path, spec):
        raise self.error


@pytest.mark.parametrize("error, at, code", [
    (ImportError("half built"), "capabilities", CANNOT),
    (ImportError("no kernel"), "load", CANNOT),
    (RuntimeError("boom"), "load", FAILS),
])  # fmt: skip
def test_what_cannot_be_imported_cannot_be_judged_and_what_breaks_fails(error, at, code, capsules):
    found = recheck(capsules["block"], Broken(error, at))  # type: ignore[arg-type]
    assert found.code == code and str(error) in found.sentence


def test_undeclared_dtypes_and_families_cannot_be_judged(capsules):
    class Lesser(Broken):
        def capabilities(self):
            return replace(backend().capabilities(), **self.error)

    for lack in ({"dtypes": ("bfloat16",)}, {"families": ("olmoe",)}, {"unavailable": "no device"}):
        assert recheck(capsules["block"], Lesser(lack, "")).code == CANNOT  # type: ignore[arg-type]


def test_an_unknown_backend_and_a_bad_file_exit_with_125(capsules, tmp_path):
    path = write(capsules["block"], tmp_path)
    for arguments in (["recheck", str(path), "--backend", "no-such"], ["recheck", str(tmp_path / "none"), "--backend", "native"]):
        told = CliRunner().invoke(application(), arguments)
        assert told.exit_code == CANNOT, told.output


def test_without_arrays_the_check_itself_is_run(capsules):
    capsule = replace(capsules["block"], exhibit=Exhibit(RECORD))
    identity = {**capsule.identity, "node": "test_block.py::test_block_equals_oracle[x]"}
    here = {"checkpoint": {"path": "", "sha256": "0"}}
    assert run_check(replace(capsule, identity=identity, **here), SPECIFICATION, None).code == CANNOT
    assert run_check(replace(capsule, identity=identity), SPECIFICATION, None).code == PASSES
    assert run_check(replace(capsule, identity=identity), f"{SPECIFICATION}:gelu-for-silu", None).code == FAILS


TOY = """from moe_harness.mutants.catalogue import backend as subject
{what}
def backend(variant=None):
    return subject({fault})
"""


def test_git_bisect_finds_the_commit_that_brought_the_bug(capsules, tmp_path):
    """Six commits: two right ones, one that does not parse, one that brings the bug, two with it."""
    path = write(capsules["block"], tmp_path)
    toy = tmp_path / "toy"
    toy.mkdir()

    def git(*words: str) -> str:
        identity = ["-c", "user.name=toy", "-c", "user.email=toy@example.org"]
        return subprocess.run(["git", "-C", str(toy), *identity, *words], capture_output=True, text=True, check=True).stdout

    git("init", "-q", "-b", "main")
    states = [
        ("# first", ""),
        ("# second", ""),
        ("def (", ""),
        ("# bug", "'gelu-for-silu'"),
        ("# more", "'gelu-for-silu'"),
        ("# last", "'gelu-for-silu'"),
    ]
    for what, fault in states:
        (toy / "toy_backend.py").write_text(TOY.format(what=what, fault=fault))
        git("add", "-A")
        git("commit", "-q", "-m", what)
    git("bisect", "start", "HEAD", "HEAD~5")
    command = [sys.executable, "-B", "-m", "moe_harness", "recheck", str(path), "--backend", "toy_backend:backend"]
    environment = {**os.environ, "PYTHONPATH": f"{toy}{os.pathsep}{REPO}"}
    done = subprocess.run(["git", "-C", str(toy), "bisect", "run", *command], capture_output=True, text=True, env=environment, check=False)
    log = git("bisect", "log")
    assert "first bad commit" in done.stdout + log or "possible first bad commit" in log, done.stdout + done.stderr
    # The commit before the bug cannot be tested, so git names the two: nothing else can be known.
    assert "# bug" in log and "'# last'" not in log.splitlines()[-1]
