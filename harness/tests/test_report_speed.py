"""Speeds: the interval covers what it claims, a ratio is against the right peer, and VOID has no number anywhere."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_harness.records.frame import load_frame
from moe_harness.report.build import build
from moe_harness.report.speed import Speed, speeds
from moe_harness.stats.medians import SMALLEST, median_interval
from moe_harness.tests.report_samples import bench, write_run


def compare(directory: Path, *records: dict[str, Any]) -> dict[str, Speed]:
    frame = load_frame([write_run(directory / "run", list(records))])
    return {speed.row["backend"]: speed for speed in speeds(frame)}


def steady(backend: str, seconds: float, **fields: Any) -> dict[str, Any]:
    """Eight rounds within a thousandth of `seconds`."""
    samples = [seconds * (1 + 1e-4 * step) for step in range(-4, 4)]
    return bench("decode", backend, "mixtral", "float32", seconds) | {"samples": samples} | fields


# Ranks of the 95 % interval of a median, from tables of the binomial distribution with p = 1/2.
@pytest.mark.parametrize(("count", "rank"), [(6, 1), (8, 1), (9, 2), (10, 2), (20, 6), (30, 10), (100, 40)])
def test_ranks_are_those_of_the_tables(count: int, rank: int):
    assert median_interval(range(1, count + 1)) == ((count + 1) / 2, rank, count + 1 - rank)


@pytest.mark.parametrize("count", range(1, SMALLEST))
def test_few_samples_have_no_interval(count: int):
    assert median_interval([1.0] * count) == (1.0, None, None)


def test_the_interval_covers_the_median_as_often_as_it_says():
    """3000 times 15 samples of a skewed distribution: 96.5 % by theory (ranks 4 and 12); under 95 % would be 4 sigma away."""
    seed, median = random.Random(7), 1.0
    intervals = [median_interval([seed.lognormvariate(0, 1) for _ in range(15)]) for _ in range(3000)]
    covered = sum(low <= median <= high for _, low, high in intervals if low is not None and high is not None)
    assert 0.95 <= covered / 3000 <= 0.98


@given(st.lists(st.floats(1e-6, 1e3), min_size=SMALLEST, max_size=200))
def test_the_median_lies_in_its_interval(samples: list[float]):
    median, low, high = median_interval(samples)
    assert low is not None
    assert high is not None
    assert min(samples) <= low <= median <= high <= max(samples)


def test_the_peer_is_the_fastest_hf_backend(tmp_path: Path):
    found = compare(tmp_path, steady("hf", 0.04), steady("hf:fast", 0.02), steady("native", 0.01), steady("hfake", 0.001))
    assert {name: speed.peer for name, speed in found.items()} == dict.fromkeys(("hf", "hf:fast", "native", "hfake"), "hf:fast")
    assert found["native"].ratio == pytest.approx(2, rel=1e-3)
    assert found["hf"].ratio == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("other", [{"case": "qwen3_moe"}, {"dtype": "bfloat16"}, {"parameters": {"batch": 1}}, {"workload": "prefill"}])
def test_a_peer_of_another_case_dtype_parameters_or_workload_is_none(tmp_path: Path, other: dict[str, Any]):
    found = compare(tmp_path, steady("hf", 0.02, **other), steady("native", 0.01))
    assert found["native"].ratio is None
    assert found["native"].peer == ""


def test_a_peer_of_another_machine_is_none(tmp_path: Path):
    one = write_run(tmp_path / "one", [steady("hf", 0.02)], environment={"hostname": "a"})
    two = write_run(tmp_path / "two", [steady("native", 0.01)], environment={"hostname": "b"})
    assert [speed.ratio for speed in speeds(load_frame([one, two])) if speed.row["backend"] == "native"] == [None]


@pytest.mark.parametrize("fields", [{"status": "VOID"}, {"gate": []}, {"execution": "emulated"}])
def test_a_void_or_emulated_peer_is_none(tmp_path: Path, fields: dict[str, Any]):
    assert compare(tmp_path, steady("hf", 0.02, **fields), steady("native", 0.01))["native"].ratio is None


def test_an_emulation_has_no_ratio(tmp_path: Path):
    speed = compare(tmp_path, steady("hf", 0.02), steady("te", 0.01, execution="emulated"))["te"]
    assert speed.ratio is None
    assert "emulated" in speed.note


def test_overlapping_intervals_are_noise(tmp_path: Path):
    found = compare(tmp_path, steady("hf", 0.02), steady("near", 0.020001), steady("far", 0.0203), steady("few", 0.04, samples=[0.04] * 3))
    assert {name: speed.distinct for name, speed in found.items()} == {"hf": False, "near": False, "far": True, "few": False}


def test_tokens_per_second_is_tokens_over_the_median(tmp_path: Path):
    speed = compare(tmp_path, steady("native", 0.5, samples=[0.5] * 9, tokens=64))["native"]
    assert speed.tokens_per_s == 128
    assert compare(tmp_path / "none", steady("native", 0.5, tokens=None))["native"].tokens_per_s is None


@pytest.mark.parametrize("samples", [[], [0.1, float("nan")], [0.1, float("inf")], [0.1, None]])
def test_a_speed_without_times_is_void(tmp_path: Path, samples: list[float]):
    speed = compare(tmp_path, steady("native", 0.5, samples=samples))["native"]
    assert speed.row["status"] == "VOID"
    assert speed.median is None


@pytest.mark.parametrize("fields", [{"status": "VOID", "reason": "gate"}, {"gate": []}, {"status": "FAIL"}, {"status": "CRASHED"}])
def test_a_void_speed_has_no_number_in_any_file(tmp_path: Path, fields: dict[str, Any]):
    record = steady("native", 0.5, samples=[0.123454321] * 9, tokens=987, **fields)
    build(load_frame([write_run(tmp_path / "run", [record])]), tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert not re.search(r"0\.123|123\.[45]|\b987\b|7995|7,99", path.read_text()), path.name
        assert str(fields.get("status", "VOID")) in path.read_text()


def test_a_gap_is_no_line_of_the_speed_table(tmp_path: Path):
    assert set(compare(tmp_path, steady("native", 0.5), steady("te", 1, status="UNSUPPORTED"), steady("x", 1, status="UNAVAILABLE"))) == {
        "native"
    }
