"""A run's files against its seal: which record was changed, deleted or added."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moe_harness.records import seal
from moe_harness.records.finding import Finding
from moe_harness.records.lines import lines


def seal_findings(directory: Path, anchor: str | None = None) -> list[Finding]:
    """Nothing where there is no seal and none is asked for. `anchor`: the digest that the run printed, or its beginning."""
    sealed = seal.read(directory)
    if sealed is None:
        return [_about("digest", "no seal", f"{anchor}...")] if anchor else []
    found = [_about("digest", sealed["digest"], seal.digest(sealed))] if sealed.get("digest") != seal.digest(sealed) else []
    if anchor and not str(sealed.get("digest")).startswith(anchor):
        found.append(_about("digest", sealed.get("digest"), f"{anchor}..., as handed over"))
    return [*found, *_differences(directory, sealed, seal.compute(directory))]


def _about(field: str, recorded: Any, recomputed: Any) -> Finding:
    return Finding(seal.FILE, "seal", "", field, str(recorded), str(recomputed))


def _differences(directory: Path, sealed: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Finding]:
    for name in sorted({*sealed["shards"], *now["shards"]}):
        before, after = sealed["shards"].get(name), now["shards"].get(name)
        if before is None or after is None:
            yield _about(f"shards.{name}", *(("sealed", "gone") if after is None else ("not sealed", "there")))
        elif before["sha256"] != after["sha256"] or before["chain"] != after["chain"]:
            yield from _shard(directory, name, before, after)
    for name in sorted({*sealed["files"], *now["files"]}):
        old, new = sealed["files"].get(name, "not sealed"), now["files"].get(name, "gone")
        if old != new:
            yield _about(f"files.{name}", old[: seal.SHORT], new[: seal.SHORT])


def _shard(directory: Path, name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Finding]:
    changes = list(seal.changed_lines(before, after))
    if not changes:
        yield _about(f"shards.{name}.sha256", before["sha256"][: seal.SHORT], after["sha256"][: seal.SHORT])
    records = {line.number: line.record for line in lines(directory) if line.shard == name}
    missing = _owed(directory)
    for what, old, new in changes:
        record = records.get(new) or {}
        node = str(record.get("node") or "") if new else ", ".join(missing)
        recorded = f"sealed as {before['lines'][old - 1]}" if old else "not sealed"
        yield Finding(f"{name}:{old or new}", str(record.get("type") or "record"), node, "line", recorded, f"{what} since")


def _owed(directory: Path) -> list[str]:
    """Planned nodes without a record: one of them may be the deleted one."""
    records = [line.record for line in lines(directory) if line.record is not None]
    planned = [item["node"] for record in records if record.get("type") == "plan" for item in record["items"]]
    seen = {record.get("node") for record in records if record.get("type") in ("check", "bench")}
    return [json.dumps(node)[1:-1] for node in dict.fromkeys(planned) if node not in seen][:3]
