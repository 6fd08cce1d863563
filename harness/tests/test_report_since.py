"""What the report says of an earlier run: new, fixed, gone, slower, other versions; and that it does not invent any of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records.frame import Frame, load_frame
from moe_harness.report.build import build
from moe_harness.report.compare.diff import Diff, since
from moe_harness.report.failures import groups
from moe_harness.report.markdown import markdown
from moe_harness.report.page import page
from moe_harness.report.sections.since import facts
from moe_harness.report.trend import trends
from moe_harness.tests.report_samples import ENVIRONMENT, bench, check, write_run

WRONG = {"status": "FAIL", "reason": "weights sum to 0.588"}


def one(name: str = "ROUTE-01", **fields: Any) -> dict[str, Any]:
    return check(name, "native", "mixtral", "float32", **fields)


def steady(seconds: float, backend: str = "native") -> dict[str, Any]:
    samples = [seconds * (1 + 1e-4 * step) for step in range(-4, 4)]
    return bench("decode", backend, "mixtral", "float32", seconds) | {"samples": samples}


def compared(root: Path, before: list[dict[str, Any]], after: list[dict[str, Any]], **environment: Any) -> Diff:
    base, run = write_run(root / "base", before), write_run(root / "run", after, environment=environment)
    found = since(load_frame([run], [base]))
    assert found is not None
    return found


def names(found: Diff, kind: str) -> list[str]:
    return [f"{outcome.key.check} {outcome.before} {outcome.after}" for outcome in found.of(kind)]


def test_new_fixed_and_vanished_are_told_apart(tmp_path: Path):
    before = [one("ROUTE-01"), one("ROUTE-02", **WRONG), one("ROUTE-03", **WRONG), one("ROUTE-04"), one("ROUTE-05")]
    gap = {"status": "UNSUPPORTED", "reason": "no longer"}
    after = [one("ROUTE-01", **WRONG), one("ROUTE-02"), one("ROUTE-03", **WRONG), one("ROUTE-05", **gap), one("ROUTE-06", **WRONG)]
    found = compared(tmp_path, before, after)
    assert names(found, "new failure") == ["ROUTE-01 PASS FAIL", "ROUTE-06 not asked FAIL"]
    assert names(found, "fixed") == ["ROUTE-02 FAIL PASS"]
    assert names(found, "vanished") == ["ROUTE-04 PASS not asked"]
    assert names(found, "status changed") == ["ROUTE-05 PASS UNSUPPORTED"]


def test_a_place_is_one_backend_case_and_dtype(tmp_path: Path):
    """The same clause fails on another model: that is new."""
    before = [one(**WRONG), check("ROUTE-01", "native", "qwen3_moe", "float32")]
    after = [one(), check("ROUTE-01", "native", "qwen3_moe", "float32", **WRONG)]
    found = compared(tmp_path, before, after)
    assert names(found, "new failure") == ["ROUTE-01 PASS FAIL"] and found.of("new failure")[0].key.case == "qwen3_moe"


def test_without_an_earlier_run_nothing_is_compared(tmp_path: Path):
    frame = load_frame([write_run(tmp_path / "run", [one(**WRONG)])])
    assert since(frame) is None and groups(frame)[0].new is None
    assert "no earlier run to compare with" in page(frame)


def test_equal_runs_have_no_change(tmp_path: Path):
    records = [one(), one("ROUTE-02", **WRONG), steady(0.1)]
    found = compared(tmp_path, records, records)
    assert found.sentence == "1 still failing, 1 equivalent" and not (found.new or found.paces or found.surroundings)
    assert "no check or speed changed" in page(load_frame([tmp_path / "run"], [tmp_path / "base"]))


def test_versions_that_differ_are_named(tmp_path: Path):
    packages = ENVIRONMENT["packages"] | {"torch": "2.14.0", "triton": "3.9"}
    found = facts(compared(tmp_path, [one()], [one()], packages=packages, commit="feedbeef00" * 4, dirty=True))
    versions = [("torch", "2.13.0+cpu", "2.14.0"), ("triton", "absent", "3.9")]
    assert found == [*versions, ("commit", "d876d2164b", "feedbeef00"), ("dirty", "no", "yes")]


@pytest.mark.parametrize(("after", "noticed"), [(0.1, False), (0.103, False), (0.108, True), (0.09, True)])
def test_a_speed_changed_if_its_interval_excludes_one_and_the_change_is_worth_a_look(tmp_path: Path, after: float, noticed: bool):
    found = compared(tmp_path, [steady(0.1)], [steady(after)])
    assert [round(change.factor, 3) for change in found.paces] == ([round(after / 0.1, 3)] if noticed else [])


def test_speeds_of_another_machine_are_not_compared(tmp_path: Path):
    found = compared(tmp_path, [steady(0.1)], [steady(0.2)], hostname="other")
    assert not found.paces and ("hostname", "bench-01", "other") in facts(found)
    text = page(load_frame([tmp_path / "run"], [tmp_path / "base"]))
    assert "1 more speed differs" in text and "Void and slower" not in text.partition("timed on another machine")[2]


def test_overlapping_speeds_are_not_compared(tmp_path: Path):
    wide = steady(0.12) | {"samples": [0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3]}
    assert not compared(tmp_path, [steady(0.1)], [wide]).paces


def test_new_failures_stand_before_old_ones_and_are_marked(tmp_path: Path):
    before, after = [one("ROUTE-01", **WRONG), one("ROUTE-02")], [one("ROUTE-01", **WRONG), one("ROUTE-02", **WRONG)]
    base, run = write_run(tmp_path / "base", before, end=1), write_run(tmp_path / "run", after, end=1)
    found = groups(load_frame([run], [base]))
    assert [(group.worst["check"], group.new) for group in found] == [("ROUTE-02", True), ("ROUTE-01", False)]
    assert page(load_frame([run], [base])).count('class="tag new"') == 1


def test_several_base_runs_are_merged(tmp_path: Path):
    """A night of two machines against a night of two machines."""
    te = check("ROUTE-01", "te", "mixtral", "float32")
    bases = [write_run(tmp_path / "a", [one()]), write_run(tmp_path / "b", [te])]
    runs = [write_run(tmp_path / "c", [one()]), write_run(tmp_path / "d", [te | WRONG])]
    found = since(load_frame(runs, bases))
    assert found is not None and names(found, "new failure") == ["ROUTE-01 PASS FAIL"] and not found.of("vanished")


def test_the_markdown_says_the_same(tmp_path: Path):
    base, run = (
        write_run(tmp_path / "base", [one(), one("ROUTE-02", **WRONG)]),
        write_run(tmp_path / "run", [one(**WRONG), one("ROUTE-02")]),
    )
    text = markdown(load_frame([run], [base]))
    assert "1 new failure, 1 fixed." in text
    assert "| new failure | ROUTE-01 native mixtral float32 | PASS | FAIL |" in text and "| fixed | ROUTE-02" in text
    assert "Since" not in markdown(load_frame([run]))


def test_the_command_takes_a_base(tmp_path: Path):
    base, run = write_run(tmp_path / "base", [one()]), write_run(tmp_path / "run", [one(**WRONG)], end=1)
    done = CliRunner().invoke(application(), ["report", str(run), "--baseline", str(base), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1 and "1 new failure" in (tmp_path / "out" / "index.html").read_text()
    again = CliRunner().invoke(application(), ["report", str(run), "--baseline", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    assert again.exit_code == 2


def test_a_run_is_not_compared_with_itself(tmp_path: Path):
    run = write_run(tmp_path / "run", [one()])
    with pytest.raises(ValueError, match="run given twice: run"):
        build(load_frame([run], [run]), tmp_path / "out")


def nights(root: Path, seconds: list[float]) -> Frame:
    """The last night, as a site shows it: with those before."""
    *past, last = (load_frame([write_run(root / f"night{number:02}", [steady(value)])]) for number, value in enumerate(seconds))
    return replace(last, past=tuple(past))


def test_a_step_of_a_speed_is_marked_where_it_began(tmp_path: Path):
    frame = nights(tmp_path, [0.1 + 0.0003 * (night % 3) + 0.02 * (night >= 6) for night in range(12)])
    _, trend = trends(frame)
    assert [point.step for point in trend.points] == [night == 6 for night in range(12)]
    assert trend.steps == ("+19.9% from night06",)
    text = page(frame)
    assert "+19.9% from night06" in text and text.count('<path d="M') == 1


def test_noise_and_few_nights_have_no_step(tmp_path: Path):
    for name, seconds in {"noise": [0.1 + 0.003 * (night % 3) for night in range(12)], "few": [0.1] * 3 + [0.2] * 4}.items():
        assert trends(nights(tmp_path / name, seconds))[1].steps == ()
