"""The heat map of experts: ratios, shades, words, and records that are no map."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.records.frame import load_frame
from moe_harness.records.record import Recorder
from moe_harness.report.grades import grade_notes
from moe_harness.report.heatmap import Cell, heat_rows
from moe_harness.report.sections import heatmap
from moe_harness.tests.report_samples import check


def frame(directory: Path, *records: dict):
    with Recorder(directory) as recorder:
        recorder.write("run", run_id="r")
        for number, record in enumerate(records):
            recorder.write("check", **record | {"node": str(number)})
        recorder.write("end", exit_status=0)
    return load_frame([directory])


def mapped(values, bounds) -> dict:
    return {"expert_error": {"values": values, "bounds": bounds}}


def test_the_worst_cell_is_named(tmp_path: Path):
    rows = heat_rows(
        frame(
            tmp_path,
            check("BLOCK-02", "native", "mixtral", "float32", maps=mapped([[1e-7, 2e-7], [3e-7, 4e-6]], [[1e-6, 1e-6], [1e-6, 1e-6]])),
            check("BLOCK-02", "native", "mixtral", "bfloat16", maps=mapped([[1e-3, 2e-3], ["nan", 1e-3]], [[1e-2, 1e-2], [1e-2, 1e-2]])),
            check("BLOCK-02", "hf", "mixtral", "float32", maps=mapped([[1e-7, 2e-7]], [[1e-6, 1e-6]])),
        )
    )
    assert [(row.backend, [grid.dtype for grid in row.grids]) for row in rows] == [("hf", ["f32"]), ("native", ["f32", "bf16"])]
    assert rows[0].words == "worst: MoE layer 0, expert 1, f32: 0.2× the bound"
    assert rows[1].words == "2 beyond the bound; worst: MoE layer 1, expert 0, bf16: ∞ the bound"
    assert [cell.shade for cell in rows[1].grids[0].layers[1]] == [1, 4]


@pytest.mark.parametrize(
    "ratio, text", [(0.04, ".0"), (0.31, ".3"), (1.24, "1.2"), (33.4, "33"), (999, "999"), (12345, "e4"), (float("inf"), "∞")]
)
def test_a_cell_has_three_characters(ratio: float, text: str):
    assert Cell(ratio, 0).text == text and len(text) <= 3


@pytest.mark.parametrize(
    "maps", [None, {}, {"expert_error": 3}, {"expert_error": {"values": [[1]], "bounds": []}}, mapped([1], [2]), mapped([], []), "x"]
)
def test_what_is_no_map_is_left_out(tmp_path: Path, maps):
    found = frame(tmp_path, check("BLOCK-02", "native", "mixtral", "float32", maps=maps))
    assert heat_rows(found) == [] and heatmap.render(found) == ""


def test_a_verdict_makes_a_map():
    verdict = Verdict()
    verdict.map([[Metric("expert_error", 0.0012345, 0.01), Metric("expert_error", float("nan"), 0.01)]])
    assert verdict.to_record()["maps"]["expert_error"]["values"][0][0] == 0.00123
    assert verdict.to_record()["maps"]["expert_error"]["bounds"] == [[0.01, 0.01]]


def test_more_rows_than_fit_are_folded(tmp_path: Path):
    records = [check("BLOCK-02", f"b{n}", "mixtral", "float32", maps=mapped([[n * 1e-8]], [[1e-6]])) for n in range(14)]
    html = heatmap.render(frame(tmp_path, *records))
    assert "4 more, each better than these" in html and html.index("b13") < html.index("<details>") < html.index("b3")


def test_weaker_grades_are_explained(tmp_path: Path):
    found = frame(
        tmp_path, check("PARITY-08", "far", "mixtral", "float32", grade="C"), check("PARITY-08", "hf", "mixtral", "float32", grade="A")
    )
    assert [note.split(":")[0] for note in grade_notes(found)] == ["far is of grade C"]
