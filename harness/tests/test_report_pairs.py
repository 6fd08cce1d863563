"""Pairs, limits and skews of the records: shown as recorded, VOID without a number, and slower ones on the first screen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from moe_harness.records.frame import Frame, load_frame
from moe_harness.report.build import build
from moe_harness.report.page import page
from moe_harness.report.pairs import pair_of, pairs
from moe_harness.report.skew import imbalance, panels
from moe_harness.report.skew_figure import skew_plot
from moe_harness.report.slower import alerts
from moe_harness.report.speed import speeds
from moe_harness.report.trust import in_short
from moe_harness.report.verdict import verdict
from moe_harness.tests import speed_samples as samples
from moe_harness.tests.report_samples import check, write_run
from moe_harness.tests.speed_samples import measured, pair, skewed


def frame_of(root: Path, *records: dict[str, Any]) -> Frame:
    return load_frame([write_run(root / "run", list(records))])


def section(frame: Frame, name: str) -> str:
    text = page(frame)
    start = text.index(f'<section id="{name}">')
    return text[start : text.index("</section>", start)]


def test_pairs_are_counted_by_verdict_and_sum_up(tmp_path: Path):
    found = verdict(load_frame([samples.full(tmp_path)]))
    assert [found.counts[name] for name in ("slower", "undecided", "equivalent", "faster", "void")] == [1, 1, 1, 1, 1]
    assert (found.code, found.sentence) == (1, "1 speed void, 64 of 64 checks passed, 1 slower")


def test_a_slower_pair_alone_is_no_failure(tmp_path: Path):
    found = verdict(frame_of(tmp_path, check("ROUTE-01", "native", "mixtral", "float32"), pair("slower", 1.2)))
    assert (found.code, found.colour, found.sentence) == (0, "green", "1 of 1 check passed, 1 slower")


def test_void_and_slower_stand_on_the_first_screen(tmp_path: Path):
    found = alerts(load_frame([samples.full(tmp_path)]))
    assert [(alert.word, alert.what.split()[0]) for alert in found] == [("VOID", "router"), ("slower", "decode")]
    assert found[1].detail == "+8.3 % time against hf:grouped_mm (1.07× to 1.09×), timed in turn"


def test_what_is_void_for_one_reason_is_one_entry(tmp_path: Path):
    reason = "no number: the timed model is wrong: logit_error = 0.63"
    wrong = [measured(name, "native", 0.1, status="VOID", reason=reason) for name in ("prefill", "decode")]
    found = alerts(frame_of(tmp_path, *wrong, measured("moe_block", "native", 0.1, status="VOID", reason="another")))
    assert [(alert.what, alert.detail) for alert in found] == [("decode, prefill", reason), ("moe_block tokens=1024", "another")]


def test_a_void_pair_has_no_number(tmp_path: Path):
    row = frame_of(tmp_path, pair("slower", 1.23456, status="VOID", reason="gate")).of("pair")[0]
    found = pair_of(row)
    assert (found.ratio, found.low, found.gain, found.verdict) == (None, None, "", "")
    build(load_frame([tmp_path / "run"]), tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert not re.search(r"1[.,]23|23\.\d %", path.read_text()), path.name


@pytest.mark.parametrize("word", ["quicker", None, 3, ["slower"]])
def test_a_verdict_that_is_none_is_undecided(tmp_path: Path, word: Any):
    (found,) = pairs(frame_of(tmp_path, pair("x", 1.1) | {"verdict": word}))
    assert found.verdict == "undecided"


@pytest.mark.parametrize("fields", [{"ratio": 0.0}, {"low": -1.0}, {"high": float("inf")}, {"ratio": None}, {"delta": None, "mde": None}])
def test_numbers_that_cannot_be_drawn_are_no_crash(tmp_path: Path, fields: dict[str, Any]):
    assert "decode" in section(frame_of(tmp_path, pair("faster", 0.9) | fields), "pairs")


def test_a_gate_that_shuts_afterwards_makes_a_speed_void_whatever_its_record_says(tmp_path: Path):
    shut = [{"name": "pinned_nmse", "value": 0.02, "bound": 7.3e-3, "kind": "judged"}]
    frame = frame_of(tmp_path, measured("prefill", "native", 0.4, gate_after=shut))
    (row,) = frame.of("bench")
    assert row["status"] == "VOID" and "pinned_nmse is over its bound" in row["reason"]
    assert speeds(frame)[0].median is None and speeds(frame)[0].share is None


def test_a_benchmark_and_its_pair_are_not_two_failures(tmp_path: Path):
    """What recorded them: the challenger's benchmark has the pair's ending."""
    slower = {"status": "FAIL", "reason": "slower than hf: +8 %, in two series of blocks", "node": "test_decode.py::test_decode[x]"}
    void = {"status": "VOID", "reason": "gate", "node": "test_ttft.py::test_ttft[x]"}
    records = [measured("decode", "native", 0.1, **slower), pair("slower", 1.08) | slower]
    records += [measured("prefill", "native", 0.1, **void), pair("void", 1.0) | void | {"ratio": None}]
    frame = frame_of(tmp_path, *records)
    counts = verdict(frame).counts
    assert (counts["failed"], counts["void"], counts["slower"]) == (1, 1, 1)
    assert [found.verdict for found in pairs(frame)] == ["slower"]


def test_a_pair_without_a_benchmark_of_its_own_keeps_its_failure(tmp_path: Path):
    frame = frame_of(tmp_path, pair("slower", 1.08, status="FAIL", reason="slower"))
    assert verdict(frame).counts["failed"] == 1 and pairs(frame)[0].gain == "+8.0 %"


def test_a_missing_p99_says_why(tmp_path: Path):
    text = section(frame_of(tmp_path, measured("prefill", "native", 0.4)), "speed")
    assert "–: p99 needs 299 rounds, there are 30." in text
    known = measured("prefill", "native", 0.4, percentiles={"p99": {"value": 0.47}})
    assert "470.0 ms" in section(frame_of(tmp_path / "b", known), "speed")


def test_parameters_of_all_are_said_once_and_sizes_stand_in_order(tmp_path: Path):
    sizes = [measured("moe_block", "native", 0.1, node=str(n), parameters={"batch": 1, "tokens": n}) for n in (1024, 64, 256)]
    frame = frame_of(tmp_path, *sizes)
    assert [speed.group[3] for speed in speeds(frame)] == [f"batch=1 tokens={n}" for n in (64, 256, 1024)]
    text = section(frame, "speed")
    assert text.count("batch=1") == 1 and "All: batch=1." in text and '<span class="quiet">tokens=64</span>' in text
    assert "Against the peer" not in text


def test_a_speed_that_never_got_steady_says_so(tmp_path: Path):
    (speed,) = speeds(frame_of(tmp_path, measured("prefill", "native", 0.4, steady=False)))
    assert speed.note == "still warming up"


def test_limit_first_call_memory_and_a_disturbed_canary_are_shown(tmp_path: Path):
    frame = frame_of(tmp_path, measured("prefill", "native", 0.4, canary={"disturbed": True}))
    (speed,) = speeds(frame)
    assert (speed.share, speed.limited_by, speed.memory, speed.disturbed) == (0.4, "bandwidth", 3 * 2**30, True)
    text = section(frame, "speed")
    assert all(part in text for part in ("Of the limit", "40 %", "bandwidth", "3 GiB", "3.600 s", "≈"))


def test_columns_that_no_record_fills_are_not_there(tmp_path: Path):
    plain = measured("prefill", "native", 0.4, limit=None, memory=None, first_call_s=None, canary=None)
    text = section(frame_of(tmp_path, plain), "speed")
    assert not any(part in text for part in ("Of the limit", "Peak memory", "First call", "≈"))


@pytest.mark.parametrize("name", ["pairs", "skew", "history", "slower"])
def test_sections_without_records_are_not_there(tmp_path: Path, name: str):
    assert f'id="{name}"' not in page(frame_of(tmp_path, check("ROUTE-01", "native", "mixtral", "float32")))


def test_skews_are_ordered_by_what_the_busiest_expert_gets(tmp_path: Path):
    (panel,) = panels(load_frame([samples.full(tmp_path)]))
    assert [name for name, _ in panel.skews] == ["balanced", "zipf", "hot-expert"]
    assert [busiest for _, busiest in panel.skews] == pytest.approx([1.0, 2.941, 4.0], rel=1e-3)
    factors = {curve.label: list(curve.factors.values()) for curve in panel.curves}
    assert factors["hf:grouped_mm bf16"] == pytest.approx([1, 1.12, 1.35], rel=0.05)
    assert panel.even == "balanced" and panel.title == "moe_block mixtral tokens=1024"


def test_one_skew_or_none_that_is_even_makes_no_curve(tmp_path: Path):
    assert not panels(frame_of(tmp_path / "a", skewed("native", "balanced", 0.01)))
    assert not panels(frame_of(tmp_path / "b", skewed("native", "zipf", 0.01), skewed("native", "hot-expert", 0.02)))


@pytest.mark.parametrize("work", [None, 3, {"loads": 7}, {"loads": [[], "x", [0, 0]]}, {"loads": [["many", None]]}])
def test_loads_that_are_none_have_no_imbalance(work: Any):
    assert imbalance({"facts": {"work": work}}) is None


def test_a_curve_is_told_from_another_without_colour(tmp_path: Path):
    (panel,) = panels(load_frame([samples.full(tmp_path)]))
    svg = skew_plot(panel, "title")
    assert "stroke-dasharray" in svg and "native bf16" in svg and not re.search(r"#0[1-5]0[1-5]0[1-5]|http", svg)
    assert svg == skew_plot(panel, "title")


def test_the_self_test_of_timing_is_a_part_of_the_trust_line(tmp_path: Path):
    found = in_short(load_frame([samples.full(tmp_path)]))
    assert ("1 of 120", "equal timings called different") in found and ("113 of 120", "timings 5 % slower seen") in found
