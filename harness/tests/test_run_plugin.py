"""The plug-in in other people's projects and in ours: selection, clashes, records, statuses. Each runs pytest in its own process."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_harness.records.record import read_run
from moe_harness.records.seal import compute, read

pytest_plugins = ["pytester"]
HONEST = "moe_harness.mutants.catalogue:backend"


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Somebody's project with one test and one benchmark of its own."""
    pytester.makepyfile(test_theirs="def test_theirs(): pass\ndef test_their_benchmark(benchmark): benchmark(int)")
    return pytester


def records(project: pytest.Pytester) -> list[dict]:
    run, *more = sorted((project.path / "reports" / "runs").iterdir())
    assert not more
    return read_run(run)


def test_other_projects_run_as_if_we_were_not_there(project: pytest.Pytester) -> None:
    project.runpytest_subprocess("-q").assert_outcomes(passed=2)
    assert not (project.path / "reports").exists()


def test_their_benchmarks_run_beside_our_flag(project: pytest.Pytester) -> None:
    project.runpytest_subprocess("--benchmark", "test_theirs.py").assert_outcomes(passed=2)


def test_conftest_with_the_same_option_keeps_its_own(project: pytest.Pytester) -> None:
    project.makeconftest("def pytest_addoption(parser): parser.addoption('--backend', default='theirs')")
    project.makepyfile(test_option="def test_option(pytestconfig): assert pytestconfig.getoption('--backend') == 'mine'")
    project.runpytest_subprocess("-q", "--backend=mine", "test_option.py").assert_outcomes(passed=1)


def test_clash_is_said_readably_when_our_checks_are_asked_for(project: pytest.Pytester) -> None:
    project.makeconftest("def pytest_addoption(parser): parser.addoption('--backend')")
    result = project.runpytest_subprocess("--pyargs", "moe_harness.checks", "--backend=native")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*a conftest here defines --backend; run moe-harness from another directory*"])


def test_backend_without_a_path_means_our_checks(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("-q", "--backend", HONEST, "-k", "ROUTE-09 and mixtral and float32")
    result.assert_outcomes(passed=1)
    kinds = [record["type"] for record in records(project)]
    assert kinds == ["run", "plan", "selftest", "check", "end"]
    (run,) = (project.path / "reports" / "runs").iterdir()
    assert read(run) == compute(run)


def test_record_holds_metrics_evidence_and_how_to_repeat_it(project: pytest.Pytester) -> None:
    project.runpytest_subprocess("-q", "--backend", HONEST, "-k", "ROUTE-04 and mixtral and float32")
    (check,) = (record for record in records(project) if record["type"] == "check")
    assert (check["status"], check["execution"], check["dtype"], check["case"]) == ("PASS", "emulated", "float32", "mixtral")
    metric = {"name": "uncertified_selections", "value": 0.0, "bound": 0, "noise": None, "visible": None, "kind": "judged"}
    assert metric in check["metrics"]
    assert check["evidence"]["tokens"] >= 64
    assert check["reproduce"].startswith("moe-harness run --backend moe_harness.mutants") and "--device" not in check["reproduce"]


def test_a_failure_on_a_device_is_repeated_there(project: pytest.Pytester) -> None:
    project.runpytest_subprocess("-q", "--backend", HONEST, "--device=cuda:1", "-k", "ROUTE-04 and mixtral and float32")
    (check,) = (record for record in records(project) if record["type"] == "check")
    assert "--device cuda:1" in check["reproduce"]


def test_failure_keeps_its_measured_value(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("-q", "--backend", f"{HONEST}:rank-off-by-one", "-k", "ROUTE-04 and mixtral and float32")
    result.assert_outcomes(failed=1)
    (check,) = (record for record in records(project) if record["type"] == "check")
    assert check["status"] == "FAIL"
    assert "uncertified_selections" in check["reason"]
    assert any(metric["value"] > 0 for metric in check["metrics"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "nope"], "nope"),
        (["--backend", HONEST, "--dtype", "float8"], "expected one of float32, bfloat16, float16"),
        (["--backend", HONEST, "--checkpoint", "missing"], "not a directory"),
        (["--backend", HONEST, "--golden", "missing"], "no golden data"),
        (["--benchmark", "--backend", HONEST, "-n", "2"], "without -n"),
    ],
)
def test_bad_options_are_usage_errors(project: pytest.Pytester, arguments: list[str], message: str) -> None:
    result = project.runpytest_subprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()
    assert not (project.path / "reports").exists()


def test_required_device_that_is_missing_is_exit_3(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("-q", "--require=device", "--backend", HONEST, "-k", "ROUTE-09 and mixtral and float32")
    assert result.ret == 3
    assert [r["status"] for r in records(project) if r["type"] == "check"] == ["UNAVAILABLE"]


def test_check_that_judges_nothing_does_not_pass(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that declares nothing is UNSUPPORTED everywhere, but for what needs no feature: conversion, and what a model declares."""
    project.makepyfile(
        bare="""
        from dataclasses import replace
        from moe_harness.mutants.catalogue import backend as honest
        def backend(variant=None):
            made = honest()
            declared = replace(made.capabilities(), features=())
            class Bare:
                name = "bare"
                capabilities = staticmethod(lambda: declared)
                from_hf, to_hf, load = made.from_hf, made.to_hf, made.load
            return Bare()
        """
    )
    monkeypatch.setenv("PYTHONPATH", str(project.path), prepend=":")
    selected = "mixtral and float32 and not (CONV-01 or CONV-10 or CAP-01)"
    result = project.runpytest_subprocess("-q", "--backend", "bare:backend", "-k", selected)
    assert result.parseoutcomes().keys() <= {"skipped", "deselected"}
    assert {r["status"] for r in records(project) if r["type"] == "check"} == {"UNSUPPORTED"}


def test_xdist_workers_share_one_run(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("-q", "-n", "2", "--backend", HONEST, "-k", "ROUTE-09 and float32 and (mixtral or qwen3_moe)")
    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*moe-harness: 2 PASS*", "records: reports/runs/*"])
    found = records(project)
    assert sum(record["type"] == "check" for record in found) == 2
    commands = [record["command"] for record in found if record["type"] == "run"]
    assert len(commands) >= 2 and all("--backend" in command for command in commands)  # the user's, not xdist's own


def test_xdist_in_other_projects_leaves_nothing(project: pytest.Pytester) -> None:
    project.runpytest_subprocess("-q", "-n", "2").assert_outcomes(passed=2)
    assert not (project.path / "reports").exists()


def test_required_device_that_is_missing_is_exit_3_under_xdist(project: pytest.Pytester) -> None:
    selection = "ROUTE-09 and mixtral and float32"
    assert project.runpytest_subprocess("-q", "-n", "2", "--require=device", "--backend", HONEST, "-k", selection).ret == 3


def test_importing_the_plugin_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    script = (
        "import sys, moe_harness.run.plugin; print(sorted({'numpy', 'torch', 'pandas', 'safetensors', 'matplotlib'} & set(sys.modules)))"
    )
    path = Path(pytester.makepyfile(script))
    assert pytester.runpython(path).stdout.str().strip() == "[]"
