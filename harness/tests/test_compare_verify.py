"""`report --verify`: what was changed after the fact is found and named, with a seal and without one; what was not is not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records import seal
from moe_harness.records.frame import load_frame
from moe_harness.records.raw import read_raw
from moe_harness.report.build import build
from moe_harness.report.compare import recompute, verify_counts
from moe_harness.report.compare.verify import Verification, WrittenReport, verify
from moe_harness.report.verdict import verdict
from moe_harness.stats.medians import median_interval
from moe_harness.tests import report_samples
from moe_harness.tests.report_samples import bench, check, write_run

PLACE = ("native", "mixtral", "bfloat16")
METRIC = {"name": "nmse", "value": 3e-3, "bound": 5e-3, "noise": 1e-3, "visible": 4e-3, "kind": "judged"}
FAILED = {"name": "kl", "value": 0.5, "bound": 0.25, "noise": None, "visible": None, "kind": "judged"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two checks that pass, one that fails, two speeds; reported."""
    records = [
        check("ROUTE-01", *PLACE, metrics=[METRIC]),
        check("ROUTE-02", *PLACE, metrics=[METRIC]),
        check("BLOCK-01", *PLACE, status="FAIL", metrics=[FAILED], reason="kl = 0.5 (bound 0.25) [row 3]"),
        bench("decode", *PLACE, 0.01),
        bench("decode", "hf", "mixtral", "bfloat16", 0.02),
    ]
    directory = write_run(tmp_path / "run", records, end=1)
    build(load_frame([directory]), tmp_path / "out")
    return directory


def held(run: Path, out: Path, base: Sequence[Path] = (), anchor: str | None = None) -> Verification:
    """A run, and the report in `out`, verified."""
    return verify(WrittenReport([read_raw(run)], out, [read_raw(directory) for directory in base], anchor))


def edited(run: Path, where: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the first record whose line contains `where`."""
    shard = next(run.glob("*.jsonl"))
    text = shard.read_text().splitlines()
    index = next(i for i, line in enumerate(text) if where in line and '"type": "plan"' not in line)
    record = json.loads(text[index])
    change(record)
    text[index] = json.dumps(record)
    shard.write_text("\n".join(text) + "\n")


def changed_sample(run: Path) -> None:
    """One of the middle: an outer one moves no number that is shown, and only the seal tells."""

    def quicken(record: dict[str, Any]) -> None:
        middle = sorted(record["samples"])[len(record["samples"]) // 2]
        record["samples"][record["samples"].index(middle)] *= 0.5

    edited(run, '"workload": "decode"', quicken)


def changed_median(run: Path) -> None:
    path = run.parent / "out" / "results.csv"
    changed, count = re.subn(r"(,30,)0\.0\d+", r"\g<1>0.0051", path.read_text(), count=1)
    assert count == 1
    path.write_text(changed)


def changed_status(run: Path) -> None:
    edited(run, "BLOCK-01", lambda record: record.update(status="PASS", reason=""))


def deleted_record(run: Path) -> None:
    shard = next(run.glob("*.jsonl"))
    kept = [line for line in shard.read_text().splitlines() if '"type": "plan"' in line or '"check": "BLOCK-01"' not in line]
    shard.write_text("\n".join(kept) + "\n")


def changed_bound(run: Path) -> None:
    edited(run, "ROUTE-02", lambda record: record["metrics"][0].update(bound=5e-2))


def changed_failing_bound(run: Path) -> None:
    edited(run, "BLOCK-01", lambda record: record["metrics"][0].update(bound=0.45))


def added_record(run: Path) -> None:
    shard = next(run.glob("*.jsonl"))
    line = next(line for line in shard.read_text().splitlines() if '"check": "ROUTE-01"' in line and '"type": "check"' in line)
    shard.write_text(shard.read_text() + line.replace("test_route_01", "test_route_77") + "\n")


FAULTS = [
    (changed_sample, "bench", "test_decode", "low_s|median_s|high_s|tokens_per_s"),
    (changed_median, "bench", "test_decode", "median_s"),
    (changed_status, "check", "test_block_01", "status"),
    (deleted_record, "check", "test_block_01", "row|record"),
    (changed_bound, "check", "test_route_02", "metrics.nmse.visible|bound"),
    (changed_failing_bound, "check", "test_block_01", "metrics.kl.bound"),
    (added_record, "check", "test_route_77", "node"),
]
IDS = [fault.__name__ for fault, *_ in FAULTS]


@pytest.mark.parametrize(("fault", "kind", "node", "field"), FAULTS, ids=IDS)
def test_a_fault_is_named_without_a_seal(run: Path, fault: Callable[[Path], None], kind: str, node: str, field: str) -> None:
    """By what contradicts it: other fields, the plan, the written report."""
    fault(run)
    found = held(run, run.parent / "out").findings
    named = [each for each in found if each.type == kind and node in each.node and re.fullmatch(field, each.field)]
    assert named and all(each.recorded != each.recomputed for each in named), found


@pytest.mark.parametrize(("fault", "kind", "node", "field"), [each for each in FAULTS if each[0] is not changed_median],
                         ids=[name for name in IDS if name != "changed_median"])  # fmt: skip
def test_a_fault_in_records_breaks_the_seal_without_a_report(
    run: Path, fault: Callable[[Path], None], kind: str, node: str, field: str
) -> None:
    seal.seal(run)
    assert held(run, run / "no report").findings == ()
    fault(run)
    broken = [each for each in held(run, run / "no report").findings if each.field == "line"]
    assert len(broken) == 1 and node in broken[0].node and re.match(r"records-.*\.jsonl:\d+", broken[0].source)


def test_a_change_that_contradicts_nothing_needs_the_seal(run: Path) -> None:
    def milder(record: dict[str, Any]) -> None:
        record["evidence"]["tokens"] = 10**6

    seal.seal(run)
    edited(run, "ROUTE-01", milder)
    found = held(run, run / "no report").findings
    assert [(each.field, each.type) for each in found] == [("line", "check")]


def test_a_seal_made_again_is_found_by_what_the_run_printed(run: Path) -> None:
    printed = seal.seal(run)
    edited(run, "ROUTE-01", lambda record: record["evidence"].update(tokens=10**6))
    seal.seal(run)
    assert held(run, run / "no report").findings == ()
    assert [each.field for each in held(run, run / "no report", anchor=printed).findings] == ["digest"]
    assert [each.field for each in held(run, run / "no report", anchor=printed[:12]).findings] == ["digest"]


def test_a_seal_that_was_edited_or_removed_is_found(run: Path) -> None:
    printed = seal.seal(run)
    path = run / seal.FILE
    sealed = json.loads(path.read_text())
    name = next(iter(sealed["shards"]))
    path.write_text(json.dumps(sealed | {"files": {"x": "0"}}))
    assert {each.field for each in held(run, run).findings} == {"digest", "files.x"}
    sealed["shards"][name]["chain"] = "0" * 64
    path.write_text(json.dumps(sealed | {"digest": seal.digest(sealed)}))
    assert held(run, run).findings
    path.unlink()
    assert held(run, run).findings == () and held(run, run, anchor=printed).findings


def test_a_changed_capsule_and_a_vanished_shard_are_found(run: Path) -> None:
    (run / "capsules").mkdir()
    (run / "capsules" / "a.safetensors").write_bytes(b"one")
    other = run / "records-0.jsonl"
    other.write_text('{"schema": 1, "type": "end", "time": "2026-03-01T02:00:00+00:00", "exit_status": 1}\n')
    seal.seal(run)
    (run / "capsules" / "a.safetensors").write_bytes(b"two")
    other.unlink()
    assert {each.field for each in held(run, run).findings} == {"files.capsules/a.safetensors", "shards.records-0.jsonl"}


@pytest.mark.parametrize(("make", "sealed"), [(report_samples.green, True), (report_samples.red, False), (report_samples.void, False)])
def test_honest_runs_hold(tmp_path: Path, make: Any, sealed: bool) -> None:
    directory = make(tmp_path)
    if sealed:
        seal.seal(directory)
    build(load_frame([directory]), tmp_path / "out")
    found = held(directory, tmp_path / "out")
    allowed = {"record"} if make is report_samples.void and not sealed else set()  # that sample has planned benchmarks without a record
    allowed |= {"status"} if make is report_samples.void else set()  # and one that passes without a gate
    assert {each.field for each in found.findings} <= allowed, found.findings


def test_a_changed_page_is_shown(run: Path) -> None:
    page = run.parent / "out" / "report.md"
    page.write_text(page.read_text().replace("1 failed", "0 failed"))
    found = held(run, run.parent / "out").findings
    assert [each.source for each in found] == ["report.md:1"] and "0 failed" in found[0].recorded and "1 failed" in found[0].recomputed


def test_a_report_of_other_runs_is_not_compared(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", [check("ROUTE-01", *PLACE)])
    found = held(other, run.parent / "out")
    assert found.findings == () and any("no report of these runs" in note for note in found.notes)


def test_a_report_with_a_baseline_is_held_against_both(run: Path, tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", [check("ROUTE-01", *PLACE, metrics=[METRIC])])
    build(load_frame([run], [base]), run.parent / "out")
    assert held(run, run.parent / "out", [base]).findings == ()
    assert {each.type for each in held(run, run.parent / "out").findings} == {"file"}
    edited(base, "ROUTE-01", lambda record: record.update(status="FAIL", reason="wrong"))
    assert {each.type for each in held(run, run.parent / "out", [base]).findings} == {"file"}


def test_counts_are_made_twice(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = verdict(load_frame([run]))
    wrong = replace(found, counts=found.counts | {"passed": 3, "failed": 0})
    monkeypatch.setattr(verify_counts, "verdict", lambda frame: wrong)
    findings = held(run, run / "no report").findings
    assert [(each.field, each.recorded, each.recomputed) for each in findings] == [("passed", "3", "2"), ("failed", "0", "1")]


def pair(**fields: Any) -> dict[str, Any]:
    found = {"type": "pair", "status": "PASS", "ratio": 1.1, "low": 1.06, "high": 1.14, "delta": 0.01, "verdict": "slower"}
    return found | fields


LIMIT = {"flops_per_s": 1e9, "bytes_per_s": 1e8, "seconds": 0.05, "share": 0.5, "by": "bandwidth"}
WORK = {"flops": 1e7, "bytes": 5e6, "experts_touched": 3, "loads": [[2, 0], [1, 1]]}
PERCENTILES = {"p50": {"value": 0.1, "low": 0.1, "high": 0.1}, "p90": {"reason": "p90 needs 29 rounds, there are 7"}}
CANARY = {"before": 1.0, "after": 1.3, "reference": 1.0, "tolerance": 1.25, "disturbed": True}
TIMED = {"type": "bench", "status": "PASS", "samples": [0.1] * 7, "gate": [METRIC], "limit": LIMIT, "work": WORK}


@pytest.mark.parametrize(
    ("record", "fields"),
    [
        (pair(), []),
        (pair(verdict="equivalent"), ["verdict"]),
        (pair(ratio=1.2), ["ratio"]),
        (pair(low=0.995, high=1.005, ratio=1.0, verdict="equivalent"), []),
        (pair(low=0.9, high=1.1, ratio=1.0, verdict="faster"), ["verdict"]),
        (pair(status="VOID", ratio=None, verdict=""), []),
        (TIMED, []),
        (TIMED | {"limit": LIMIT | {"share": 0.9}}, ["limit.share"]),
        (TIMED | {"work": WORK | {"experts_touched": 2}}, ["work.experts_touched"]),
        (TIMED | {"gate_after": [FAILED]}, ["status"]),
        (TIMED | {"limit": LIMIT | {"flops_per_s": None}}, []),
        (TIMED | {"percentiles": PERCENTILES}, []),
        (TIMED | {"percentiles": PERCENTILES | {"p50": {"value": 0.1, "low": 0.1, "high": 0.2}}}, ["percentiles.p50.high"]),
        (TIMED | {"percentiles": PERCENTILES | {"p50": {"value": 0.09, "low": 0.1, "high": 0.1}}}, ["percentiles.p50.value"]),
        (TIMED | {"percentiles": PERCENTILES | {"p90": {"value": 0.1, "low": None, "high": None}}}, ["percentiles.p90"]),
        (TIMED | {"samples": [0.1, "nan"], "limit": {}}, ["status"]),
        (TIMED | {"canary": CANARY}, []),
        (TIMED | {"canary": CANARY | {"disturbed": False}}, ["canary.disturbed"]),
        (TIMED | {"canary": CANARY | {"after": 1.2}}, ["canary.disturbed"]),
        (TIMED | {"canary": {"before": 1.0, "after": 1.3, "reference": 1.0, "disturbed": False}}, []),  # an old one
        ({"type": "check", "status": "KNOWN", "expected": None, "metrics": [FAILED], "reason": "x"}, ["status"]),
        ({"type": "check", "status": "INCONCLUSIVE", "metrics": [FAILED], "reason": "x"}, ["status"]),
        ({"type": "check", "status": "FAIL", "metrics": [METRIC], "reason": ""}, ["status"]),
        ({"type": "check", "status": "FAIL", "metrics": [METRIC], "reason": "known failure no longer fails"}, []),
        ({"type": "check", "status": "PASS", "metrics": [METRIC | {"kind": "reported"}], "reason": ""}, ["status", "metrics.nmse.kind"]),
        ({"type": "end", "exit_status": 0}, []),
    ],
)  # fmt: skip
def test_what_follows_from_what(record: dict[str, Any], fields: list[str]) -> None:
    from moe_harness.report.compare.verify_records import record_findings

    assert [each.field for each in record_findings([{"node": "n"} | record], sealed=True)] == fields


def test_a_pair_is_estimated_again_from_its_samples() -> None:
    from moe_harness.report.compare.verify_records import record_findings

    honest = {"ratio": 1.1, "low": 1.06, "high": 1.14, "mde": 0.03, "verdict": "slower"}
    record = {"node": "n", **pair(**honest), "samples_a": [[1.0]], "samples_b": [[1.1]]}

    def found(changed: dict[str, Any], again: Callable[[Any], Any]) -> list[str]:
        return [each.field for each in record_findings([record | changed], True, again)]

    assert found({}, lambda _: SimpleNamespace(**honest)) == []
    assert found({"mde": 0.01}, lambda _: SimpleNamespace(**honest)) == ["mde"]
    assert found({"samples_a": [[2.0]]}, lambda _: SimpleNamespace(**honest | {"ratio": 0.55})) == ["ratio"]
    assert found({}, lambda given: given["blocks"]) == ["samples"]


@pytest.mark.parametrize(
    ("status", "ratio", "told"),
    [("FAIL", 1.2, ["FAIL", "PASS"]), ("VOID", None, ["VOID"]), ("PASS", 1.0, ["PASS", "PASS"])],
)
def test_what_a_pair_and_its_benchmark_both_say_is_told_once(status: str, ratio: float | None, told: list[str]) -> None:
    ended: list[dict[str, Any]] = [
        {"type": "bench", "node": "n", "status": status},
        {"type": "pair", "node": "n", "status": status, "ratio": ratio},
    ]
    assert [record["status"] for record in recompute.told_once([*ended, {"type": "end", "exit_status": 0}])] == told


def test_an_exit_status_of_0_beside_a_failure_is_found() -> None:
    from moe_harness.report.compare.verify_records import record_findings

    failed = {"type": "check", "node": "n", "status": "FAIL", "metrics": [], "reason": "wrong"}
    assert [each.field for each in record_findings([failed, {"type": "end", "exit_status": 0}], sealed=True)] == ["exit_status"]


@pytest.mark.parametrize("count", [*range(1, 40), 100, 299])
def test_two_ways_to_the_same_interval(count: int) -> None:
    samples = list(np.random.default_rng(count).standard_normal(count))
    middle, low, high = median_interval(samples)
    assert recompute.median_interval(samples) == ((middle, low, high) if low is not None else None)


def test_the_command(run: Path) -> None:
    printed = seal.seal(run)

    def called(*arguments: Any) -> tuple[int, str]:
        command = ["report", "--verify", str(run), "--out", str(run.parent / "out"), *arguments]
        result = CliRunner().invoke(application(), command)
        return result.exit_code, result.output

    assert called("--seal", printed)[0] == 0
    before = (run.parent / "out" / "index.html").read_bytes()
    changed_sample(run)
    code, output = called()
    assert code == 1 and "median_s: recorded" in output and "findings in" in output
    assert (run.parent / "out" / "index.html").read_bytes() == before
    assert CliRunner().invoke(application(), ["report", "--verify", str(run / "nowhere")]).exit_code == 2
