"""The first screen: failures grouped with layer and capsule, the overview by topic, the trust line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moe_harness.records.frame import load_frame
from moe_harness.report.failures import groups, where_in_model
from moe_harness.report.matrix import FEW_COLUMNS, Matrix, matrix, overview
from moe_harness.report.page import page
from moe_harness.report.trust import in_short
from moe_harness.tests import report_samples as samples
from moe_harness.tests.report_samples import CASES, CHECKS, check, checks, write_run


def one(name: str = "ROUTE-01", case: str = "mixtral", **fields: Any) -> dict[str, Any]:
    return check(name, "native", case, "float32", **({"status": "FAIL", "reason": "wrong"} | fields))


def lines(found: Matrix | None) -> dict[str, Any]:
    assert found is not None
    return {line.check: line for panel in found.panels for topic in panel for line in topic}


def test_the_failures_of_one_check_and_backend_are_one_group(tmp_path: Path):
    records = [one(case=case) for case in ("a", "b", "c", "d")] + [one("ROUTE-02"), one(status="CRASHED", case="e")]
    found = groups(load_frame([write_run(tmp_path / "run", records, end=1)]))
    assert [(group.worst["status"], group.worst["check"], len(group.rows)) for group in found] == [
        ("FAIL", "ROUTE-01", 4), ("FAIL", "ROUTE-02", 1), ("CRASHED", "ROUTE-01", 1),
    ]  # fmt: skip
    assert (found[0].where, found[1].where) == ("4 models · f32", "mixtral · f32")


def test_void_is_no_failure_group(tmp_path: Path):
    found = groups(load_frame([samples.void(tmp_path)]))
    assert not found


@pytest.mark.parametrize(("value", "bound", "said"), [(4.0, 0, "4, none allowed"), (0.3, 0.1, "3× bound"), (float("nan"), 0.1, "∞ bound")])
def test_the_excess_over_a_bound_of_zero_is_a_count(tmp_path: Path, value: float, bound: float, said: str):
    metrics = [{"name": "flips", "value": value, "bound": bound, "kind": "judged"}]
    (group,) = groups(load_frame([write_run(tmp_path / "run", [one(metrics=metrics)], end=1)]))
    assert group.excess == said


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"reason": "selection differs [MoE layer 2: ...]", "maps": {}}, "MoE layer 2"),
        (
            {"reason": "x", "maps": {"expert_error": {"values": [[0.1, 0.2], [0.1, 9.0]], "bounds": [[1, 1], [1, 1]]}}},
            "MoE layer 1, expert 1",
        ),
        ({"reason": "x", "maps": {"expert_error": {"values": [[0.1]], "bounds": [[1]]}}}, ""),
        ({"reason": "x", "maps": {"expert_error": {"values": "no", "bounds": None}}}, ""),
        ({"reason": "DeMoE layer 12x", "maps": {}}, ""),
    ],
)
def test_the_layer_is_that_of_the_map_or_of_the_reason(fields: dict[str, Any], where: str):
    assert where_in_model({"dtype": "float32", **fields}) == where


def test_a_failure_shows_clause_layer_capsule_and_how_to_see_it_again(tmp_path: Path):
    record = one(reason="selection differs [MoE layer 2]", capsule="capsules/x.safetensors")
    text = page(load_frame([write_run(tmp_path / "run", [record], end=1)]))
    section = text[text.index('<section id="failures">') : text.index('<section id="overview">')]
    for part in (
        "ROUTE-01",
        "MoE layer 2",
        "capsules/x.safetensors",
        "moe-harness explain",
        "moe-harness recheck",
        record["reproduce"][:40],
    ):
        assert part in section, part


def test_few_clauses_are_lines_of_their_own_and_many_are_topics(tmp_path: Path):
    few = load_frame([write_run(tmp_path / "few", [one(name) for name in list(CHECKS)[:20]], end=1)])
    assert list(lines(overview(few))) == list(CHECKS)[:20]
    assert '<section id="matrix">' not in page(few)
    many = load_frame([write_run(tmp_path / "many", list(checks()))])
    found = overview(many)
    assert list(lines(found)) == ["ROUTE", "BLOCK", "PARITY", "CACHE", "WINDOW", "PAD", "CONV", "GEN"]
    assert lines(found)["CACHE"].title == "KV cache" and '<section id="matrix">' in page(many)


def test_a_topic_shows_its_worst_status_how_often_and_links_to_it(tmp_path: Path):
    records = list(checks({"native": "cpu"}))
    for record in records:
        if record["check"] in ("ROUTE-02", "ROUTE-05") and record["dtype"] == "float32":
            record |= {"status": "FAIL", "reason": "wrong"}
    frame = load_frame([write_run(tmp_path / "run", records, end=1)])
    cells = lines(overview(frame))["ROUTE"].cells
    assert [(cell.symbol, cell.count) for cell in cells] == [("✗", 2), ("✓", 8)] * len(CASES)
    assert cells[0].anchor == "failure-1"
    assert "✗<small>2</small>" in page(frame)


@pytest.mark.parametrize(("backends", "columns"), [(2, 8), (4, 8), (5, 5), (30, 30)])
def test_the_overview_is_as_detailed_as_fits_beside_the_failures(tmp_path: Path, backends: int, columns: int):
    found = overview(load_frame([write_run(tmp_path / "run", list(checks({f"b{n:02}": "cpu" for n in range(backends)})))]))
    assert found is not None and len(found.widths) == columns and (columns <= FEW_COLUMNS or len(found.heads) == 1)


def test_where_a_backend_ran_is_said_in_words(tmp_path: Path):
    found = matrix(
        load_frame([write_run(tmp_path / "run", [*checks({"native": "cpu"}), *checks({"te": "emulated"}), *checks({"x": "device"})])])
    )
    assert found is not None
    assert [(head.text, head.execution) for head in found.heads[0]] == [("native", "cpu"), ("te", "emulated"), ("x", "device")]


def test_names_too_long_for_their_columns_are_written_upwards(tmp_path: Path):
    records = [check("ROUTE-01", "native", case, "float32") for case in ("deepseek_v3", "dots", "olmo")]
    found = matrix(load_frame([write_run(tmp_path / "run", records)]))
    assert found is not None
    assert [(head.text, head.tall) for head in found.heads[1]] == [("deepseek_v3", True), ("dots", False), ("olmo", False)]


def test_the_trust_line_counts_what_this_run_looked_at(tmp_path: Path):
    maps = {"expert_error": {"values": [[0.1] * 8] * 2, "bounds": [[1.0] * 8] * 2}}
    records = [one(status="PASS", maps=maps, evidence={"tokens": 1000}), one("ROUTE-02", status="PASS", evidence={"tokens": "many"})]
    found = in_short(load_frame([write_run(tmp_path / "run", records)]))
    assert found == [("1\u202f000", "tokens judged"), ("16", "experts judged one by one")]


def test_a_run_with_nothing_to_worry_about_gives_its_room_to_the_matrix(tmp_path: Path):
    assert '<main class="calm">' in page(load_frame([samples.green(tmp_path)]))
    assert "<main>" in page(load_frame([samples.red(tmp_path)]))


def test_many_notes_are_folded(tmp_path: Path):
    runs = [write_run(tmp_path / f"run-{n}", [one(status="PASS")], end=None) for n in range(6)]
    text = page(load_frame(runs))
    assert "3 more notes" in text and "4 more runs" in text
