"""What failed: clause, place, layer, the worst metric against its bound, the reason, the commands that show it again."""

from __future__ import annotations

from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.report import template
from moe_harness.report.failures import SHOWN, Group, Row, capsule_commands, groups, where_in_model

TITLE = "Failures"
ORDER = 20
FIRST = 4  # in sight; the rest is folded so that speeds and matrix stay on the first screen
MEMBERS = 12  # of a group, with their commands


def render(frame: Frame) -> str:
    found = groups(frame)
    numbered = [_shown(number, group) for number, group in enumerate(found[:SHOWN], start=1)]
    return template.render("failures", first=numbered[:FIRST], rest=numbered[FIRST:], left_out=len(found) - len(numbered))


def _commands(row: Row) -> list[str]:
    return [*filter(None, [row["reproduce"]]), *capsule_commands(row["capsule"])]


def _shown(number: int, group: Group) -> dict[str, Any]:
    row = group.worst
    reason, _, more = row["reason"].partition("\n")
    shown = [row["reproduce"], *capsule_commands(row["capsule"])[:1]]
    members = [(member, [command for command in _commands(member) if command not in shown]) for member in group.rows[:MEMBERS]]
    return {
        "number": number,
        "group": group,
        "row": row,
        "layer": where_in_model(row),
        "reason": reason,
        "more": more,
        "commands": [command for command in shown if command],
        "members": members,
        "left_out": len(group.rows) - len(members),
    }
