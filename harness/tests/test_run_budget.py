"""`--budget`: what is asked first, and that what does not fit is neither started nor forgotten."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records.frame import load_frame
from moe_harness.records.record import Recorder, read_run
from moe_harness.report.verdict import verdict
from moe_harness.run import budget

HONEST = "moe_harness.mutants.catalogue:backend"
HANGS = "moe_harness.implementations.tests.toy_misbehaves:backend:hang"


@pytest.mark.parametrize(("text", "seconds"), [("45m", 2700), ("1h30m", 5400), ("90s", 90), ("90", 90), ("0.5h", 1800), ("0s", 0)])
def test_durations(text: str, seconds: float) -> None:
    assert budget.seconds(text) == seconds


@pytest.mark.parametrize("text", ["soon", "", "-5m", "5 m", "5x", "m", "5m!"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        budget.seconds(text)


def test_tiers_are_a_greedy_cover() -> None:
    kills = {"a": {"R-1"}, "b": {"R-1", "R-2"}, "c": {"R-1"}, "d": {"R-2"}, "e": {"R-3", "R-4"}, "f": {"R-4"}}
    found = budget.tiers({fault: frozenset(checks) for fault, checks in kills.items()})
    assert found == {"R-1": 0, "R-4": 1, "R-2": 1, "R-3": 1}


def test_the_first_tier_of_the_catalogue_is_short_and_kills_half_of_it() -> None:
    kills = budget.catalogue()
    tiers = budget.tiers(kills)
    first = {check for check, tier in tiers.items() if tier == 0}
    assert sum(bool(checks & first) for checks in kills.values()) >= len(kills) / 2
    assert len(first) <= len(tiers) / 3 and set(tiers) == {check for checks in kills.values() for check in checks}
    assert budget.tiers(dict(reversed(kills.items()))) == tiers


class Item:
    """What the plug-in looks at of a pytest item."""

    def __init__(self, name: str, clause: str | None):
        self.name, self._clause, self.path = name, clause, Path("x.py")

    def get_closest_marker(self, name: str) -> Any:
        return pytest.mark.clause(self._clause, "").mark if self._clause else None


def test_order_is_by_tier_and_else_as_it_was() -> None:
    tiers = budget.tiers(budget.catalogue())
    early, late = (next(check for check, tier in sorted(tiers.items()) if tier == wanted) for wanted in (0, 1))
    items: Any = [Item("a", late), Item("b", None), Item("c", early), Item("d", "NEW-01"), Item("e", late), Item("f", early)]
    assert "".join(item.name for item in budget.ordered(items)) == "cfaebd"
    assert "".join(item.name for item in budget.ordered(items, 2)) == "cab" + "fed"  # two workers, each with its part of every tier


def test_nothing_of_ours_starts_after_the_deadline_and_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(budget.time, "time", lambda: now)
    plugin, item = budget.Budget(60, own=lambda path: True, given={}), Item("a", "ROUTE-01")
    assert plugin.pytest_runtest_protocol(item) is None  # type: ignore[arg-type]
    now = 1060.0
    assert plugin.pytest_runtest_protocol(item) is True and plugin.left_out == 1  # type: ignore[arg-type]
    assert budget.Budget(0, own=lambda path: False, given={}).pytest_runtest_protocol(item) is None  # type: ignore[arg-type]


def called(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(application(), [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_a_run_without_time_left_names_all_that_it_owes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = called("run", "--backend", HONEST, "-k", "ROUTE-09 and mixtral", "--budget", "0s", "--workers", 2, "--run-dir", "run")
    kinds = [record["type"] for record in read_run(Path("run"))]
    assert code == 4 and "INCOMPLETE" in output and "plan" in kinds and "end" in kinds and "check" not in kinds
    assert "not started within the budget" in Path("reports/latest/junit.xml").read_text()


def test_a_run_with_time_enough_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = called("run", "--backend", HONEST, "-k", "ROUTE-09 and mixtral", "--budget", "10m", "--workers", 0, "--run-dir", "run")
    assert code == 0 and "PASS" in output, output
    (sealed,) = re.findall(r"^seal: ([0-9a-f]{64})$", output, re.MULTILINE)
    code, output = called("report", "--verify", "run", "--seal", sealed)
    assert code == 0 and "every number follows" in output and "no seal" not in output, output


def test_a_backend_that_hangs_does_not_outlast_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deaf to SIGTERM, in the process of its checks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moe_harness.run.launch.OVERRUN_S", 1.0)
    began = time.monotonic()
    code, output = called("run", "--backend", HANGS, "-k", "BLOCK and mixtral", "--budget", "12s", "--workers", 0, "--run-dir", "run")
    assert code == 4 and "INCOMPLETE" in output and "over by 1 s with a check still under way" in output, output
    assert time.monotonic() - began < 30 and {record["type"] for record in read_run(Path("run"))} >= {"run", "plan"}


def test_pytest_by_itself_is_not_green_either(tmp_path: Path, pytester_command: Any) -> None:
    done = pytester_command(
        "--backend", HONEST, "-k", "ROUTE-09 and mixtral and float32", "--budget", "0", "--run-dir", str(tmp_path / "run")
    )
    assert done.returncode == 1 and "1 not started" in done.stdout


@pytest.fixture
def pytester_command(tmp_path: Path) -> Any:
    import subprocess
    import sys

    def call(*arguments: str) -> Any:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        path = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", ""))))
        return subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)

    return call


def test_a_bad_budget_is_exit_2_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = called("run", "--backend", HONEST, "--budget", "soon")
    assert code == 2 and "'soon' is no duration" in output and not Path("reports").exists()


def test_a_killed_run_is_not_said_to_have_run_out_of_budget(tmp_path: Path) -> None:
    item = {"node": "n", "check": "ROUTE-01", "backend": "b", "case": "c", "dtype": "d", "title": ""}
    for name, ended in (("killed", False), ("ended", True)):
        with Recorder(tmp_path / name) as recorder:
            recorder.write("run", run_id=name, command=[], environment={}, requested={"budget": 60.0})
            recorder.write("plan", items=[item])
            if ended:
                recorder.write("end", exit_status=0)
    reasons = {name: load_frame([tmp_path / name]).rows["reason"][0] for name in ("killed", "ended")}
    assert "killed" in reasons["killed"] and "budget of 60 s" in reasons["ended"]
    assert all(verdict(load_frame([tmp_path / name])).code == 4 for name in reasons)
