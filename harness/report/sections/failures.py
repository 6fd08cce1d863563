"""What failed: check, place, the worst metric against its bound, the reason, the command that shows it again."""

from __future__ import annotations

from harness.report import template
from harness.report.failures import SHOWN, capsule_commands, failures
from harness.report.frame import Frame
from harness.report.order import Labels

TITLE = "Failures"
ORDER = 20
FIRST = 6  # in sight; the rest is folded so that the matrix stays on the first screen


def render(frame: Frame) -> str:
    labels = Labels(frame)
    rows = [row | {"place": labels(row), "commands": capsule_commands(row["capsule"])} for row in failures(frame)]
    numbered = list(enumerate(rows[:SHOWN], start=1))
    return template.render("failures", first=numbered[:FIRST], rest=numbered[FIRST:], left_out=len(rows) - len(numbered))
