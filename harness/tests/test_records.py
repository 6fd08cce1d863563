"""Records survive what happens to the process that writes them, and a reader takes nothing on trust."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_harness.records.plain import json_safe
from moe_harness.records.record import SCHEMA, Recorder, RecordError, new_run_directory, read_run

REPO = Path(__file__).resolve().parents[2]
CHECK = {"node": "a", "check": "ROUTE-01", "backend": "native", "status": "PASS"}


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path) as opened:
        yield opened


def shard(directory: Path) -> Path:
    return next(directory.glob("records-*.jsonl"))


def test_a_record_comes_back_as_it_was_written(tmp_path: Path, recorder: Recorder):
    recorder.write("check", **CHECK, metrics=[{"name": "nmse", "value": 0.1, "bound": None}])
    (record,) = read_run(tmp_path)
    assert record["schema"] == SCHEMA and record["type"] == "check" and record["time"].endswith("+00:00")
    assert record["shard"] == shard(tmp_path).name
    assert {name: record[name] for name in CHECK} == CHECK and record["metrics"] == [{"name": "nmse", "value": 0.1, "bound": None}]


def test_nothing_is_made_before_the_first_write(tmp_path: Path):
    with Recorder(tmp_path / "run") as recorder:
        assert not (tmp_path / "run").exists()
        recorder.write("end", exit_status=0)
    assert len(shard(tmp_path / "run").read_text().splitlines()) == 1


def test_a_record_is_on_disk_when_write_returns(tmp_path: Path, recorder: Recorder):
    for number in range(3):
        recorder.write("check", **CHECK | {"node": str(number)})
        assert len(read_run(tmp_path)) == number + 1


def test_a_killed_process_keeps_what_it_recorded(tmp_path: Path):
    program = (
        "import os, signal, sys; from moe_harness.records.record import Recorder; r = Recorder(sys.argv[1])\n"
        "for i in range(5): r.write('check', node=str(i), check='A-1', backend='b', status='PASS')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=REPO, check=False)
    assert done.returncode == -9 and [record["node"] for record in read_run(tmp_path)] == list("01234")


def test_a_forked_child_writes_a_shard_of_its_own(tmp_path: Path):
    program = (
        "import os, sys; from moe_harness.records.record import Recorder; r = Recorder(sys.argv[1]); r.write('end', exit_status=0)\n"
        "if os.fork() == 0: r.write('end', exit_status=1); os._exit(0)\n"
        "os.wait(); r.write('end', exit_status=2)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=REPO, check=True)
    assert sorted(len(path.read_text().splitlines()) for path in tmp_path.glob("*.jsonl")) == [1, 2]
    assert [record["exit_status"] for record in read_run(tmp_path)] == [0, 1, 2]


def test_an_existing_shard_is_never_appended_to(tmp_path: Path):
    """Its last line may be truncated; a container's process often has the same id again."""
    for _ in range(3):
        with Recorder(tmp_path) as recorder:
            recorder.write("end", exit_status=0)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(f"records-{os.getpid()}{suffix}.jsonl" for suffix in ("", "-2", "-3"))


def test_shards_are_merged_in_time_order(tmp_path: Path):
    with Recorder(tmp_path) as one, Recorder(tmp_path) as two:
        for number, recorder in enumerate((one, two, one, two)):
            recorder.write("end", exit_status=number)
    assert [record["exit_status"] for record in read_run(tmp_path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("cut", [1, 2, 20, 10_000])
def test_a_truncated_last_line_is_reported_and_the_rest_kept(tmp_path: Path, recorder: Recorder, cut: int):
    recorder.write("check", **CHECK)
    recorder.write("check", **CHECK)
    path = shard(tmp_path)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[: max(1, len(second) - cut)])
    kinds = [record["type"] for record in read_run(tmp_path)]
    assert kinds == (["check", "check"] if cut == 1 else ["check", "truncated"])  # without its newline alone, a record is whole
    if cut > 1:
        truncated = read_run(tmp_path)[-1]
        assert (truncated["shard"], truncated["line"], truncated["schema"]) == (path.name, 2, SCHEMA)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"schema": 1,', "not JSON"),
        ("", "not JSON"),
        ("[1]", "not a JSON object"),
        ("\x00\x00", "not JSON"),
        ('{"schema": 2, "type": "end", "time": "t", "exit_status": 0}', "unknown schema 2"),
        ('{"type": "end", "time": "t", "exit_status": 0}', "unknown schema None"),
        ('{"schema": 1, "type": "odd", "time": "t"}', "unknown record type 'odd'"),
        ('{"schema": 1, "type": "end", "exit_status": 0}', "end: no time"),
        ('{"schema": 1, "type": "end", "time": "t"}', "end: no exit_status"),
        ('{"schema": 1, "type": "check", "time": "t", "node": "n", "check": "c", "backend": "b", "status": "OK"}', "unknown status 'OK'"),
        ('{"schema": 1, "type": "check", "time": "t", "node": "n", "check": "c", "backend": "b", "status": "VOID"}', "unknown status"),
    ],
)
def test_anything_else_that_is_wrong_names_file_and_line(tmp_path: Path, line: str, message: str):
    good = json.dumps({"schema": 1, "type": "end", "time": "t", "exit_status": 0})
    path = tmp_path / "records-7.jsonl"
    path.write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(RecordError) as error:
        read_run(tmp_path)
    assert str(error.value).startswith(f"{path}:2: ") and message in str(error.value)


def test_a_whole_last_line_of_an_unknown_schema_is_an_error_not_a_truncation(tmp_path: Path):
    path = tmp_path / "records-7.jsonl"
    path.write_text('{"schema": 99, "type": "end", "time": "t", "exit_status": 0}\n')
    with pytest.raises(RecordError, match=r"records-7\.jsonl:1: unknown schema 99"):
        read_run(tmp_path)


def test_a_missing_directory_is_an_error_and_an_empty_one_is_not(tmp_path: Path):
    assert read_run(tmp_path) == []
    with pytest.raises(RecordError, match="no such run directory"):
        read_run(tmp_path / "absent")


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("chek", {}, "unknown record type"),
        ("check", CHECK | {"status": "VOID"}, "unknown status 'VOID'"),
        ("check", {"check": "ROUTE-01", "backend": "b", "status": "PASS"}, "check: no node"),
        ("check", CHECK | {"time": "now"}, "reserved field time"),
        ("check", CHECK | {"shard": "x"}, "reserved field shard"),
        ("check", CHECK | {"evidence": {"model": object()}}, r"evidence\.model: object has no form"),
        ("check", CHECK | {"reason": b"bytes"}, "reason: bytes has no form"),
    ],
)
def test_a_bad_record_is_refused_and_leaves_no_trace(tmp_path: Path, kind: str, fields: dict, message: str):
    with pytest.raises(RecordError, match=message):
        Recorder(tmp_path).write(kind, **fields)
    assert read_run(tmp_path) == []


def test_values_without_a_number_and_numpy_values_are_json_safe(tmp_path: Path, recorder: Recorder):
    values = {
        "nan": math.nan, "inf": np.float32("inf"), "minus": -math.inf, "f32": np.float32(0.5), "f64": np.float64(0.1), "int": np.int64(7),
        "bool": np.bool_(True), "bf16": ml_dtypes.bfloat16(1.5), "array": np.array([[1.0, np.nan]]), "long": np.longdouble(0.25),
        "empty": np.zeros((0, 3)), "path": Path("a/b"), "set": {2, 1}, "tuple": (1, None), "key": {1: "one"}, "text": "é\u2028\n\ud800",
    }  # fmt: skip
    recorder.write("check", **CHECK, evidence=values)
    found = read_run(tmp_path)[0]["evidence"]
    assert found == {
        "nan": "nan", "inf": "inf", "minus": "-inf", "f32": 0.5, "f64": 0.1, "int": 7, "bool": True, "bf16": 1.5, "array": [[1.0, "nan"]],
        "long": 0.25, "empty": [], "path": "a/b", "set": [1, 2], "tuple": [1, None], "key": {"1": "one"}, "text": "é\u2028\n\ud800",
    }  # fmt: skip
    assert len(shard(tmp_path).read_bytes().splitlines()) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_every_json_value_comes_back_as_it_is(value):
    assert json_safe(value) == value
    with tempfile.TemporaryDirectory() as directory:
        with Recorder(Path(directory)) as recorder:
            recorder.write("end", exit_status=0, value=value)
        assert read_run(Path(directory))[0]["value"] == value


def test_run_directories_are_new_and_sort_by_time(tmp_path: Path):
    made = [new_run_directory(tmp_path / "runs") for _ in range(50)]
    assert len(set(made)) == 50 and made == sorted(made) and all(path.is_dir() for path in made)
    assert all(len(path.name) == len("20260302T020000.000000Z-1c2d") for path in made)
