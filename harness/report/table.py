"""The frame as CSV: one row per check or benchmark record, and per planned node without one."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.records.status import Status
from moe_harness.report.speed import Speed, speeds

COLUMNS = (
    "run machine kind node check title backend execution execution_note case dtype status reason metric value bound ratio metrics evidence "
    "duration_s parameters rounds median_s low_s high_s tokens tokens_per_s ratio_to_peer peer facts reproduce"
).split()
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would run such a cell


def table(frame: Frame) -> str:
    """A speed has numbers only if its object conforms. Texts that a spreadsheet would take for a formula get a leading apostrophe."""
    found = {speed.row["id"]: speed for speed in speeds(frame)}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in frame.records():
        full = _row(row, found.get(row["id"]))
        writer.writerow([_cell(full.get(name)) for name in COLUMNS])
    return buffer.getvalue()


def _row(row: dict[str, Any], speed: Speed | None) -> dict[str, Any]:
    facts = _json(row["facts"]) if row["status"] == Status.PASS else ""
    row = row | {"metrics": _json([vars(metric) for metric in row["metrics"]]), "evidence": _json(row["evidence"]), "facts": facts}
    if speed is None or speed.median is None:
        return row | {"tokens": None}
    numbers = {"rounds": speed.rounds, "median_s": speed.median, "low_s": speed.low, "high_s": speed.high}
    return row | numbers | {"tokens_per_s": speed.tokens_per_s, "ratio_to_peer": speed.ratio, "peer": speed.peer}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True) if value else ""


def _cell(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value.startswith(_FORMULA) else value
