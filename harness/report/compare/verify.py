"""Everything that a report shows, checked against what was measured: seals, records, the written report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_harness.records import schema, seal
from moe_harness.records.finding import Finding
from moe_harness.records.lines import run_id
from moe_harness.records.record import read_run
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
class Question:
    """`out`: where the report of the runs was written; `base`: the runs that it compares with; `anchor`: the seal as the run printed it;
    `again`: estimates a pair from its samples."""

    runs: Sequence[Path]
    out: Path
    base: Sequence[Path] = ()
    anchor: str | None = None
    again: Again | None = None


def verify(asked: Question) -> Verification:
    """Raises RecordError for what cannot be read."""
    runs = {run_id(directory): read_run(directory) for directory in asked.runs}
    found: list[Finding] = []
    notes: list[str] = []
    for directory, records in zip(asked.runs, runs.values(), strict=True):
        broken = seal_findings(directory, asked.anchor)
        sealed = seal.read(directory) is not None
        found += [*broken, *record_findings(records, sealed and not broken, asked.again), *_schema(records)]
        notes += [] if sealed else [f"{directory}: no seal, so a change that contradicts nothing is not seen"]
    found += count_findings(asked.runs, list(runs.values()))
    if is_of(asked.out, list(runs)):
        found += [*csv_findings(asked.out, runs), *file_findings(asked.out, asked.runs, asked.base)]
    else:
        notes.append(f"{asked.out}: no report of these runs, so none was compared")
    notes += [] if schema.available() else [schema.MISSING]
    return Verification(tuple(found), tuple(notes), sum(map(len, runs.values())))


def _schema(records: Sequence[dict[str, Any]]) -> list[Finding]:
    if not schema.available():
        return []
    return [schema.as_finding(record, problem) for record in records for problem in schema.problems(record)]
