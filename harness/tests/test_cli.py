"""The command line as a user meets it: outputs, exit codes, bad input, killed runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moe_harness.cases.cases import golden_root
from moe_harness.cli.app import application
from moe_harness.records.record import read_run

HONEST = "moe_harness.mutants.catalogue:backend"
CHECKPOINT = golden_root() / "mixtral" / "checkpoint"


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(application(), [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("command", ["run", "bench", "report", "list", "convert", "golden"])
def test_every_command_has_help(command: str) -> None:
    code, output = call(command, "--help")
    assert code == 0 and "Usage" in output


@pytest.mark.parametrize(
    ("model", "total", "active"), [("mixtral-8x7b", "46.70 B total", "12.88 B active"), ("qwen3-30b-a3b", "30.53 B total", "3.35 B active")]
)
def test_list_counts_parameters(model: str, total: str, active: str) -> None:
    code, output = call("list", model)
    assert code == 0 and total in output and active in output


def test_list_reads_a_directory_and_a_config_file() -> None:
    for what in (CHECKPOINT, CHECKPOINT / "config.json"):
        code, output = call("list", what)
        assert code == 0 and "MixtralForCausalLM" in output


def test_list_shows_backends_and_survives_a_broken_one() -> None:
    code, output = call("list")
    assert code == 0 and "native" in output and "hf" in output
    assert "neuron leaves out" in output and "Dynamic capacity" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list", "nowhere"], "no such file"),
        (["convert", "nope", "a", "b"], "nope"),
        (["convert", HONEST, "nowhere", "out"], "not a directory"),
        (["report", "nowhere"], "no such run directory"),
        (["golden", "train", "nope"], "unknown golden model"),
        (["run", "--no-such-option"], "no-such-option"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_2(empty: Path, arguments: list[str], message: str) -> None:
    code, output = call(*arguments)
    assert code == 2 and message in output and "Traceback" not in output


def test_usage_error_of_a_run_is_exit_2_and_leaves_nothing(empty: Path) -> None:
    for arguments in (
        ["--backend", "nope"],
        ["--backend", HONEST, "-k", "matches_nothing"],
        ["--backend", HONEST, "--checkpoint", "nowhere"],
    ):
        assert call("run", *arguments)[0] == 2
    assert not list((empty / "reports" / "runs").iterdir())


def test_convert_there_and_back(empty: Path) -> None:
    assert call("convert", HONEST, CHECKPOINT, "own")[0] == 0
    assert call("convert", HONEST, "own", "back", "--to-hf")[0] == 0
    assert (empty / "back" / "config.json").read_text() == (CHECKPOINT / "config.json").read_text()
    code, output = call("convert", HONEST, CHECKPOINT, "own")
    assert code == 2 and "already exists" in output


def test_run_writes_a_report_and_exits_by_its_verdict(empty: Path) -> None:
    code, output = call("run", "--backend", HONEST, "-k", "ROUTE-09 and mixtral")
    assert code == 0 and "PASS" in output and (empty / "reports" / "latest" / "index.html").is_file()
    code, output = call("run", "--backend", f"{HONEST}:rank-off-by-one", "-k", "ROUTE-04 and mixtral", "--out", "red")
    assert code == 1 and "FAIL" in output and (empty / "red" / "junit.xml").is_file()


def test_users_own_checkpoint(empty: Path) -> None:
    code, output = call("run", "--backend", HONEST, "--checkpoint", CHECKPOINT, "--dtype", "float32", "-k", "PARITY")
    (run,) = (empty / "reports" / "runs").iterdir()
    checks = {r["check"]: r["case"] for r in read_run(run) if r["type"] == "check"}
    # PARITY-01 needs HF's golden logits, which a user's checkpoint does not have: it is not asked, not skipped.
    assert code == 0 and checks == dict.fromkeys(
        ("PARITY-02", "PARITY-03", "PARITY-04", "PARITY-05", "PARITY-06", "PARITY-07", "PARITY-11"), "checkpoint"
    ), output


def test_killed_run_still_makes_a_report(empty: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--backend", HONEST, "--run-dir", "run"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: any(b'"type": "check"' in shard.read_bytes() for shard in Path("run").glob("*.jsonl")))
        os.kill(process.pid, signal.SIGKILL)
    code, output = call("report", "run")
    judged = [record for record in read_run(Path("run")) if record["type"] == "check"]
    assert judged and code == 4 and "INCOMPLETE" in output
    assert (empty / "reports" / "latest" / "index.html").is_file()


def wait_for(condition: object, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "nothing was recorded"
        time.sleep(0.05)


def test_two_runs_are_merged(empty: Path) -> None:
    for name in ("a", "b"):
        assert call("run", "--backend", HONEST, "-k", "ROUTE-09 and mixtral and float32", "--run-dir", name)[0] == 0
    code, output = call("report", "a", "b", "--out", "both")
    assert code == 0 and "2 of 2" in output
