"""Everything that a report shows, checked against what was measured: seals, records, the written report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_harness.records import schema, seal
from moe_harness.records.finding import Finding
from moe_harness.records.frame import frame_of
from moe_harness.records.raw import RawRun
from moe_harness.report.compare.verify_counts import count_findings
from moe_harness.report.compare.verify_records import Again, record_findings
from moe_harness.report.compare.verify_report import csv_findings, file_findings, is_of
from moe_harness.report.compare.verify_seal import seal_findings


@dataclass(frozen=True)
class Verification:
    """`notes`: what was not looked at, and why. `records`: how many were."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    records: int

    @property
    def sentence(self) -> str:
        if self.findings:
            return f"{len(self.findings)} findings in {self.records} records"
        return f"{self.records} records: every number follows from its raw data"


@dataclass(frozen=True)
class WrittenReport:
    """The report of `runs` that was written into `out`. `base`: the runs that it compares with; `anchor`: the seal as the run printed it;
    `again`: estimates a pair from its samples."""

    runs: Sequence[RawRun]
    out: Path
    base: Sequence[RawRun] = ()
    anchor: str | None = None
    again: Again | None = None


def verify(report: WrittenReport) -> Verification:
    """Raises RecordError for a seal that is none, ValueError for the same run given twice."""
    frame = frame_of(report.runs, report.base)
    runs = {raw.run_id: raw.records for raw in report.runs}
    found: list[Finding] = []
    notes: list[str] = []
    for raw in report.runs:
        broken = seal_findings(raw.directory, report.anchor)
        sealed = seal.read(raw.directory) is not None
        found += [*broken, *record_findings(raw.records, sealed and not broken, report.again), *_schema(raw.records)]
        notes += [] if sealed else [f"{raw.directory}: no seal, so a change that contradicts nothing is not seen"]
    found += count_findings(frame, list(runs.values()))
    if is_of(report.out, list(runs)):
        found += [*csv_findings(report.out, runs), *file_findings(report.out, frame)]
    else:
        notes.append(f"{report.out}: no report of these runs, so none was compared")
    notes += [] if schema.available() else [schema.MISSING]
    return Verification(tuple(found), tuple(notes), sum(map(len, runs.values())))


def _schema(records: Sequence[dict[str, Any]]) -> list[Finding]:
    if not schema.available():
        return []
    return [schema.as_finding(record, problem) for record in records for problem in schema.problems(record)]
