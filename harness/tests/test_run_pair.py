"""`--pair A B` on a golden model: two backends in turn, behind both gates, the same work, and what becomes of the answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from moe_harness.bench.compare import again
from moe_harness.bench.same_work import FARTHEST, arrays, declared_difference, sameness
from moe_harness.bench.workload import Workload
from moe_harness.cases.cases import golden_root
from moe_harness.cli.bench import pair_line
from moe_harness.implementations.interface import StepOutput
from moe_harness.records.record import read_run

pytest_plugins = ["pytester"]
HONEST = "moe_harness.mutants.catalogue:backend"
OTHERS = "moe_harness.tests.pair_models:backend"
Records = list[dict[str, Any]]
CHECKPOINT = str(golden_root() / "mixtral" / "checkpoint")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this test run were not itself an xdist worker, under which pytest-benchmark does not time."""
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)


def paired(pytester: pytest.Pytester, a: str, b: str, *arguments: str) -> tuple[pytest.RunResult, Records, Records]:
    """The run, its `pair` records and its `bench` records."""
    options = (
        "-q",
        "--benchmark",
        "--pair",
        a,
        b,
        "-k",
        "moe_block and float32-64",
        "--run-dir=run",
        f"--checkpoint={CHECKPOINT}",
        "--dtype=float32",
    )
    result = pytester.runpytest_subprocess(*options, *arguments)
    directory = pytester.path / "run"
    if not directory.exists():
        return result, [], []
    records = read_run(directory)
    pairs, benchmarks = ([each for each in records if each["type"] == kind] for kind in ("pair", "bench"))
    return result, pairs, benchmarks


def test_one_backend_twice(pytester: pytest.Pytester) -> None:
    """Both arms are one object; whatever the load of this machine, it is not slower than itself, twice."""
    result, (pair,), (bench,) = paired(pytester, HONEST, HONEST, "--benchmark-json=out.json")
    result.assert_outcomes(passed=1)
    assert pair["verdict"] in ("equivalent", "inconclusive") and pair["status"] == bench["status"] == "PASS"
    assert pair["sameness"] == {"routing": 1.0, "distance": 0.0, "difference": ""} and pair["parameters"]["cache"] == "interleaved"
    assert np.shape(pair["samples_a"]) == np.shape(pair["samples_b"]) and len(pair["samples_a"]) == sum(pair["blocks"])
    assert vars(again(pair)).items() <= pair.items() and "equivalent" in pair_line(pair) or "inconclusive" in pair_line(pair)
    (entry,) = json.loads((pytester.path / "out.json").read_text())["benchmarks"]
    assert entry["extra_info"]["verdict"] == pair["verdict"] and entry["stats"]["rounds"] == pair["blocks"][0] * len(pair["samples_b"][0])


def test_twice_the_work_is_slower_and_gates(pytester: pytest.Pytester) -> None:
    result, (pair,), (bench,) = paired(pytester, HONEST, f"{OTHERS}:slower")
    result.assert_outcomes(failed=1)
    assert pair["verdict"] == "slower" and len(pair["blocks"]) == 2 and pair["ratio"] > 1.5
    assert bench["status"] == "FAIL" and "in two series" in bench["reason"] and bench["backend"] == f"{OTHERS}:slower"


def test_half_the_work_is_faster_and_does_not(pytester: pytest.Pytester) -> None:
    result, (pair,), _ = paired(pytester, f"{OTHERS}:slower", HONEST)
    result.assert_outcomes(passed=1)
    assert pair["verdict"] == "faster" and pair["high"] < 1


@pytest.mark.parametrize(
    "a, b, sentence",
    [
        (HONEST, f"{HONEST}:gate-up-swapped", "gate-up-swapped: no number: the timed model is wrong"),
        (f"{HONEST}:gate-up-swapped", HONEST, "gate-up-swapped: no number: the timed model is wrong"),
        (HONEST, f"{OTHERS}:lazy", "not the same work: the outputs of one step"),
        (HONEST, f"{OTHERS}:failing", "failing: no number: after timing, the timed model is wrong"),
    ],
)
def test_no_number_without_the_same_right_work(pytester: pytest.Pytester, a: str, b: str, sentence: str) -> None:
    result, (pair,), (bench,) = paired(pytester, a, b, "--pair-budget=0.2", "--benchmark-json=out.json")
    result.assert_outcomes(failed=1)
    assert pair["status"] == bench["status"] == "VOID" and sentence in pair["reason"]
    assert pair.get("ratio") is None and bench["samples"] == []
    written = pytester.path / "out.json"
    assert not written.exists() or not json.loads(written.read_text() or '{"benchmarks": []}')["benchmarks"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--pair", HONEST, "nonsense"], "nonsense"),
        (["--pair", HONEST, HONEST, "--pair-delta=2"], "delta must lie between 0 and 1"),
        (["--pair", HONEST, HONEST, "--pair-confidence=1"], "a confidence lies between"),
        (["--pair", HONEST, HONEST, "--pair-budget=0"], "a budget is a positive number"),
    ],
)
def test_bad_input_is_one_sentence(pytester: pytest.Pytester, arguments: list[str], sentence: str) -> None:
    result = pytester.runpytest_subprocess("-q", "--benchmark", "--run-dir=run", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{sentence}*"])


def test_a_pair_without_the_benchmarks_is_refused(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_subprocess("-q", "--pair", HONEST, HONEST)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--pair goes with --benchmark*"])


def work(output: Any, tokens: int = 4, **parameters: int) -> Workload:
    return Workload(None, None, lambda: output, None, tokens, parameters)


def test_what_was_declared_must_be_equal() -> None:
    assert declared_difference(work(0), work(0)) == ""
    assert "tokens differ: 4 and 5" in declared_difference(work(0), work(0, tokens=5))
    assert "parameters differ" in declared_difference(work(0, batch=1), work(0, batch=2))


@pytest.mark.parametrize(
    "other, word",
    [
        (np.ones((3, 8), np.float32), "shapes"),
        (np.full((4, 8), np.nan, np.float32), "apart"),
        (np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32), "apart"),
    ],
)
def test_other_outputs_are_other_work(other: np.ndarray, word: str) -> None:
    one = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    assert word in sameness(work(one), work(other)).difference


def test_arrays_of_outputs_are_found_wherever_they_are() -> None:
    logits = np.ones((1, 1, 4), np.float32)
    assert [a.shape for a in arrays([StepOutput(logits), StepOutput(logits)])] == [(1, 1, 4)] * 2
    assert 0.14 < FARTHEST < np.sqrt(2)
