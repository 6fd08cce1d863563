"""Checks on several processes: how many, and what a worker that dies costs. Each run is a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.processes import supervision, threads
from moe_harness.records.frame import load_frame
from moe_harness.records.record import read_run
from moe_harness.run import workers
from moe_harness.run.launch import launch
from moe_harness.suite.run_spec import RunSpec

HONEST = "moe_harness.mutants.catalogue:backend"
ABORTING = """
import os
from moe_harness.mutants.catalogue import backend as honest

def backend(variant=None):
    made = honest()

    class Aborting:
        name = "aborting"
        capabilities, from_hf, to_hf = made.capabilities, made.from_hf, made.to_hf

        def load(self, path, spec):
            model = made.load(path, spec)
            model.generate = lambda *arguments, **options: os.abort()
            return model

    return Aborting()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "aborting.py").write_text(ABORTING)
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(application(), ["run", "--run-dir", "run", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("workers", ["0", "2"])
def test_as_many_processes_as_asked_judge_the_same(folder: Path, workers: str) -> None:
    code, output = run("--backend", HONEST, "-k", "ROUTE-09 or ROUTE-10", "--dtype", "float32", "--workers", workers)
    records = read_run(folder / "run")
    names = {record["worker"] for record in records if record["type"] == "run"}
    judged = {(r["check"], r["case"]): r["status"] for r in records if r["type"] == "check" if "GEN" not in r["check"]}
    assert code == 0, output
    assert names == {""} if workers == "0" else len(names) == 2 and "" not in names
    assert {"ROUTE-09", "ROUTE-10"} == {check for check, _ in judged} and set(judged.values()) <= {"PASS", "UNSUPPORTED"}
    assert not load_frame([folder / "run"]).runs[0].open


def test_a_worker_that_dies_costs_one_record(folder: Path) -> None:
    selection = "(GEN-01 or ROUTE-09 or CACHE-01) and (mixtral or qwen3_moe)"
    code, output = run("--backend", "aborting:backend", "-k", selection, "--dtype", "float32", "--workers", "2")
    records = read_run(folder / "run")
    crashed = [record for record in records if record["type"] == "check" and record["status"] == "CRASHED"]
    others = [record["status"] for record in records if record["type"] == "check" and record["status"] != "CRASHED"]
    assert code == 1, output
    assert [(record["check"], record["case"]) for record in sorted(crashed, key=lambda r: r["case"])] == [
        ("GEN-01", "mixtral"),
        ("GEN-01", "qwen3_moe"),
    ]
    assert all("SIGABRT" in record["reason"] and "-k 'test_" in record["reproduce"] for record in crashed)
    assert len(others) >= 4 and set(others) == {"PASS"}, output
    frame = load_frame([folder / "run"])
    assert not frame.runs[0].open and not (frame.rows["status"] == "NOT RUN").any()
    assert "no end record" not in (Path("reports") / "latest" / "report.md").read_text()


def test_a_dead_worker_without_a_record_stays_open(folder: Path) -> None:
    """Only a worker whose check was recorded is answered for: any other may have taken something with it."""
    run("--backend", "aborting:backend", "-k", "GEN-01 and mixtral", "--dtype", "float32", "--workers", "2")
    shards = list((folder / "run").glob("*.jsonl"))
    for shard in shards:
        text = shard.read_text()
        shard.write_text(text.replace('"lost": ["records', '"lost": ["absent'))
    assert load_frame([folder / "run"]).runs[0].open


def test_the_end_shows_each_failure_in_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run("--backend", f"{HONEST}:rank-off-by-one", "-k", "ROUTE-09 and mixtral", "--dtype", "float32", "--workers", "2")
    output = capfd.readouterr().out
    assert f"FAIL ROUTE-09 {HONEST}:rank-off-by-one mixtral float32: uncertified_selections" in output
    assert "1 FAIL" in output and "[gw" not in output and "Traceback" not in output


def test_one_worker_per_core_unless_a_device_is_shared() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads.default_workers("cpu") == cores
    assert threads.default_workers("cuda") == 0
    assert list(workers.arguments(0)) == list(workers.arguments(1)) == []
    assert list(workers.arguments(3))[:2] == ["-n", "3"]


def test_checks_use_one_thread_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threads.THREADS:
        monkeypatch.delenv(name, raising=False)
    assert workers.environment(True)["OMP_NUM_THREADS"] == workers.environment(True)["MKL_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in workers.environment(False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert workers.environment(True)["OMP_NUM_THREADS"] == "3"


@pytest.mark.parametrize(
    ("part", "checkpoint", "workers", "threads"),
    [("checks", False, 0, "1"), ("checks", True, 2, "1"), ("checks", True, 0, None), ("bench", False, 2, None)],
)
def test_a_users_own_model_and_speeds_have_all_threads(
    monkeypatch: pytest.MonkeyPatch, part: str, checkpoint: bool, workers: int, threads: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    seen: list[dict[str, str]] = []

    def record(command: list[str], variables: dict[str, str]) -> int:
        seen.append(variables)
        return 0

    monkeypatch.setattr(supervision, "call", record)
    launch(RunSpec(checkpoint=[Path("own")] if checkpoint else None, workers=workers, run_dir=Path("run")), [part])
    assert seen[0].get("OMP_NUM_THREADS") == threads
