"""Benchmarks: behind the gate, beside pytest-benchmark's own flags. On a golden model, so that a run takes seconds."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from moe_harness.bench.timing import FEWEST_ROUNDS, MOST_ROUNDS
from moe_harness.cases.cases import golden_root
from moe_harness.implementations.interface import Model
from moe_harness.records.record import read_run
from moe_harness.suite.subject import Subject, Workshop

pytest_plugins = ["pytester"]
HONEST = "moe_harness.mutants.catalogue:backend"
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
    result, found = bench(pytester, "--backend", HONEST, "-k", "router or tpot")
    result.assert_outcomes(passed=2)
    assert sorted(found) == ["router", "tpot"]
    for record in found.values():
        assert record["status"] == "PASS" and FEWEST_ROUNDS <= len(record["samples"]) <= MOST_ROUNDS and min(record["samples"]) > 0
        assert record["tokens"] > 0 and record["parameters"]["cache"] == "warm" and record["first_call_s"] > 0
        assert record["warmup"] >= 0 and record["canary"].keys() == {"before", "after", "reference", "tolerance", "disturbed"}
        for gate in ("gate", "gate_after"):
            assert record[gate] and all(metric["value"] <= metric["bound"] for metric in record[gate])


def test_a_wrong_model_gets_void_and_no_number(pytester: pytest.Pytester) -> None:
    result, found = bench(pytester, "--backend", f"{HONEST}:gate-up-swapped", "-k", "router or tpot")
    result.assert_outcomes(failed=2)
    for record in found.values():
        assert record["status"] == "VOID" and record["samples"] == [] and "the timed model is wrong" in record["reason"]


def test_pytest_benchmarks_own_flags_keep_working(pytester: pytest.Pytester) -> None:
    bench(pytester, "--backend", HONEST, "-k", "router", "--benchmark-json=out.json", "--benchmark-columns=median")[0].assert_outcomes(
        passed=1
    )
    (entry,) = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert entry["extra_info"]["backend"] == HONEST and entry["stats"]["rounds"] >= FEWEST_ROUNDS
    percentiles = entry["extra_info"]["percentiles"]
    assert percentiles["p50"]["low"] <= percentiles["p50"]["value"] <= percentiles["p50"]["high"]
    assert "value" in percentiles["p99"] or "needs 299 rounds" in percentiles["p99"]["reason"]


def test_the_records_samples_are_what_pytest_benchmark_saw(pytester: pytest.Pytester) -> None:
    _, found = bench(pytester, "--backend", HONEST, "-k", "router", "--benchmark-json=out.json")
    (entry,) = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    samples = found["router"]["samples"]
    assert len(samples) == entry["stats"]["rounds"] and entry["stats"]["min"] == pytest.approx(min(samples), rel=0.05)


def test_saved_runs_are_compared(pytester: pytest.Pytester) -> None:
    saving = ("--backend", HONEST, "-k", "router", "--benchmark-autosave")
    bench(pytester, *saving)[0].assert_outcomes(passed=1)
    result, _ = bench(pytester, *saving, "--benchmark-compare")
    result.stderr.fnmatch_lines(["*Comparing against benchmarks from*"])
    result.stdout.fnmatch_lines(["*test_router*NOW*"])


def test_a_wrong_choice_of_experts_gets_void(pytester: pytest.Pytester) -> None:
    """Ranks 2 to k + 1: with the model's own experts pinned in the oracle, its outputs are right."""
    _, found = bench(pytester, "--backend", f"{HONEST}:rank-off-by-one", "-k", "router")
    assert found["router"]["status"] == "VOID" and "uncertified_selections" in found["router"]["reason"]


@pytest.mark.parametrize("flag", ["--benchmark-disable", "--benchmark-skip"])
def test_switched_off_timing_is_no_pass(pytester: pytest.Pytester, flag: str) -> None:
    result, found = bench(pytester, "--backend", HONEST, "-k", "router", flag)
    result.assert_outcomes(skipped=1)
    assert [record["status"] for record in found.values()] == ["UNSUPPORTED"]


def test_without_the_flag_no_benchmark_runs(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("-q", "--pyargs", "moe_harness.bench", "--backend", HONEST)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_only_the_timed_subjects_models_are_in_memory(tmp_path: Path) -> None:
    """Each backend's models are closed before the next one's are loaded; between two workloads of one they stay."""
    closed: list[str] = []
    workshop = Workshop(tmp_path)
    for name in ("hf:eager", "hf:eager", "native", "native", "hf:eager"):
        workshop.make_room(
            cast(Subject, SimpleNamespace(backend=SimpleNamespace(name=name), case=SimpleNamespace(name="m"), dtype="bfloat16"))
        )
        workshop._models[name,] = cast(Model, SimpleNamespace(close=lambda name=name: closed.append(name)))
    assert closed == ["hf:eager", "native"]
