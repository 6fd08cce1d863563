"""Runs and bundles that version 0.1 left behind, before folders and import names changed: they are read, verified and compared as ever."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records.record import read_run

OLD = Path(__file__).parent / "data" / "0.1"
PUBLISHED = Path(__file__).resolve().parents[2] / "reports" / "published"
RUNS = {"checks": 94, "speeds": 12, "pair": 1, "fleet": 32}  # what was judged or timed


def call(*words: object, code: int) -> str:
    result = CliRunner().invoke(application(), [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_read_whole(name: str):
    records = read_run(OLD / name)
    assert sum(record["type"] in ("check", "bench") for record in records) == RUNS[name] and records[-1]["type"] == "end"


@pytest.mark.parametrize("name, code", [("checks", 1), ("speeds", 0), ("pair", 0), ("fleet", 0)])
def test_a_report_of_it_is_built_and_verified(name: str, code: int, tmp_path: Path):
    shutil.copytree(OLD / name, tmp_path / name)
    call("report", tmp_path / name, "--out", tmp_path / "out", code=code)
    assert "every number follows from its raw data" in call("report", "--verify", tmp_path / name, "--out", tmp_path / "out", code=0)
    assert "0 problems" in call("records", "check", tmp_path / name, code=0)


@pytest.mark.parametrize("run", sorted(path.name for path in PUBLISHED.iterdir() if path.is_dir()))
def test_published_runs_still_verify(run: str, tmp_path: Path):
    call("report", PUBLISHED / run, "--out", tmp_path / "out", code=0)
    assert "every number follows from its raw data" in call("report", "--verify", PUBLISHED / run, "--out", tmp_path / "out", code=0)


@pytest.mark.parametrize("check, bug", [("ROUTE-04", "rank-off-by-one"), ("ROUTE-07", "rank-off-by-one"), ("BLOCK-11", "")])
def test_a_bundle_is_explained(check: str, bug: str):
    (file,) = (OLD / "checks" / "capsules").glob(f"{check}-night-wrong-mixtral-float32-*.safetensors")
    text = call("explain", file, code=0)
    assert f"{check} failed: night:wrong on mixtral, float32" in text and bug in text


def test_the_same_checks_today_differ_in_nothing(tmp_path: Path):
    asked = ("--backend", "native", "-k", "mixtral and ROUTE", "--workers", 0)
    call("run", *asked, "--run-dir", tmp_path / "today", "--out", tmp_path / "out", code=0)
    assert "nothing moved" in call("diff", OLD / "fleet", tmp_path / "today", code=0)
