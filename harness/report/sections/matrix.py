"""Checks by backends, one symbol a cell."""

from __future__ import annotations

from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.records.status import STATUSES, Status
from moe_harness.report import template
from moe_harness.report.matrix import EXECUTIONS, Matrix, cells, matrix, overview

TITLE = "All clauses"
ORDER = 38


def render(frame: Frame) -> str:
    """Nothing where the first screen shows all of it already."""
    found, seen = matrix(frame), overview(frame)
    if found is None or (seen is not None and seen.whole and len(seen.widths) == len(found.widths)):
        return ""
    return template.render("matrix", matrix=found, **legend(frame, found))


def legend(frame: Frame, shown: Matrix) -> dict[str, Any]:
    """The statuses that occur and the places where backends ran."""
    checks = frame.rows[frame.rows["kind"] == "check"]
    present = set(checks["status"])
    executions = [name for name in reversed(EXECUTIONS) if (checks["execution"] == name).any()]
    partly = [Status.PARTLY] if any(cell and cell.tone == Status.PARTLY.tone for cell in cells(shown)) else []
    return {"legend": partly + [status for status in reversed(STATUSES) if status in present], "executions": executions}
