"""The lines of a run directory as they stand there: nothing is merged, repaired or left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_harness.records import shard
from moe_harness.records.record import RecordError
from moe_harness.records.shard import Shard


@dataclass(frozen=True)
class Line:
    """`number` from 1; `text` without its newline; `record` None where it is no JSON object."""

    shard: str
    number: int
    text: bytes
    record: dict[str, Any] | None


def shards(directory: Path) -> list[Shard]:
    """Raises RecordError where there is no such directory."""
    if not directory.is_dir():
        raise RecordError(f"{directory}: no such run directory")
    return shard.shards(directory)


def lines(directory: Path) -> Iterator[Line]:
    """Shard by shard."""
    for each in shards(directory):
        for number, text in enumerate(each.content().splitlines(), start=1):
            yield Line(each.name, number, text, _parsed(text))


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
