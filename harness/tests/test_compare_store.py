"""The series store, retention, and the commands on top of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records.record import RecordError
from moe_harness.report.compare import store
from moe_harness.report.compare.prune import decide
from moe_harness.tests.report_samples import bench, check, write_run

PLACE = ("native", "mixtral", "bfloat16")


def night(root: Path, number: int, factor: float = 1.0, **fields: Any) -> Path:
    records = [
        check("ROUTE-01", *PLACE, **fields),
        bench("decode", *PLACE, 0.01, samples=[0.01 * factor * (1 + 0.001 * (i % 5)) for i in range(12)]),
    ]
    return write_run(root / f"202603{number:02d}T020000.000000Z-0000", records, end=1 if fields else 0)


def called(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(application(), [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_a_store_is_derived_once_and_follows_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = night(tmp_path, 1)
    (entry,) = store.update(tmp_path)
    assert entry["code"] == 0 and entry["counts"]["passed"] == 1
    seconds = [value for name, value in entry["metrics"].items() if name.startswith("seconds")]
    assert seconds == [pytest.approx(0.01002, rel=1e-3)]
    monkeypatch.setattr(store, "entry", lambda directory: pytest.fail(f"{directory} was read again"))
    assert store.update(tmp_path) == [entry]
    monkeypatch.undo()
    shard = next(first.glob("*.jsonl"))
    shard.write_bytes(shard.read_bytes().replace(b'"status": "PASS", "reason": ""', b'"status": "FAIL", "reason": "x"', 1))
    assert store.update(tmp_path)[0]["code"] == 1


def test_an_unreadable_run_is_a_line_and_no_crash(tmp_path: Path) -> None:
    night(tmp_path, 1)
    broken = tmp_path / "20260302T020000.000000Z-0000"
    broken.mkdir()
    (broken / "records-1.jsonl").write_text('{"schema": 99}\n')
    assert [entry["word"] for entry in store.update(tmp_path)] == ["PASS", "UNREADABLE"]


def test_a_store_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / store.FILE).write_text("[1]\n")
    with pytest.raises(RecordError, match="not a series store"):
        store.update(tmp_path)


def test_history_shows_runs_and_the_step(tmp_path: Path) -> None:
    for number in range(1, 17):
        night(tmp_path, number, 1.3 if number > 8 else 1.0 + 0.002 * (number % 3))
    code, output = called("history", "--history", tmp_path, "--json", tmp_path / "h.json")
    assert code == 0 and "16 runs" in output and "1 steps" in output and "20260309T020000" in output.split("Runs (16)")[0]
    found = json.loads((tmp_path / "h.json").read_text())
    assert [step[0] for trend in found["trends"] for step in trend["steps"]] == ["20260309T020000.000000Z-0000"]


def entries(*codes: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"run": f"r{n}", "code": code, "counts": {"passed": 3}} | fields for n, code in enumerate(codes)]


def kept(decisions: list[Any]) -> list[str]:
    return sorted(decision.run for decision in decisions if decision.why)


@pytest.mark.parametrize(
    ("codes", "keep", "green", "expected"),
    [
        ((0, 0, 0, 0), 1, 1, ["r3"]),
        ((0, 0, 0, 0), 2, 3, ["r1", "r2", "r3"]),
        ((0, 1, 1, 1), 1, 1, ["r0", "r3"]),  # the last green one, however old
        ((1, 1, 4), 1, 1, ["r2"]),
    ],
)
def test_what_is_kept(codes: tuple[int, ...], keep: int, green: int, expected: list[str]) -> None:
    found = entries(*codes)
    assert kept(decide(found, {entry["run"] for entry in found}, set(), keep, green)) == expected


def test_every_kind_keeps_its_last_green_run_and_published_ones_stay() -> None:
    found = entries(0, 0, 0, 0, 0)
    found[1]["backends"], found[2]["profiles"] = ["neuron"], ["model-1.0"]
    assert kept(decide(found, {entry["run"] for entry in found}, {"r0"}, 1, 1)) == ["r0", "r1", "r2", "r4"]


def test_a_run_that_judged_nothing_is_not_the_last_green_one() -> None:
    found = entries(0, 0, 1)
    found[1]["counts"] = {"unavailable": 3}
    assert kept(decide(found, {"r0", "r1", "r2"}, set(), 1, 1)) == ["r0", "r2"]


def test_prune_deletes_only_when_told_and_its_history_stays(tmp_path: Path) -> None:
    runs = [night(tmp_path / "runs", number) for number in (1, 2, 3)]
    options = ("prune", "--history", tmp_path / "runs", "--published", tmp_path / "published", "--keep", 1, "--keep-green", 1)
    code, output = called(*options)
    assert code == 0 and "2 of 3 would be deleted" in output and all(run.is_dir() for run in runs)
    (tmp_path / "published" / runs[0].name).mkdir(parents=True)
    code, output = called(*options, "--delete")
    assert code == 0 and "1 deleted" in output and [run.is_dir() for run in runs] == [True, False, True]
    assert len(store.update(tmp_path / "runs")) == 3


def test_no_such_history_is_exit_2(tmp_path: Path) -> None:
    for command in ("history", "prune"):
        code, output = called(command, "--history", tmp_path / "nowhere")
        assert code == 2 and "no such directory of runs" in output
