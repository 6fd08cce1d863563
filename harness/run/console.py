"""What a run prints at its end: the failing checks, the counts by status, where the records are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_harness.records.status import FAILING

SHOWN, WIDTH = 20, 160


def summary(terminalreporter: Any, records: Sequence[Mapping[str, Any]], directory: Path, notes: Sequence[str] = ()) -> None:
    """`records`: those of checks and benchmarks; `notes`: what else makes the run fail. Where pytest prints no tracebacks (`moe-harness
    run`), each failure has one line here."""
    counts = Counter(record["status"] for record in records)
    terminalreporter.write_sep("-", f"moe-harness: {', '.join(f'{n} {status}' for status, n in sorted(counts.items())) or 'nothing ran'}")
    if terminalreporter.config.option.tbstyle == "no":
        for text in failing_lines(records):
            terminalreporter.write_line(text)
    for note in notes:
        terminalreporter.write_line(note)
    terminalreporter.write_line(f"records: {directory}")


def failing_lines(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Status, check, place and the first line of the reason, of the first few failures."""
    lines = [_line(record) for record in records if record["status"] in FAILING]
    return lines[:SHOWN] + ([f"and {len(lines) - SHOWN} more, in the report"] if len(lines) > SHOWN else [])


def _line(record: Mapping[str, Any]) -> str:
    place = " ".join(str(record.get(name) or "") for name in ("backend", "case", "dtype"))
    reason = str(record.get("reason") or "").partition("\n")[0]
    text = f"{record['status']} {record.get('check') or record.get('workload')} {place}: {reason}"
    return text if len(text) <= WIDTH else text[: WIDTH - 4] + " ..."
