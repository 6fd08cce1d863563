"""Everything that a report shows, checked against what was measured: seals, records, the written report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.history import schema, seal
from harness.history.finding import Finding
from harness.history.lines import beside, run_id
from harness.history.verify_records import Again, record_findings
from harness.history.verify_report import csv_findings, file_findings, is_of
from harness.history.verify_seal import seal_findings
from harness.record import read_run


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


def verify(directories: Sequence[Path], out: Path, anchor: str | None = None, again: Again | None = None) -> Verification:
    """`out`: where the report was written; `anchor`: the seal as the run printed it; `again`: estimates a pair from its samples. Raises
    RecordError for what cannot be read."""
    found: list[Finding] = []
    notes: list[str] = []
    runs = {run_id(directory): [*read_run(directory), *beside(directory)] for directory in directories}
    for directory, records in zip(directories, runs.values(), strict=True):
        broken = seal_findings(directory, anchor)
        sealed = seal.read(directory) is not None
        found += [*broken, *record_findings(records, sealed and not broken, again), *_schema(records)]
        notes += [] if sealed else [f"{directory}: no seal, so a change that contradicts nothing is not seen"]
    if is_of(out, list(runs)):
        found += [*csv_findings(out, runs), *file_findings(out, directories)]
    else:
        notes.append(f"{out}: no report of these runs, so none was compared")
    notes += [] if schema.available() else [schema.MISSING]
    return Verification(tuple(found), tuple(notes), sum(map(len, runs.values())))


def _schema(records: Sequence[dict[str, Any]]) -> list[Finding]:
    if not schema.available():
        return []
    return [schema.as_finding(record, problem) for record in records for problem in schema.problems(record)]
