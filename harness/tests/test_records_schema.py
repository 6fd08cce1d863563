"""Records against their JSON Schemas, and records of earlier versions in today's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moe_harness.cli.app import application
from moe_harness.records import schema
from moe_harness.records.frame import load_frame
from moe_harness.records.lines import lines
from moe_harness.records.migrate import migrate, migrate_run
from moe_harness.records.record import REQUIRED, SCHEMA, Recorder, RecordError, read_run
from moe_harness.report.verdict import verdict
from moe_harness.tests import report_samples

OLD = Path(__file__).parent / "data" / "run-of-november"
needs_jsonschema = pytest.mark.skipif(not schema.available(), reason=f"UNAVAILABLE: {schema.MISSING}")
TIME = "2026-03-01T02:00:00.000000+00:00"
CHECK = {"schema": 1, "type": "check", "time": TIME, "node": "n", "check": "ROUTE-01", "backend": "native", "status": "PASS"}
BENCH = {"schema": 1, "type": "bench", "time": TIME, "node": "n", "workload": "decode", "backend": "native", "status": "PASS"}
PAIR = {"schema": 1, "type": "pair", "time": TIME, "workload": "decode", "a": "hf", "b": "native", "status": "PASS"}


def called(*arguments: Any) -> tuple[int, str]:
    result = CliRunner().invoke(application(), [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_every_type_that_can_be_written_has_a_schema() -> None:
    assert set(schema.types()) == set(REQUIRED)
    for kind, fields in REQUIRED.items():
        assert set(fields) <= set(schema.schema(kind)["required"]) and schema.schema(kind)["properties"]["schema"] == {"const": SCHEMA}


@needs_jsonschema
def test_the_schemas_are_schemas() -> None:
    from jsonschema import Draft202012Validator

    for kind in (*schema.types(), schema.COMMON):
        Draft202012Validator.check_schema(schema.schema(kind))


@needs_jsonschema
@pytest.mark.parametrize("make", [report_samples.green, report_samples.red, report_samples.incomplete, report_samples.void])
def test_whole_runs_fit(tmp_path: Path, make: Any) -> None:
    records = read_run(make(tmp_path))
    assert len(records) > 100 and [problem for record in records for problem in schema.problems(record)] == []


@needs_jsonschema
def test_the_fields_of_newer_benchmarks_fit() -> None:
    bench = BENCH | {
        "first_call_s": 0.4, "warmup": 5, "samples": [0.1, "nan"],
        "canary": {"before": 0.1, "after": 0.1, "reference": 0.1, "disturbed": False}, "gate_after": [],
        "work": {"flops": 10, "bytes": 10, "experts_touched": 2, "loads": [[1, 1]]},
        "limit": {"flops_per_s": 1e9, "bytes_per_s": 1e9, "seconds": 1e-8, "share": 0.1, "by": "compute"},
        "memory": {"host_peak_bytes": 1, "device_peak_bytes": None},
    }  # fmt: skip
    pair = PAIR | {"samples_a": [[0.1]], "samples_b": [[0.1]], "ratio": 1.0, "verdict": "equivalent", "delta": 0.01, "disturbed": [0]}
    assert schema.problems(bench) == [] and schema.problems(pair) == []


@needs_jsonschema
@pytest.mark.parametrize(
    ("record", "field"),
    [
        (CHECK | {"status": "VOID"}, "status"),
        (CHECK | {"schema": 2}, "schema"),
        (CHECK | {"time": "yesterday"}, "time"),
        (CHECK | {"metrics": [{"name": "nmse", "value": "0.1", "bound": 1, "kind": "judged"}]}, "metrics.0.value"),
        (CHECK | {"metrics": [{"name": "nmse", "value": 0.1, "bound": None, "kind": "judged"}]}, "metrics.0.kind"),
        (CHECK | {"maps": {"e": {"values": [[0.1]]}}}, "maps.e"),
        (CHECK | {"duration_s": -1}, "duration_s"),
        (CHECK | {"expected": {"source": "known.toml"}}, "expected"),
        (BENCH | {"unit": "ms"}, "unit"),
        (BENCH | {"tokens": -3}, "tokens"),
        (BENCH | {"canary": {"before": 0.1}}, "canary"),
        (BENCH | {"limit": {"by": "luck"}}, "limit.by"),
        (PAIR | {"verdict": "better"}, "verdict"),
        ({name: value for name, value in PAIR.items() if name != "b"}, "record"),
        ({"schema": 1, "type": "odd", "time": TIME}, "type"),
    ],
)
def test_a_wrong_field_is_named(record: dict[str, Any], field: str) -> None:
    assert [name for name, _ in schema.problems(record)] == [field]


@needs_jsonschema
def test_records_check_names_file_and_line(tmp_path: Path) -> None:
    run = report_samples.green(tmp_path)
    code, output = called("records", "check", run)
    assert code == 0 and "0 problems" in output
    shard = next(run.glob("*.jsonl"))
    text = shard.read_text().splitlines()
    text[4] = text[4].replace('"duration_s": ', '"duration_s": "slow", "was": ')
    shard.write_text("\n".join(text) + "\n")
    code, output = called("records", "check", run)
    assert code == 1 and f"{shard}:5: check: duration_s" in output.replace("\n", "") and "1 problems" in output
    assert called("records", "check", tmp_path / "nowhere")[0] == 2


def test_without_jsonschema_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "available", lambda: False)
    code, output = called("records", "check", report_samples.green(tmp_path))
    assert code == 2 and "moe-harness[schema]" in output


def test_a_schema_is_printed_and_an_unknown_one_is_exit_2() -> None:
    code, output = called("records", "schema", "check")
    assert code == 0 and json.loads(output)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    code, output = called("records", "schema", "odd")
    assert code == 2 and "no schema of 'odd'" in output


def test_a_run_of_november_is_migrated(tmp_path: Path) -> None:
    """Written by the harness of commit 90f7ada; its command and host name were replaced."""
    before = [line.record for line in lines(OLD)]
    assert "grade" not in before[2] and "noise" not in before[2]["metrics"][0] and "worker" not in before[0]
    assert migrate_run(OLD, tmp_path / "run-of-november") == 7
    after = read_run(tmp_path / "run-of-november")
    head, check, end = after[0], after[2], after[-1]
    assert head["worker"] == "" and head["requested"]["pythons"] is None and end["lost"] == []
    assert (check["grade"], check["expected"], check["capsule"], check["maps"]) == ("", None, None, {})
    assert all(metric["noise"] is None and metric["visible"] is None for metric in check["metrics"])
    assert all(new[name] == old[name] for old, new in zip(before, after, strict=True) for name in old if name in ("time", "status", "node"))
    assert verdict(load_frame([tmp_path / "run-of-november"])).counts["passed"] == 4
    if schema.available():
        assert [problem for record in after for problem in schema.problems(record)] == []


def test_version_0_has_no_number_and_calls_benchmarks_by_their_workload() -> None:
    items = [{"node": "a", "check": "prefill", "backend": "hf", "case": "c", "dtype": "float32"}]
    items += [items[0] | {"node": "b", "check": "ROUTE-01"}, items[0] | {"node": "c", "check": "BENCH-decode"}]
    found = migrate({"type": "plan", "time": TIME, "items": items})
    assert found["schema"] == SCHEMA and [item["check"] for item in found["items"]] == ["BENCH-prefill", "ROUTE-01", "BENCH-decode"]


def test_todays_records_stay_as_they_are(tmp_path: Path) -> None:
    with Recorder(tmp_path) as recorder:
        recorder.write("end", exit_status=0, duration_s=1.0, lost=[])
    (line,) = lines(tmp_path)
    assert migrate(line.record) == line.record and migrate(migrate(line.record)) == line.record


@pytest.mark.parametrize("version", [SCHEMA + 1, -1, "1", None])
def test_an_unknown_version_is_refused(tmp_path: Path, version: Any) -> None:
    with pytest.raises(RecordError, match="unknown schema"):
        migrate({"schema": version, "type": "end"})


def test_migrate_says_where_a_line_is_none(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "records-1.jsonl").write_text('{"type": "end", "time": "t", "exit_status": 0}\n[1]\n')
    code, output = called("records", "migrate", tmp_path / "run", tmp_path / "new")
    assert code == 2 and "records-1.jsonl:2: not a JSON object" in output.replace("\n", "")
    assert called("records", "migrate", tmp_path / "nowhere", tmp_path / "other")[0] == 2
