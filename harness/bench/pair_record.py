"""`pair` records: two backends timed in turn. One line each in `pairs-<pid>.jsonl` beside the shards of the run, which hold one backend a
record.

Fields: those of a `bench` record that say who and how (node, workload, case, dtype, parameters, status, reason, reproduce); a, b
(backends); samples_a, samples_b ([seconds a step] per block, in order of time); blocks (of each series, whose samples follow one another);
canaries ([seconds] of each series, one before its first block and one after each); disturbed (numbers of blocks); ratio (b's time over
a's), low, high, confidence, delta, mde, verdict (faster | slower | equivalent | inconclusive, of b against a); first_call_s, warmup,
steady ([a's, b's]); sameness {routing, distance, difference}. Numbers are null where there is no answer.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.record import SCHEMA, RecordError, json_safe


def write(directory: Path, **fields: Any) -> None:
    """Appends one line. Raises RecordError for a value that JSON cannot hold."""
    time = datetime.now(UTC).isoformat(timespec="microseconds")
    record = {"schema": SCHEMA, "type": "pair", "time": time, **json_safe(fields, "pair")}
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / f"pairs-{os.getpid()}.jsonl").open("a", encoding="ascii") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def read(directory: Path) -> list[dict[str, Any]]:
    """All of a run, in order of time. Raises RecordError naming file and line for what is no such record; a last line without its end, of a
    killed process, is left out."""
    found = [record for shard in sorted(directory.glob("pairs-*.jsonl")) for record in _read(shard)]
    return sorted(found, key=lambda record: str(record["time"]))


def _read(shard: Path) -> list[dict[str, Any]]:
    found = []
    for number, line in enumerate(shard.read_text("utf-8").split("\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RecordError(f"{shard}:{number}: not JSON: {error}") from error
        if not isinstance(record, dict) or record.get("type") != "pair" or record.get("schema") != SCHEMA:
            raise RecordError(f"{shard}:{number}: no pair record of schema {SCHEMA}")
        found.append(record)
    return found
