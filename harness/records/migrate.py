"""Records of earlier versions in today's form: a chain of steps, each from one version of the schema to the next.

Version 0 are records without `schema`. Version 1 has grown fields since its first records; what their absence meant is written out, so that
a migrated record says all that today's records say. What was not measured stays unknown (None), nothing is invented.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moe_harness.records.lines import shards
from moe_harness.records.record import SCHEMA, RecordError
from moe_harness.records.shard import Shard

Record = dict[str, Any]
_ABSENT: Mapping[str, Mapping[str, Any]] = {
    "run": {"command": [], "worker": "", "contract": "1.0"},
    "check": {"title": "", "grade": "", "expected": None, "capsule": None, "maps": {}, "metrics": [], "evidence": {}},
    "bench": {"grade": "", "gate": [], "samples": []},
    "end": {"lost": []},
}
_REQUESTED = {"backends": None, "dtypes": None, "checkpoints": None, "pythons": None, "require": None}
_METRIC = {"noise": None, "visible": None}


def migrate(record: Mapping[str, Any]) -> Record:
    """A record of any earlier version as one of SCHEMA. Raises RecordError for a version that is newer, or none."""
    version = record.get("schema", 0)
    if not isinstance(version, int) or not 0 <= version <= SCHEMA:
        raise RecordError(f"unknown schema {version!r}: records of 0 to {SCHEMA} can be migrated")
    found = dict(record)
    while version < SCHEMA:
        found = STEPS[version](found) | {"schema": version + 1}
        version += 1
    return _completed(found)


def migrate_run(directory: Path, target: Path) -> int:
    """Writes a run's shards, migrated, into a new directory; a last line that was cut off stays so. Returns the number of records.
    Raises RecordError for a line that is no record, FileExistsError where the target is."""
    target.mkdir(parents=True)
    count = 0
    for shard in shards(directory):
        *whole, rest = shard.content().split(b"\n")
        migrated = [_line(shard, number, line) for number, line in enumerate(whole, start=1)]
        (target / shard.name).write_bytes(b"".join(migrated) + rest)
        count += len(migrated)
    return count


def _line(shard: Shard, number: int, line: bytes) -> bytes:
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise RecordError("not a JSON object")
        return (json.dumps(migrate(record), allow_nan=False) + "\n").encode("ascii")
    except (ValueError, RecordError) as error:
        raise RecordError(f"{shard.path}:{number}: {error}") from error


def _to_1(record: Record) -> Record:
    """The first records had no number; a plan called a benchmark by its workload alone, which cannot be told from a check's id without
    a dash."""
    if record.get("type") == "plan":
        items = [item | {"check": item["check"] if "-" in item["check"] else f"BENCH-{item['check']}"} for item in record["items"]]
        return record | {"items": items}
    return record


STEPS: Mapping[int, Callable[[Record], Record]] = {0: _to_1}


def _completed(record: Record) -> Record:
    """With the fields that version 1 has grown."""
    found = {**_ABSENT.get(str(record.get("type")), {}), **record}
    if found.get("type") == "run":
        found["requested"] = {**_REQUESTED, **(found.get("requested") or {})}
    if found.get("type") == "plan":
        found["items"] = [{"title": "", **item} for item in found["items"]]
    for name in ("metrics", "gate"):
        if name in found:
            found[name] = [{**_METRIC, **metric} for metric in found[name]]
    return found
