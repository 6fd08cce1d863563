"""Backends in workers, judged by the harness: the same verdict as in this process, one record a misbehaviour, readable usage errors."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records.record import read_run
from moe_harness.suite.hosts import parse

TOY = "moe_harness.implementations.tests.toy_backend:backend"
MISBEHAVES = "moe_harness.implementations.tests.toy_misbehaves:backend"
HERE = sys.executable
CHOOSER = """from dataclasses import replace
from moe_harness.emulator.subject import SubjectBackend


class Chooser(SubjectBackend):
    def capabilities(self):
        return replace(super().capabilities(), execution="device", devices=("cpu", "cuda"))


def backend(variant=None):
    return Chooser("chooser:backend")
"""


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def judged(directory: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and check records of a run."""
    result = CliRunner().invoke(application(), ["run", f"--run-dir={directory}", "--workers=0", *arguments])
    return result.exit_code, [record for record in read_run(directory) if record["type"] == "check"]


def test_each_misbehaviour_costs_one_record(empty: Path) -> None:
    """BLOCK-01 calls moe_block, which misbehaves; PARITY-02 comes after it, on the same model, and does not: it needs a living one."""
    ends = {
        "abort": ("CRASHED", "died of SIGABRT"),
        "exit": ("CRASHED", "ended with exit code 3"),
        "disturb": ("CRASHED", "sent a malformed reply"),
        "hang": ("TIMEOUT", "did not end moe_block within 3 s"),
        "flood": ("PASS", ""),
    }
    words = [word for act in ends for word in ("--backend", f"{MISBEHAVES}:{act}", "--python", f"{MISBEHAVES}:{act}={HERE}")]
    code, checks = judged(empty / "run", *words, "--dtype=float32", "--timeout=3", "-k", "mixtral and (BLOCK-01 or PARITY-02)")
    found = {(record["backend"].rpartition(":")[2], record["check"]): record for record in checks}
    assert code == 1 and len(found) == len(checks) == 2 * len(ends)
    for act, (status, reason) in ends.items():
        block, parity = found[act, "BLOCK-01"], found[act, "PARITY-02"]
        assert block["status"] == status and reason in block["reason"], block["reason"]
        assert parity["status"] == "PASS" and parity["time"] > block["time"], parity["reason"]
        assert block["execution_note"] == f"worker: Python {sys.version.split()[0]}, numpy {np.__version__}"
        assert f"--python={MISBEHAVES}:{act}={HERE}" in block["reproduce"] and "--timeout=3" in block["reproduce"]


def test_a_death_under_hypothesis_is_told_as_what_it_is(empty: Path) -> None:
    """Hypothesis repeats what failed, on a model that is dead by then; the same failure must come again, or it would call it flaky."""
    name = f"{MISBEHAVES}:abort:route"
    words = ("--backend", name, "--python", f"{name}=", "--dtype=float32")
    code, checks = judged(empty / "run", *words, "-k", "mixtral and (ROUTE-09 or PARITY-02)")
    found = {record["check"]: record for record in checks}
    assert code == 1 and found["ROUTE-09"]["status"] == "CRASHED" and found["PARITY-02"]["status"] == "PASS"
    assert found["ROUTE-09"]["reason"].startswith(f"WorkerCrashed: the worker of {name} died of SIGABRT during route")


def test_a_worker_that_never_starts_is_recorded_not_refused(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (empty / "aborts.py").write_text("import os; os._exit(7)")
    words = ("--backend", "aborts:backend", "--python", "aborts:backend=", "--dtype=float32")
    code, checks = judged(empty / "run", *words, "-k", "mixtral and (BLOCK-01 or ROUTE-09)")
    assert code == 1 and [record["status"] for record in checks] == ["CRASHED", "CRASHED"]


@pytest.mark.parametrize(("device", "statuses"), [("cpu", {"UNAVAILABLE"}), ("cuda", {"UNSUPPORTED"})])
def test_a_device_that_was_not_asked_for_is_not_required_in_vain(empty: Path, monkeypatch: Any, device: str, statuses: set[str]) -> None:
    """A backend that could run on a device, loaded onto the cpu, does not fulfil --require device. (The toy refuses cuda.)"""
    (empty / "chooser.py").write_text(CHOOSER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(empty), prepend=":")
    words = ("--backend=chooser:backend", f"--device={device}", "--require=device", "--dtype=float32", "-k", "ROUTE-04 and mixtral")
    code, checks = judged(empty / "run", *words)
    assert {record["status"] for record in checks} == statuses and (code == 3) == (device == "cpu")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the native backend needs the extra `native`")
def test_native_gets_the_same_verdict_in_a_worker(empty: Path) -> None:
    """Bit for bit the same outputs, so the same measured values, also of generation and in bfloat16."""
    asked = ("--backend=native", "-k", "mixtral and (BLOCK-01 or GEN-01 or PARITY-02 or CACHE-01)")
    (code, here), (_, there) = judged(empty / "here", *asked), judged(empty / "there", *asked, f"--python=native={HERE}")
    measured = [{(r["check"], r["dtype"]): (r["status"], r["metrics"], r["evidence"]) for r in records} for records in (here, there)]
    assert code == 0 and measured[0] == measured[1]
    assert {("GEN-01", "float32"), ("PARITY-02", "bfloat16")} <= set(measured[0])
    assert all(record["execution_note"].startswith("worker: Python ") for record in there)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", TOY, "--python", f"{TOY}=/nowhere/python"], "no such interpreter: /nowhere/python"),
        (["--backend", TOY, "--python", f"native={HERE}"], "no backend 'native' in this run"),
        (["--backend", "nope", "--python", f"nope={HERE}"], "unknown backend 'nope'"),
        (["--backend", TOY, "--timeout", "3"], "a timeout of calls needs a backend in a worker"),
        (["--backend", TOY, "--python", f"{TOY}=", "--timeout", "-1"], "must be positive"),
    ],
)
def test_bad_options_are_usage_errors(empty: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(application(), ["run", "--run-dir", "run", *arguments])
    assert result.exit_code == 2 and message in capfd.readouterr().err and not Path("run").exists()


def test_python_words() -> None:
    assert parse(["a:b=/x/y=z", "c="], ["c", "a:b"]) == {"a:b": "/x/y=z", "c": ""}
    for words, message in ((["a"], "expected NAME=PATH"), (["=x"], "expected NAME=PATH"), (["a=x", "a=y"], "has an interpreter already")):
        with pytest.raises(ValueError, match=message):
            parse(words, ["a"])
