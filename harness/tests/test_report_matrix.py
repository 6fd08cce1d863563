"""The matrix: the worst status shows, execution shows, columns are as detailed as fits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moe_harness.records.frame import load_frame
from moe_harness.records.status import STATUSES, rank, status, worst
from moe_harness.report.matrix import MOST_COLUMNS, Cell, Matrix, matrix
from moe_harness.tests.report_samples import CHECKS, check, checks, write_run


def matrix_of(directory: Path, records: list[dict[str, Any]], **options: Any) -> Matrix:
    found = matrix(load_frame([write_run(directory / "run", records, **options)]))
    assert found is not None
    return found


def cells(found: Matrix) -> dict[str, tuple[Cell | None, ...]]:
    return {line.check: line.cells for panel in found.panels for topic in panel for line in topic}


def one(name: str = "ROUTE-01", backend: str = "native", case: str = "mixtral", dtype: str = "float32", **fields: Any) -> dict[str, Any]:
    return check(name, backend, case, dtype, **fields)


def test_the_worst_status_is_any_failure_and_a_gap_is_worse_than_a_pass():
    names = list(STATUSES)
    assert worst(reversed(names)) == "FAIL"
    assert worst(["PASS", "UNSUPPORTED"]) == "UNSUPPORTED"
    assert worst(["PASS", "PASS"]) == "PASS"
    assert [rank(name) for name in names] == sorted(rank(name) for name in names)


def test_a_cell_shows_the_worst_of_its_records_and_counts_them(tmp_path: Path):
    records = [one(node="a"), one(node="b", status="FAIL"), one(node="c", status="INCONCLUSIVE"), one(node="d")]
    (cell,) = cells(matrix_of(tmp_path, records))["ROUTE-01"]
    assert cell is not None
    assert (cell.symbol, cell.tone) == (status("FAIL").symbol, "bad")
    assert "1 FAIL, 1 INCONCLUSIVE, 2 PASS" in cell.tip


def test_passes_beside_declared_gaps_are_both_shown_and_the_gaps_counted(tmp_path: Path):
    """A bare dash would hide the passes, a bare tick the gaps; any other gap hides nothing."""
    gap = {"status": "UNSUPPORTED", "reason": "no such family"}
    found = cells(matrix_of(tmp_path, [one(node="a"), one(node="b", **gap), one(node="c", **gap), one("PAD-01", **gap)]))
    shown = {name: (line[0].symbol, line[0].tone, line[0].count) for name, line in found.items() if line[0]}
    assert shown == {"ROUTE-01": ("✓–", "part", 2), "PAD-01": ("–", "gap", 1)}
    (missing,) = cells(matrix_of(tmp_path / "x", [one(node="a"), one(node="b", status="UNAVAILABLE", reason="no device")]))["ROUTE-01"]
    assert missing is not None and missing.symbol == status("UNAVAILABLE").symbol


def test_a_failing_cell_links_to_its_failure(tmp_path: Path):
    found = cells(matrix_of(tmp_path, [one(status="FAIL"), one("CACHE-01", status="CRASHED"), one("PAD-01")]))
    assert [line[0].anchor for line in found.values() if line[0]] == ["failure-1", "failure-2", ""]


@pytest.mark.parametrize(
    ("executions", "shown"), [(["device", "device"], "device"), (["device", "cpu"], "cpu"), (["cpu", "emulated"], "emulated")]
)
def test_a_merged_cell_shows_the_weakest_execution(tmp_path: Path, executions: list[str], shown: str):
    records = [one(node=str(number), execution=execution) for number, execution in enumerate(executions)]
    (cell,) = cells(matrix_of(tmp_path, records))["ROUTE-01"]
    assert cell is not None
    assert cell.execution == shown


def test_what_was_not_planned_is_an_empty_cell_and_what_was_not_run_is_none(tmp_path: Path):
    found = cells(matrix_of(tmp_path, [one(), one("ROUTE-02", "te")], planned=[one(), one("ROUTE-02", "te"), one("ROUTE-02")]))
    assert found["ROUTE-01"][1] is None
    assert found["ROUTE-02"][0] is not None
    assert found["ROUTE-02"][0].symbol == status("NOT RUN").symbol


def test_topics_stand_in_the_specifications_order_with_others_last(tmp_path: Path):
    found = cells(matrix_of(tmp_path, [one(name) for name in ("ZZZ-01", "GEN-01", "ROUTE-02", "ROUTE-01", "CACHE-01", "AAA-01")]))
    assert list(found) == ["ROUTE-01", "ROUTE-02", "CACHE-01", "GEN-01", "AAA-01", "ZZZ-01"]


@pytest.mark.parametrize(("backends", "levels", "columns"), [(2, 3, 8), (3, 3, 12), (4, 2, 8), (6, 2, 12), (7, 1, 7), (30, 1, 30)])
def test_columns_are_as_detailed_as_fits(tmp_path: Path, backends: int, levels: int, columns: int):
    found = matrix_of(tmp_path, list(checks({f"b{number:02}": "cpu" for number in range(backends)})))
    assert (len(found.heads), len(found.widths)) == (levels, columns)
    assert all(sum(head.span for head in heads) == columns for heads in found.heads)
    assert {len(line) for line in cells(found).values()} == {columns}
    assert len(found.panels) == (2 if columns <= MOST_COLUMNS else 1)
    assert set(cells(found)) == set(CHECKS)


def test_a_backends_head_says_on_what_it_ran_where_columns_do_not(tmp_path: Path):
    """A backend that was judged on one model must not look like one that was judged on all."""
    few = list(checks({f"b{number}": "cpu" for number in range(7)}))
    found = matrix_of(tmp_path / "merged", [record for record in few if record["backend"] != "b0" or record["case"] == "mixtral"])
    assert [head.merged for head in found.heads[0]] == ["mixtral", *["2 cases"] * 6]
    apart = matrix_of(tmp_path / "apart", list(checks({"b0": "cpu"})))
    assert [head.merged for heads in apart.heads for head in heads] == [""] * 7


def test_panels_are_cut_between_topics_about_evenly(tmp_path: Path):
    left, right = matrix_of(tmp_path, list(checks())).panels
    sizes = [sum(len(topic) for topic in panel) for panel in (left, right)]
    assert sum(sizes) == len(CHECKS)
    assert abs(sizes[0] - sizes[1]) <= 8
    assert {line.topic for topic in left for line in topic}.isdisjoint(line.topic for topic in right for line in topic)


def test_few_lines_stay_in_one_panel(tmp_path: Path):
    assert len(matrix_of(tmp_path, [one(name) for name in list(CHECKS)[:20]]).panels) == 1


def test_there_is_no_matrix_without_checks(tmp_path: Path):
    assert matrix(load_frame([write_run(tmp_path / "run", [])])) is None


def test_the_same_backend_on_two_machines_has_columns_of_its_own(tmp_path: Path):
    one_run = write_run(tmp_path / "one", [one()], environment={"hostname": "h100"})
    two_run = write_run(tmp_path / "two", [one(status="FAIL"), one(backend="te")], environment={"hostname": "trn2"})
    found = matrix(load_frame([one_run, two_run]))
    assert found is not None
    assert [head.text for head in found.heads[0]] == ["native @ h100", "native @ trn2", "te"]
    assert [cell.symbol if cell else None for cell in cells(found)["ROUTE-01"]] == ["✓", "✗", "✓"]
