"""Verdicts and exit codes: what is wrong, missing or unproven never comes out green."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moe_harness.records.frame import Frame, load_frame
from moe_harness.records.record import BENCH_STATUSES, CHECK_STATUSES, Recorder
from moe_harness.records.status import STATUSES
from moe_harness.report.verdict import exit_code, verdict
from moe_harness.tests import report_samples as samples
from moe_harness.tests.report_samples import bench, check, write_run


def frame_of(directory: Path, *records: dict[str, Any], **options: Any) -> Frame:
    return load_frame([write_run(directory / "run", list(records), **options)])


def one(**fields: Any) -> dict[str, Any]:
    return check("ROUTE-01", "native", "mixtral", "float32", **fields)


def speed(**fields: Any) -> dict[str, Any]:
    return bench("decode", "native", "mixtral", "float32", 0.01, **fields)


@pytest.mark.parametrize(
    ("sample", "code", "colour", "word"),
    [
        (samples.green, 0, "green", "PASS"),
        (samples.red, 1, "red", "FAIL"),
        (samples.incomplete, 4, "amber", "INCOMPLETE"),
        (samples.void, 1, "red", "FAIL"),
    ],
)
def test_samples(tmp_path: Path, sample, code, colour, word):
    frame = load_frame([sample(tmp_path)])
    found = verdict(frame)
    assert (found.code, found.colour, found.word) == (code, colour, word) and exit_code(frame) == code


def test_counts_are_those_of_the_red_sample(tmp_path: Path):
    found = verdict(load_frame([samples.red(tmp_path)]))
    zero = dict.fromkeys(("not run", "unavailable"), 0)
    assert found.counts == zero | {
        "passed": 497, "failed": 5, "inconclusive": 1, "void": 1, "known": 1, "unsupported": 8, "measured": 11,
    }  # fmt: skip
    assert found.sentence == "5 failed, 1 speed void, 1 inconclusive, 497 of 504 checks passed"


EXPECTED = {"FAIL": 1, "CRASHED": 1, "TIMEOUT": 1, "VOID": 1}  # every other status alone ends with 0


@pytest.mark.parametrize("status", CHECK_STATUSES)
def test_exit_code_of_each_check_status(tmp_path: Path, status: str):
    assert exit_code(frame_of(tmp_path, one(status=status))) == EXPECTED.get(status, 0)


@pytest.mark.parametrize("status", BENCH_STATUSES)
def test_exit_code_of_each_benchmark_status(tmp_path: Path, status: str):
    assert exit_code(frame_of(tmp_path, speed(status=status))) == EXPECTED.get(status, 0)


def test_every_status_of_a_record_has_a_meaning():
    assert set(STATUSES) == {*CHECK_STATUSES, *BENCH_STATUSES, "NOT RUN"}
    assert len({status.symbol for status in STATUSES}) == len(STATUSES)


@pytest.mark.parametrize("status", ["INCONCLUSIVE", "UNSUPPORTED", "UNAVAILABLE"])
def test_what_proves_nothing_is_amber(tmp_path: Path, status: str):
    found = verdict(frame_of(tmp_path, one(status=status)))
    assert (found.code, found.colour) == (0, "amber")


def test_a_planned_node_without_a_record_is_not_run(tmp_path: Path):
    other = check("CACHE-01", "te", "mixtral", "float32")
    frame = frame_of(tmp_path, one(), planned=[one(), other, speed()])
    missing = frame.rows[frame.rows["status"] == "NOT RUN"]
    assert sorted(missing["node"]) == sorted([other["node"], speed()["node"]]) and set(missing["kind"]) == {"check", "bench"}
    assert set(missing["check"]) == {"CACHE-01", "decode"}
    found = verdict(frame)
    assert (found.code, found.word, found.counts["not run"]) == (4, "INCOMPLETE", 2)


def test_a_plan_repeated_by_workers_counts_once(tmp_path: Path):
    frame = frame_of(tmp_path, one())
    assert frame.runs[0].planned == 1 and verdict(frame).sentence == "1 of 1 check passed"


def test_a_run_without_an_end_is_incomplete_even_if_all_was_judged(tmp_path: Path):
    found = verdict(frame_of(tmp_path, one(), end=None))
    assert found.code == 4 and "no end record" in found.notes[0]


@pytest.mark.parametrize("status", [2, 3, 4])
def test_an_interrupted_session_is_incomplete(tmp_path: Path, status: int):
    assert exit_code(frame_of(tmp_path, one(), end=status)) == 4


def test_failed_tests_without_a_failing_record_are_not_green(tmp_path: Path):
    found = verdict(frame_of(tmp_path, one(), end=1))
    assert found.code == 4 and "left no failing record" in found.notes[0]


@pytest.mark.parametrize("status", ["INCONCLUSIVE", "KNOWN"])
def test_a_record_that_explains_the_failed_test_is_enough(tmp_path: Path, status: str):
    assert exit_code(frame_of(tmp_path, one(status=status), end=1)) == 0


def test_a_run_that_judged_nothing_is_incomplete(tmp_path: Path):
    found = verdict(frame_of(tmp_path, end=5))
    assert found.code == 4 and "judged nothing" in found.notes[0]


def test_an_empty_directory_is_incomplete(tmp_path: Path):
    assert exit_code(load_frame([tmp_path])) == 4


@pytest.mark.parametrize(("fields", "code"), [({"status": "UNAVAILABLE"}, 3), ({"execution": "emulated"}, 3), ({"execution": "device"}, 0)])
def test_a_required_device(tmp_path: Path, fields: dict[str, Any], code: int):
    assert exit_code(frame_of(tmp_path / "strict", one(**fields), requested={"require": "device"})) == code
    assert exit_code(frame_of(tmp_path / "lax", one(**fields))) == 0


def test_a_missing_device_is_no_interruption_though_pytest_calls_both_3(tmp_path: Path):
    gone = one(status="UNAVAILABLE")
    found = verdict(frame_of(tmp_path / "a", gone, requested={"require": "device"}, end=3))
    assert (found.code, found.word, found.notes) == (3, "DEVICE MISSING", ())
    assert exit_code(frame_of(tmp_path / "b", gone, end=3)) == 4


def test_a_run_has_parts_and_each_must_end(tmp_path: Path):
    """Checks, then benchmarks; or one part per worker."""
    directory = write_run(tmp_path / "run", [one()])
    assert exit_code(load_frame([directory])) == 0
    write_run(directory, [speed()], end=None)
    frame = load_frame([directory])
    assert len(frame.runs) == 1
    assert frame.runs[0].exit_statuses == (0,)
    found = verdict(frame)
    assert (found.code, found.counts["passed"], found.counts["measured"]) == (4, 1, 1)
    assert frame.runs[0].open[0] in found.notes[0]


def test_the_worst_end_of_the_parts_counts(tmp_path: Path):
    directory = write_run(tmp_path / "run", [one()], end=2)
    write_run(directory, [speed()], end=0)
    assert exit_code(load_frame([directory])) == 4


def test_a_failure_outranks_a_missing_device_and_both_outrank_incompleteness(tmp_path: Path):
    strict = {"require": "device"}
    gone, wrong = one(status="UNAVAILABLE"), check("CACHE-01", "native", "mixtral", "float32", status="FAIL")
    assert exit_code(frame_of(tmp_path / "a", gone, wrong, end=None, requested=strict)) == 1
    assert exit_code(frame_of(tmp_path / "b", gone, planned=[gone, wrong], end=None, requested=strict)) == 3


@pytest.mark.parametrize("gate", [[], [{"name": "nmse", "value": 1e-9, "bound": None, "kind": "reported"}]])
def test_a_speed_without_a_judged_gate_is_void_whatever_its_record_says(tmp_path: Path, gate: list):
    frame = frame_of(tmp_path, one(), speed(gate=gate))
    assert list(frame.rows["status"]) == ["VOID", "PASS"] and exit_code(frame) == 1


def test_a_truncated_record_is_noted(tmp_path: Path):
    with Recorder(tmp_path) as recorder:
        recorder.write("plan", items=[])
    path = next(tmp_path.glob("*.jsonl"))
    path.write_bytes(path.read_bytes()[:-9])
    assert any("truncated" in note and path.name in note for note in verdict(load_frame([tmp_path])).notes)


def test_one_red_run_makes_the_merge_red(tmp_path: Path):
    found = verdict(load_frame([samples.green(tmp_path), samples.red(tmp_path)]))
    assert found.code == 1 and found.counts["passed"] == 504 + 497


def test_one_incomplete_run_makes_the_merge_incomplete(tmp_path: Path):
    assert exit_code(load_frame([samples.green(tmp_path), samples.incomplete(tmp_path)])) == 4
