"""A run's records: its shards, and the pairs, which lie in files of their own beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.record import SCHEMA, RecordError, read_run


def read(directory: Path) -> list[dict[str, Any]]:
    """In time order. Raises RecordError naming file and line."""
    pairs = [record for path in sorted(Path(directory).glob("pairs-*.jsonl")) for record in _pairs(path)]
    return sorted([*read_run(directory), *pairs], key=lambda record: record["time"])


def _pairs(path: Path) -> Iterator[dict[str, Any]]:
    """A last line without its end, of a killed process, is left out. No `shard` is added: whether the run ended is for those to say."""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise RecordError(f"{path}:{number}: not JSON: {error}") from error
        if (
            not isinstance(record, dict)
            or record.get("type") != "pair"
            or record.get("schema") != SCHEMA
            or not isinstance(record.get("time"), str)
        ):
            raise RecordError(f"{path}:{number}: no pair record of schema {SCHEMA}")
        yield record
