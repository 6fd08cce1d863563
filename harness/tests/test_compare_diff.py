"""What `moe-harness diff` says of two runs, and what it must not say."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records.frame import load_frame
from moe_harness.records.record import Recorder
from moe_harness.report.compare.diff import Diff, compare
from moe_harness.stats.medians import ratio_of_medians, verdict
from moe_harness.tests.report_samples import bench, check, write_run

PLACE = ("native", "mixtral", "bfloat16")
FAIL: dict[str, Any] = {"status": "FAIL", "reason": "nmse = 1 (bound 0.0073)", "metrics": []}


def compared(root: Path, base: list[dict[str, Any]], run: list[dict[str, Any]], **options: Any) -> Diff:
    sides = [load_frame([write_run(root / name, records, end=0)]) for name, records in (("base", base), ("run", run))]
    return compare(sides[0], sides[1], **options)


def kinds(diff: Diff) -> dict[str, str]:
    return {outcome.key.check: outcome.kind for outcome in diff.outcomes}


@pytest.mark.parametrize(
    ("before", "after", "kind", "code"),
    [
        ({}, FAIL, "new failure", 1),
        ({"status": "UNSUPPORTED", "reason": "no cache"}, FAIL, "new failure", 1),
        ({"status": "KNOWN", "reason": "upstream"}, {"status": "CRASHED", "reason": "SIGSEGV"}, "new failure", 1),
        (FAIL, {}, "fixed", 0),
        (FAIL, FAIL, "still failing", 0),
        (FAIL, {"status": "CRASHED", "reason": "SIGSEGV"}, "status changed", 0),
        (FAIL, {"status": "UNSUPPORTED", "reason": "given up"}, "status changed", 0),
        ({}, {"status": "UNSUPPORTED", "reason": "given up"}, "status changed", 0),
        ({}, {"status": "INCONCLUSIVE", "reason": "too few tokens"}, "status changed", 0),
        ({}, None, "vanished", 1),
        (None, {}, "newly asked", 0),
        (None, FAIL, "new failure", 1),
        ({}, {}, None, 0),
    ],
)
def test_every_way_in_which_a_status_moves(tmp_path: Path, before: Any, after: Any, kind: str | None, code: int) -> None:
    sides = [[check("ROUTE-01", *PLACE)] + ([] if found is None else [check("ROUTE-02", *PLACE, **found)]) for found in (before, after)]
    diff = compared(tmp_path, *sides)
    assert kinds(diff) == ({} if kind is None else {"ROUTE-02": kind}) and diff.code == code


def test_what_was_planned_and_not_run_is_neither_vanished_nor_fine(tmp_path: Path) -> None:
    records = [check("ROUTE-01", *PLACE), check("ROUTE-02", *PLACE)]
    base, run = load_frame([write_run(tmp_path / "base", records)]), load_frame([write_run(tmp_path / "run", records[:1], planned=records)])
    diff = compare(base, run)
    assert kinds(diff) == {"ROUTE-02": "not run"} and diff.code == 4


def test_a_moved_file_and_a_renamed_function_are_the_same_check(tmp_path: Path) -> None:
    moved = check("ROUTE-01", *PLACE, node="test_elsewhere.py::test_new_name[native-mixtral-bfloat16]")
    assert compared(tmp_path, [check("ROUTE-01", *PLACE)], [moved]).outcomes == ()


def test_parameters_of_a_check_tell_its_rows_apart(tmp_path: Path) -> None:
    few, many = (check("BLOCK-04", *PLACE, node=f"t.py::test_b[native-mixtral-bfloat16-{count}]") for count in (0, 512))
    assert [o.key.variant for o in compared(tmp_path, [few, many], [few]).of("vanished")] == ["512"]


def test_the_same_backend_on_two_kinds_of_machine_is_two_questions(tmp_path: Path) -> None:
    good, bad = check("ROUTE-01", *PLACE), check("ROUTE-01", *PLACE, **FAIL)
    gpu = {"hostname": "gpu-01", "accelerators": ["H100"]}
    base = load_frame([write_run(tmp_path / "cpu", [good]), write_run(tmp_path / "gpu", [good], environment=gpu)])
    run = load_frame([write_run(tmp_path / "cpu2", [good]), write_run(tmp_path / "gpu2", [bad], environment=gpu)])
    (outcome,) = compare(base, run).outcomes
    assert outcome.kind == "new failure" and outcome.key.hardware == "H100"


def test_surroundings_stand_first_and_name_old_and_new(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", [check("ROUTE-01", *PLACE)])
    changed = {"packages": {"torch": "2.14.0"}, "commit": "f" * 40, "hostname": "bench-02"}
    run = write_run(tmp_path / "run", [check("ROUTE-01", *PLACE, **FAIL)], environment=changed)
    code, output = called("diff", base, run)
    found = {each.name: (each.before, each.after) for each in compare(load_frame([base]), load_frame([run])).surroundings}
    assert found["torch"] == ("2.13.0+cpu", "2.14.0") and found["hostname"] == ("bench-01", "bench-02") and "commit" in found
    assert code == 1 and output.index("Surroundings that changed") < output.index("New failures")


def called(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(application(), [str(argument) for argument in arguments])
    return result.exit_code, result.output


def speed(factor: float = 1.0, seed: str = "", **fields: Any) -> dict[str, Any]:
    rng = random.Random(seed)
    return bench("decode", *PLACE, 0.01, samples=[0.01 * factor * rng.lognormvariate(0, 0.01) for _ in range(12)], **fields)


@pytest.mark.parametrize(("factor", "found"), [(1.0, "equivalent"), (1.2, "slower"), (0.8, "faster"), (1.045, "inconclusive")])
def test_speeds_are_compared_with_an_interval(tmp_path: Path, factor: float, found: str) -> None:
    (change,) = compared(tmp_path, [speed()], [speed(factor, "other")]).speeds
    assert change.verdict == found and change.ratio.low < factor < change.ratio.high and change.rounds == (12, 12)


def test_noise_alone_is_hardly_ever_called_a_change() -> None:
    rng = random.Random(7)
    draws = [[[rng.lognormvariate(0, 0.04) for _ in range(12)] for _ in range(2)] for _ in range(300)]
    verdicts = [verdict(ratio_of_medians(base, run, str(number)), 0.05) for number, (base, run) in enumerate(draws)]
    assert sum(found in ("slower", "faster") for found in verdicts) <= 9
    slowed = [verdict(ratio_of_medians(base, [1.2 * x for x in run], str(number)), 0.05) for number, (base, run) in enumerate(draws)]
    assert sum(found == "slower" for found in slowed) >= 270


def test_the_interval_depends_on_the_records_alone() -> None:
    base, run = [1.0, 1.1, 1.2, 1.0, 0.9, 1.05], [1.3, 1.2, 1.25, 1.4, 1.1, 1.3]
    assert ratio_of_medians(base, run, "decode") == ratio_of_medians(base, run, "decode")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"parameters": {"batch": 16, "context": 512}}, "parameters changed"),
        ({"canary": {"before": 1.0, "after": 1.4, "reference": 1.0, "disturbed": True}}, "disturbed"),
        ({"samples": [0.02, 0.02]}, "fewer than 6 rounds"),
    ],
)
def test_what_cannot_be_compared_is_not(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    (change,) = compared(tmp_path, [speed()], [bench("decode", *PLACE, 0.02, **fields)], gate_speed=True).speeds
    assert change.verdict == "inconclusive" and reason in change.reason


def test_a_void_speed_is_a_new_failure_and_no_comparison(tmp_path: Path) -> None:
    diff = compared(tmp_path, [speed()], [speed(1.5, status="VOID", reason="the gate failed")])
    assert [outcome.key.check for outcome in diff.void] == ["decode"] and diff.speeds == () and diff.code == 1


def test_one_slower_run_informs_and_two_on_the_same_machine_gate(tmp_path: Path) -> None:
    base = load_frame([write_run(tmp_path / "base", [speed()])])
    once, again = (write_run(tmp_path / name, [speed(1.3, name)]) for name in ("once", "again"))
    assert compare(base, load_frame([once])).code == 0
    assert compare(base, load_frame([once]), gate_speed=True).code == 1
    assert compare(base, load_frame([once, again])).code == 1
    unrepeated = write_run(tmp_path / "unrepeated", [speed(1.0, "fine")])
    assert compare(base, load_frame([once, unrepeated])).code == 0
    other_torch = {"packages": {"torch": "2.14.0"}}
    elsewhere = [write_run(tmp_path / name, [speed(1.3, name)], environment=other_torch) for name in ("c", "d")]
    assert compare(base, load_frame(elsewhere)).code == 0


def test_pairs_are_compared_by_their_own_verdicts(tmp_path: Path) -> None:
    sides = []
    for name, verdict_, ratio in (("base", "faster", 0.8), ("run", "slower", 1.2)):
        directory = write_run(tmp_path / name, [check("ROUTE-01", *PLACE)])
        about = {"workload": "decode", "case": "mixtral", "dtype": "bfloat16", "parameters": {"batch": 1}, "a": "hf", "b": "native"}
        with Recorder(directory) as recorder:
            recorder.write("pair", **about, ratio=ratio, verdict=verdict_, status="PASS", reason="")
        sides.append(load_frame([directory]))
    (change,) = compare(sides[0], sides[1]).pairs
    assert (change.before, change.after, change.ratio_after) == ("faster", "slower", 1.2) and "native against hf" in change.name


def test_files_and_exit_codes(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", [check("ROUTE-01", *PLACE), speed()])
    run = write_run(tmp_path / "run", [check("ROUTE-01", *PLACE, status="FAIL", reason="a | b <script>"), speed(1.3, "s")])
    code, output = called("diff", base, run, "--markdown", tmp_path / "d.md", "--json", tmp_path / "d.json")
    assert code == 1 and "New failures (1)" in output and "not pairs" in output
    assert "a \\| b &lt;script>".replace(">", "\\>") in (tmp_path / "d.md").read_text()
    found = json.loads((tmp_path / "d.json").read_text())
    assert found["code"] == 1 and found["outcomes"][0]["key"]["check"] == "ROUTE-01" and found["speeds"][0]["verdict"] == "slower"
    assert called("diff", base, base)[0] == 0


@pytest.mark.parametrize(("arguments", "message"), [(["nowhere"], "needs BASE and RUN"), (["nowhere", "else"], "no such run directory")])
def test_bad_input_is_one_line_and_exit_2(arguments: list[str], message: str) -> None:
    code, output = called("diff", *arguments)
    assert code == 2 and message in output and "Traceback" not in output
