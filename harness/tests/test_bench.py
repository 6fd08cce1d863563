"""Benchmarks: behind the gate, beside pytest-benchmark's own flags. On a golden model, so that a run takes seconds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.bench.timing import ROUNDS
from harness.cases import golden_root
from harness.record import read_run

pytest_plugins = ["pytester"]
HONEST = "harness.faults.catalogue:backend"
CHECKPOINT = str(golden_root() / "mixtral" / "checkpoint")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this test run were not itself an xdist worker, under which pytest-benchmark does not time."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def bench(pytester: pytest.Pytester, *arguments: str) -> tuple[pytest.RunResult, dict[str, dict[str, Any]]]:
    """The run and its bench records by workload."""
    result = pytester.runpytest_subprocess(
        "-q", "--benchmark", "--run-dir=run", f"--checkpoint={CHECKPOINT}", "--dtype=float32", *arguments
    )
    directory = pytester.path / "run"
    records = read_run(directory) if directory.exists() else []
    return result, {record["workload"]: record for record in records if record["type"] == "bench"}


def test_workloads_are_gated_timed_and_recorded(pytester: pytest.Pytester) -> None:
    result, found = bench(pytester, "--backend", HONEST)
    result.assert_outcomes(passed=3)
    assert sorted(found) == ["decode", "moe_block", "prefill"]
    for record in found.values():
        assert record["status"] == "PASS" and len(record["samples"]) == ROUNDS and min(record["samples"]) > 0
        assert record["tokens"] > 0 and all(metric["value"] <= metric["bound"] for metric in record["gate"])


def test_a_wrong_model_gets_void_and_no_number(pytester: pytest.Pytester) -> None:
    result, found = bench(pytester, "--backend", f"{HONEST}:gate-up-swapped")
    result.assert_outcomes(failed=3)
    for record in found.values():
        assert record["status"] == "VOID" and record["samples"] == [] and "the timed model is wrong" in record["reason"]


def test_pytest_benchmarks_own_flags_keep_working(pytester: pytest.Pytester) -> None:
    bench(pytester, "--backend", HONEST, "-k", "prefill", "--benchmark-json=out.json", "--benchmark-columns=median")[0].assert_outcomes(
        passed=1
    )
    (entry,) = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert entry["extra_info"]["backend"] == HONEST and entry["stats"]["rounds"] == ROUNDS


@pytest.mark.parametrize("flag", ["--benchmark-disable", "--benchmark-skip"])
def test_switched_off_timing_is_no_pass(pytester: pytest.Pytester, flag: str) -> None:
    result, found = bench(pytester, "--backend", HONEST, "-k", "moe_block", flag)
    result.assert_outcomes(skipped=1)
    assert [record["status"] for record in found.values()] == ["UNSUPPORTED"]


def test_without_the_flag_no_benchmark_runs(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("-q", "--pyargs", "harness.bench", "--backend", HONEST)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
