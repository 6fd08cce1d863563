"""A command reads and parses each run directory once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records import raw
from moe_harness.records.shard import Shard
from moe_harness.tests.report_samples import bench, check, write_run

PLACE = ("native", "mixtral", "float32")


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A green run, a red one and the one that asks, which has two shards."""
    good, speed = check("ROUTE-01", *PLACE), bench("decode", *PLACE, 0.01)
    pair = {"node": "t.py::p", "workload": "decode", "case": "mixtral", "dtype": "float32", "a": "hf", "b": "native", "status": "PASS"}
    write_run(tmp_path / "01-base", [good, speed, pair | {"backend": "native"}])
    write_run(tmp_path / "02-red", [check("ROUTE-01", *PLACE, status="FAIL", reason="wrong")], end=1)
    write_run(tmp_path / "03-run", [good, speed, pair | {"backend": "native"}])
    write_run(tmp_path / "03-run", [check("ROUTE-02", *PLACE)])
    return tmp_path


COMMANDS: dict[str, tuple[Callable[[Path], list[Any]], int]] = {
    "report": (lambda runs: ["report", runs / "03-run", "--baseline", runs / "01-base"], 3),
    "report, last green": (lambda runs: ["report", runs / "03-run", "--baseline", "last-green", "--history", runs], 4),
    "diff": (lambda runs: ["diff", runs / "01-base", runs / "03-run"], 3),
    "diff, last green": (lambda runs: ["diff", runs / "03-run", "--baseline", "last-green", "--history", runs], 4),
    "diff, last green, other spelling": (
        lambda runs: ["diff", runs / ".." / runs.name / "03-run", "--baseline", "last-green", "--history", runs],
        4,
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_shard_is_read_once(history: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any, name: str) -> None:
    reads: Counter[str] = Counter()
    content: Callable[[Shard], bytes] = Shard.content

    def counting(shard: Shard) -> bytes:
        reads[str(shard.path.resolve())] += 1
        return content(shard)

    monkeypatch.setattr(Shard, "content", counting)
    make, shards = COMMANDS[name]
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    result = CliRunner().invoke(application(), [str(word) for word in make(history)])
    assert result.exit_code == 0, result.output
    assert set(reads.values()) == {1} and len(reads) == shards


def test_a_verification_parses_once(history: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any) -> None:
    """The seal reads bytes again: it is about bytes."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    options = [str(history / "03-run"), "--baseline", str(history / "01-base")]
    assert CliRunner().invoke(application(), ["report", *options]).exit_code == 0
    parsed: Counter[Path] = Counter()
    read = raw.read_run
    monkeypatch.setattr(raw, "read_run", lambda directory: parsed.update([directory]) or read(directory))
    result = CliRunner().invoke(application(), ["report", *options, "--verify"])
    assert dict(parsed) == {history / "03-run": 1, history / "01-base": 1}, result.output
