"""A written report against the records it was made from: every number of results.csv recomputed, every other file made again."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from moe_harness.records.finding import Finding
from moe_harness.records.frame import Frame
from moe_harness.records.status import Status
from moe_harness.report.build import files
from moe_harness.report.compare import recompute

Record = Mapping[str, Any]
CSV = "results.csv"
_NUMBERS = ("value", "bound", "ratio", "duration_s", "rounds", "median_s", "low_s", "high_s", "tokens_per_s")
_SHOWN = 160  # characters of a line
_EMPTY = ("", "")


def is_of(out: Path, run_ids: Sequence[str]) -> bool:
    """Whether the report in `out` is one of exactly these runs."""
    return (out / CSV).is_file() and {row["run"] for row in _rows(out)} == set(run_ids)


def csv_findings(out: Path, runs: Mapping[str, Sequence[Record]]) -> Iterator[Finding]:
    """`runs`: records by run id. A row of the file is the record of its run and node; the n-th of several the n-th."""
    owed, rows = _owed(runs), _rows(out)
    for row in rows:
        waiting = owed.get((row["run"], row["kind"], row["node"]), [])
        if waiting:
            yield from _row(row, waiting.pop(0))
        elif row["status"] != Status.NOT_RUN:
            yield Finding(CSV, row["kind"], row["node"], "row", "a row", "no record")
    left = (record for waiting in owed.values() for record in waiting)
    yield from (Finding(CSV, str(record["type"]), str(record["node"]), "row", "no row", "a record") for record in left)
    yield from _peer_findings(rows)


def _owed(runs: Mapping[str, Sequence[Record]]) -> dict[tuple[str, str, str], list[Record]]:
    owed: dict[tuple[str, str, str], list[Record]] = {}
    for run, records in runs.items():
        for record in recompute.told_once(records):
            owed.setdefault((run, str(record["type"]), str(record.get("node"))), []).append(record)
    return owed


def _row(row: Mapping[str, str], record: Record) -> Iterator[Finding]:
    expected = recompute.row(record)
    for name in ("status", *_NUMBERS):
        if name in row and not _same(row[name], expected.get(name)):
            shown = expected.get(name)
            yield Finding(CSV, str(record["type"]), row["node"], name, row[name] or "nothing", "nothing" if shown is None else str(shown))


def _peer_findings(rows: Sequence[Mapping[str, str]]) -> list[Finding]:
    """A ratio is the peer's median over the row's own: the fastest row of the same question, machine and parameters that names itself."""
    names = ("run", "check", "case", "dtype", "parameters", "machine")
    peers = {(*(row[name] for name in names), row["backend"]): row for row in rows if row.get("peer") == row["backend"]}
    found: list[Finding] = []
    for row in rows:
        if not row.get("ratio_to_peer"):
            continue
        peer = peers.get((*(row[name] for name in names), row["peer"]))
        ratio = recompute.number(peer["median_s"]) / recompute.number(row["median_s"]) if peer else math.nan
        if not _same(row["ratio_to_peer"], ratio):
            found.append(Finding(CSV, row["kind"], row["node"], "ratio_to_peer", row["ratio_to_peer"], str(ratio)))
    return found


def _same(cell: str, value: Any) -> bool:
    if value is None or isinstance(value, str):
        return cell == (value or "")
    return math.isclose(recompute.number(cell), recompute.number(value), rel_tol=1e-9) or recompute.number(cell) == value


def file_findings(out: Path, frame: Frame) -> Iterator[Finding]:
    """The first line in which a file of the report is not what the records give now, and give against the frame's base."""
    for name, again in files(frame).items():
        if (out / name).is_file() and (difference := _first_difference((out / name).read_bytes().decode("utf-8"), again)):
            number, *sides = difference
            yield Finding(f"{name}:{number}", "file", "", "line", *sides)


def _first_difference(written: str, again: str) -> tuple[int, str, str] | None:
    pair = (text.split("\n") for text in (written, again))
    for number, (one, other) in enumerate(zip_longest(*pair, fillvalue="(no line)"), start=1):
        if one != other:
            start = max(0, next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0) - 40)
            return number, one[start : start + _SHOWN].strip(), other[start : start + _SHOWN].strip()
    return None


def _rows(out: Path) -> list[dict[str, str]]:
    """Texts that a spreadsheet would run carry an apostrophe: it is taken off."""
    with (out / CSV).open(encoding="utf-8", newline="") as file:
        return [{name: _bare(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def _bare(cell: str | None) -> str:
    text = cell or ""
    return text[1:] if text.startswith("'") and text[1:2] in "=+-@\t\r" and len(text) > 1 else text
