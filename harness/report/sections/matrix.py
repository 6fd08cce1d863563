"""Checks by backends, one symbol a cell."""

from __future__ import annotations

from harness.report import template
from harness.report.frame import Frame
from harness.report.matrix import matrix
from harness.report.status import STATUSES

TITLE = "Checks by backend"
ORDER = 30


def render(frame: Frame) -> str:
    found = matrix(frame)
    if found is None:
        return ""
    checks = frame.rows[frame.rows["kind"] == "check"]
    present = set(checks["status"])
    executions = [name for name in ("device", "cpu", "emulated") if (checks["execution"] == name).any()]
    legend = [status for status in reversed(STATUSES) if status.name in present]
    return template.render("matrix", matrix=found, legend=legend, executions=executions)
