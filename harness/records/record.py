"""Records: versioned JSONL, one shard per process, one unbuffered line per record, so that a killed run keeps what it recorded.

A run directory holds shards `records-<pid>.jsonl` (see shard.py). Every record has `schema`, `type`, `time` (UTC, ISO 8601) and the fields
of its type:

- `run`: run_id, command (argv), environment (see environment.py), requested {backends, dtypes, checkpoints, pythons, require: None |
  "device"}, worker (xdist's worker, "" without), contract (version of the contract with backends)
- `plan`: items [{node, check, backend, case, dtype, title}]: all that the run intends to judge or time; a benchmark's `check` is
  "BENCH-" and its workload. Repeats (one per worker) are merged by node.
- `expectations`: entries [{source, check, backend, case, dtype, reason, url, expires, fate: covers | stale | not asked}]: what --expect
  brought; see expectations.py. Repeats are merged by source
- `profile`: name, kind, released, sha256, required {check: [dtype]}: what --profile asks for; repeated by every worker
- `selftest`: current, figures (None, or {version, date, mode, faults {killed, expressed, survivors}, corpus {killed, expressed, total},
  honest {runs, alarms, rate_below, confidence}, effects}; see selftest/figures.py): how far the harness itself was measured; `current`:
  whether it is this harness that was. Repeated by every worker
- `check`: node, check ("ROUTE-01"), title, backend, execution, execution_note, case, dtype, status, reason, metrics, evidence {tokens,
  experts_hit, flips_excused, ...}, maps {metric: {values, bounds}} (of every [MoE layer][expert], to three digits),
  grade (how much the backend shows: A to D, "" unknown), duration_s, reproduce, expected (None, or the {source, reason, url, expires} that
  makes it KNOWN), capsule (None, or the path in the run's directory of the evidence of a FAIL: see harness/repro), compilation (of a
  backend that tells it, since its record before: fields of the contract's Compilation; not there when nothing was made)
- `bench`: node, workload, backend, execution, execution_note, case, dtype, parameters, status, reason, unit ("s"), samples (per round),
  tokens (per round), gate (metrics of the timed object), compilation as in `check`, reproduce
- `pair`: two backends timed in turn. Who and how as in `bench` (node, workload, case, dtype, parameters, status, reason, reproduce); a, b
  (backends); samples_a, samples_b ([seconds a step] per block, in order of time); blocks (of each series, whose samples follow one
  another); canaries ([seconds] of each series, one before its first block and one after each); disturbed (numbers of blocks); ratio (b's
  time over a's), low, high, confidence, delta, mde, verdict (faster | slower | equivalent | inconclusive, of b against a); first_call_s,
  warmup, steady ([a's, b's]); sameness {routing, distance, difference}. Numbers are null where there is no answer
- `timing_selftest`: figures: how often such verdicts are wrong
- `end`: exit_status (pytest's own number), duration_s, lost [shard]: of workers that died; the controller wrote the record they owed

A process that opens its part with `run` closes it with `end`; a run may have several parts (workers, checks then benchmarks).
A metric is {name, value, bound, noise, visible, kind}: kind "judged" passes iff value <= bound, "reported" has no say. `noise`: what an
honest implementation typically shows, `visible`: the smallest further error that would have failed; None where rounding excuses nothing.
The reader adds `shard`, the file's name, to every record, and makes `truncated`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from moe_harness.records.plain import json_safe
from moe_harness.records.shard import Shard, shards
from moe_harness.records.status import BENCH_STATUSES, CHECK_STATUSES
from moe_harness.records.whole import writing

SCHEMA = 1
RUNS = Path("reports") / "runs"  # where run directories are made
REQUIRED = {
    "run": ("run_id",),
    "plan": ("items",),
    "expectations": ("entries",),
    "profile": ("name", "required"),
    "selftest": ("current", "figures"),
    "check": ("node", "check", "backend", "status"),
    "bench": ("node", "workload", "backend", "status"),
    "pair": ("workload", "a", "b", "status"),
    "timing_selftest": ("figures",),
    "end": ("exit_status",),
}
_STATUSES = {"check": CHECK_STATUSES, "bench": BENCH_STATUSES, "pair": BENCH_STATUSES}
_ID = re.compile(r"\d{8}T\d{6}\.\d+Z-[0-9a-f]{4}")  # as new_run_id makes them
_RESERVED = frozenset({"schema", "type", "time", "shard"})


class RecordError(Exception):
    """A record that cannot be written or read. A reader's message starts with file:line."""


class Recorder:
    """Appends records to a shard of its own in `directory`, which is made, with the file, by the first write. Fork-safe: a child process
    that inherits a Recorder opens its own shard."""

    def __init__(self, directory: Path):
        self.directory = Path(directory)
        self._file: FileIO | None = None
        self._pid = 0

    def write(self, type: str, /, **fields: Any) -> None:
        """Writes one line with one system call. NaN and infinities become "nan", "inf", "-inf"; numpy values become Python's.

        Raises RecordError for an unknown type or status, a missing or reserved field, and a value that JSON cannot hold; Unwritable where
        the disk is full or does not let us.
        """
        if reserved := sorted(_RESERVED & fields.keys()):
            raise RecordError(f"{type}: reserved field {', '.join(reserved)}")
        time = datetime.now(UTC).isoformat(timespec="microseconds")
        record = {"schema": SCHEMA, "type": type, "time": time, **_plain(fields)}
        if problem := _problem(record):
            raise RecordError(problem)
        line = (json.dumps(record, allow_nan=False) + "\n").encode("ascii")
        with writing(self.directory):
            if self._shard().write(line) != len(line):
                raise OSError(errno.ENOSPC, "a record was written in part only (disk full?)")

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the shard; a later write opens another one."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _shard(self) -> FileIO:
        if self._file is None or self._pid != os.getpid():
            self.directory.mkdir(parents=True, exist_ok=True)
            self._file, self._pid = _new_shard(self.directory), os.getpid()
        return self._file


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {name: json_safe(value, name) for name, value in fields.items()}
    except ValueError as error:
        raise RecordError(str(error)) from error


def _new_shard(directory: Path) -> FileIO:
    """Never an existing file: its last line may be truncated, and a new record glued to it would be lost with it."""
    for attempt in range(1, 1000):
        suffix = "" if attempt == 1 else f"-{attempt}"
        try:
            return FileIO(directory / f"records-{os.getpid()}{suffix}.jsonl", "x")
        except FileExistsError:
            continue
    raise RecordError(f"{directory}: no free shard name")


def read_run(directory: Path) -> list[dict[str, Any]]:
    """All records of a run directory in time order. A shard's last line without its newline (killed process) becomes a record of type
    "truncated" with `shard` and `line`; anything else that is wrong raises RecordError naming file and line."""
    directory = Path(directory)
    if not directory.is_dir():
        raise RecordError(f"{directory}: no such run directory")
    records = [record for shard in shards(directory) for record in _read_shard(shard)]
    return sorted(records, key=lambda record: record["time"])


def _read_shard(shard: Shard) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    lines = _content(shard).split(b"\n")
    for number, line in enumerate(lines, start=1):
        last = number == len(lines)  # what stands behind the last newline: empty unless the writer was killed
        if last and not line:
            continue
        record, problem = _parse(line)
        if problem is None:
            records.append(record | {"shard": shard.name})
        elif last:
            time = records[-1]["time"] if records else ""
            records.append({"schema": SCHEMA, "type": "truncated", "time": time, "shard": shard.name, "line": number})
        else:
            raise RecordError(f"{shard.path}:{number}: {problem}")
    return records


def _content(shard: Shard) -> bytes:
    try:
        return shard.content()
    except ValueError as error:
        raise RecordError(str(error)) from error


def _parse(line: bytes) -> tuple[dict[str, Any], str | None]:
    try:
        record = json.loads(line)
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        return {}, f"not JSON: {error}"
    if not isinstance(record, dict):
        return {}, "not a JSON object"
    return record, _problem(record)


def _problem(record: Mapping[str, Any]) -> str | None:
    """Why `record` is not one of this schema; None if it is."""
    if record.get("schema") != SCHEMA:
        return f"unknown schema {record.get('schema')!r}, this reader knows {SCHEMA}"
    kind = record.get("type")
    if kind not in REQUIRED:
        return f"unknown record type {kind!r}"
    if not isinstance(record.get("time"), str):
        return f"{kind}: no time"
    if missing := [name for name in REQUIRED[kind] if name not in record]:
        return f"{kind}: no {', '.join(missing)}"
    if kind in _STATUSES and record["status"] not in _STATUSES[kind]:
        return f"{kind}: unknown status {record['status']!r}"
    return None


def new_run_id() -> str:
    return f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%S.%fZ')}-{secrets.token_hex(2)}"


def run_name(recorded: object, directory: Path) -> str:
    """What a run is called: the id that was made for it, wherever it lies now; or else, where its user named the directory, as that is
    named now, since several machines may use one name."""
    return str(recorded) if _ID.fullmatch(str(recorded)) else directory.name


def new_run_directory(root: Path) -> Path:
    """Makes `root/<id>`: id = UTC time to the microsecond and a random part, so it sorts by time. An existing directory is never reused."""
    while True:
        path = Path(root) / new_run_id()
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:
            continue
