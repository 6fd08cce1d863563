"""One number or fact that is not what its raw data say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """`source`: the file; `type`, `node`: of the record; `recorded`: what stands there, `recomputed`: what the raw data give."""

    source: str
    type: str
    node: str
    field: str
    recorded: str
    recomputed: str

    def __str__(self) -> str:
        who = " ".join(filter(None, (self.type, self.node)))
        return f"{self.source}: {who}: {self.field}: recorded {self.recorded}, recomputed {self.recomputed}"


def of(record: Mapping[str, Any], field: str, recorded: Any, recomputed: Any) -> Finding:
    """A finding about a record's own field."""
    return Finding(
        str(record.get("shard") or ""),
        str(record.get("type") or ""),
        str(record.get("node") or ""),
        field,
        _text(recorded),
        _text(recomputed),
    )


def _text(value: Any) -> str:
    return f"{value:.17g}" if isinstance(value, float) else str(value)
