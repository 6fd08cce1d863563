"""In whole what the first screen says in a line: what changed since the run that is compared with. New failures stand in Failures."""

from __future__ import annotations

import re
from typing import Any

from moe_harness.records.frame import Frame
from moe_harness.report import template
from moe_harness.report.compare.diff import Diff, since
from moe_harness.report.compare.speeds import SpeedChange
from moe_harness.report.text import ratio, seconds

TITLE = "Changes since then"
ORDER = 35
SHOWN = 60  # lines of a list
LISTS = {"vanished": "Vanished", "not run": "Not run", "status changed": "Status changed", "fixed": "Fixed", "newly asked": "Newly asked"}
_COMMIT = re.compile(r"\b([0-9a-f]{10})[0-9a-f]{30}\b")


def render(frame: Frame) -> str:
    found = since(frame)
    if found is None:
        return ""
    moved = [(title, found.of(kind)) for kind, title in LISTS.items()]
    lists = [(title, members[:SHOWN], len(members[SHOWN:])) for title, members in moved if members]
    paces = [_pace(found, change) for change in found.paces[:SHOWN]]
    changed = facts(found)
    if not lists and not paces and not changed:
        return ""
    return template.render("since", lists=lists, paces=paces, facts=changed, elsewhere=found.elsewhere)


def facts(found: Diff) -> list[tuple[str, str, str]]:
    """(name, then, now) of what changed around the runs; commits shortened."""
    return [(each.name, _COMMIT.sub(r"\1", each.before), _COMMIT.sub(r"\1", each.after)) for each in found.surroundings]


def _pace(found: Diff, change: SpeedChange) -> tuple[Any, ...]:
    row = found.run.rows[change.key][0]
    return (f"{row['check']} {row['parameters']}", row, seconds(change.before), seconds(change.after), ratio(change.factor))
