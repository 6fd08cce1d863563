"""In whole what the first screen says in a line: what changed since the run that is compared with. New failures stand in Failures."""

from __future__ import annotations

from moe_harness.records.frame import Frame
from moe_harness.report import template
from moe_harness.report.since import since
from moe_harness.report.text import ratio, seconds

TITLE = "Changes since then"
ORDER = 35
SHOWN = 60  # lines of a list


def render(frame: Frame) -> str:
    found = since(frame)
    if found is None:
        return ""
    changes = [("Fixed", found.fixed), ("No longer judged", found.vanished)]
    lists = [(title, members[:SHOWN], len(members[SHOWN:])) for title, members in changes if members]
    paces = [
        (f"{pace.speed.row['check']} {pace.speed.row['parameters']}", pace.speed.row, seconds((pace.speed.median or 0) / pace.ratio),
         seconds(pace.speed.median), ratio(pace.ratio))
        for pace in found.paces[:SHOWN]
    ]  # fmt: skip
    if not lists and not paces and not found.facts:
        return ""
    return template.render("since", lists=lists, paces=paces, facts=found.facts)
