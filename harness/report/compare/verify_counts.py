"""The counts of a verdict, from statuses that follow from metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moe_harness.records.finding import Finding
from moe_harness.records.frame import Frame
from moe_harness.records.status import Status
from moe_harness.report.compare import recompute
from moe_harness.report.verdict import verdict

Record = Mapping[str, Any]
_KNOWN = ("passed", "failed", "inconclusive", "void", "not run", "known", "unsupported", "unavailable", "measured")
_LABELS: dict[str, str] = {Status.FAIL: "failed", Status.CRASHED: "failed", Status.TIMEOUT: "failed", Status.VOID: "void"}


def counts(runs: Sequence[Sequence[Record]]) -> Counter[str]:
    """Label -> number, over runs. A pair that PASSes is counted by its own verdict, and not here."""
    found: Counter[str] = Counter()
    for records in runs:
        ended = recompute.told_once(records)
        found.update(_label(record) for record in ended)
        planned = {str(item["node"]) for record in records if record["type"] == "plan" for item in record["items"]}
        found["not run"] += len(planned - {str(record.get("node")) for record in ended})
    return found


def _label(record: Record) -> str:
    status = recompute.status(record)
    if status == Status.PASS:
        return {"check": "passed", "bench": "measured"}.get(str(record["type"]), "pairs")
    return _LABELS.get(status, status.lower())


def count_findings(frame: Frame, runs: Sequence[Sequence[Record]]) -> Iterator[Finding]:
    """Where the report's verdict counts otherwise."""
    expected = counts(runs)
    for label, number in verdict(frame).counts.items():
        if label in _KNOWN and number != expected[label]:
            yield Finding("counts", "verdict", "", label, str(number), str(expected[label]))
