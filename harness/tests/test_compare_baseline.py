"""The last green run: which one it is, and why the newer ones are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records.frame import load_frame
from moe_harness.records.record import Recorder
from moe_harness.report.compare.baseline import last_green
from moe_harness.tests.report_samples import ENVIRONMENT, check, plan_item, write_run

PLACE = ("native", "mixtral", "bfloat16")
GOOD = check("ROUTE-01", *PLACE)
BAD = check("ROUTE-01", *PLACE, status="FAIL", reason="nmse = 1 (bound 0.0073)")


def selected(directory: Path, keyword: str) -> Path:
    with Recorder(directory) as recorder:
        command = ["moe-harness", "run", "-k", keyword]
        recorder.write("run", run_id=directory.name, command=command, environment=ENVIRONMENT, requested={})
        recorder.write("plan", items=[plan_item(GOOD)])
        recorder.write("check", **GOOD)
        recorder.write("end", exit_status=0)
    return directory


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """Oldest first; the newest is the one that asks."""
    write_run(tmp_path / "01-green", [GOOD])
    write_run(tmp_path / "02-red", [BAD], end=1)
    write_run(tmp_path / "03-killed", [GOOD], end=None)
    write_run(tmp_path / "04-other", [check("ROUTE-01", "te", "mixtral", "bfloat16")])
    write_run(tmp_path / "05-nothing", [check("ROUTE-01", *PLACE, status="UNAVAILABLE", reason="no library", metrics=[])])
    selected(tmp_path / "06-part", "ROUTE")
    unreadable = tmp_path / "07-unreadable"
    unreadable.mkdir()
    (unreadable / "records-1.jsonl").write_text("{}\n")
    write_run(tmp_path / "08-now", [BAD], end=1)
    return tmp_path


def test_the_newest_that_fits_and_why_not_the_others(history: Path) -> None:
    found = last_green(history, load_frame([history / "08-now"]))
    reasons = dict(found.passed_over)
    assert (
        found.run is not None
        and found.run.directory == history / "01-green"
        and [name[:2] for name in reasons] == ["07", "06", "05", "04", "03", "02"]
    )
    expected = {
        "02": "FAIL",
        "03": "INCOMPLETE",
        "04": "asked for other backends: te",
        "05": "nothing passed",
        "06": "-k ROUTE",
        "07": "unreadable",
    }
    for name, reason in reasons.items():
        assert expected[name[:2]] in reason and name in found.sentence


def test_a_later_run_is_no_baseline(history: Path) -> None:
    write_run(history / "09-later", [GOOD])
    found = last_green(history, load_frame([history / "08-now"]))
    assert found.run is not None and found.run.directory == history / "01-green" and "09-later" not in dict(found.passed_over)


def test_a_run_without_benchmarks_is_no_baseline_for_one_with(history: Path, tmp_path: Path) -> None:
    from moe_harness.tests.report_samples import bench

    now = write_run(tmp_path / "10-bench", [GOOD, bench("decode", *PLACE, 0.01)])
    found = last_green(history, load_frame([now]))
    assert found.run is None and "it has no bench" in dict(found.passed_over)["01-green"]


def called(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(application(), [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_diff_and_report_against_it(history: Path, tmp_path: Path) -> None:
    now = history / "08-now"
    code, output = called("diff", "--baseline", "last-green", "--history", history, now)
    assert code == 1 and "01-green, the last green run" in output and "passed over 02-red" in output and "New failures (1)" in output
    code, output = called("report", now, "--out", tmp_path / "out", "--baseline", "last-green", "--history", history)
    assert code == 1 and "01-green, the last green run" in output and (tmp_path / "out" / "diff.md").is_file()
    code, output = called("report", history / "01-green", "--out", tmp_path / "out", "--baseline", history / "02-red")
    assert code == 0 and "1 fixed" in output


def test_a_green_run_that_lost_a_check_is_exit_1(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "01", [GOOD, check("ROUTE-02", *PLACE)])
    now = write_run(tmp_path / "runs" / "02", [GOOD])
    code, output = called("report", now, "--out", tmp_path / "out", "--baseline", "last-green", "--history", tmp_path / "runs")
    assert code == 1 and "Vanished" in output


def test_without_a_green_run_it_says_so(tmp_path: Path) -> None:
    now = write_run(tmp_path / "runs" / "01", [GOOD])
    code, output = called("diff", now, "--baseline", "last-green", "--history", tmp_path / "runs")
    assert code == 0 and "no green run" in output
    code, output = called("diff", now, "--baseline", "last-green", "--history", tmp_path / "nowhere")
    assert code == 2 and "no such directory of runs" in output
