"""Where the numbers come from: records, commands, machines."""

from __future__ import annotations

import shlex
from typing import Any

from moe_harness.records.frame import Frame, Run
from moe_harness.report import template

TITLE = "Raw data"
ORDER = 80
COMMANDS = 200  # on the page; the CSV file holds all
_FIELDS = ("hostname", "os", "python", "cpu", "cores", "threads", "memory_gib", "accelerators", "commit", "dirty")


def render(frame: Frame) -> str:
    rows = frame.rows[frame.rows["reproduce"] != ""].drop_duplicates("reproduce")
    commands = list(rows["reproduce"])
    environments = [(run.machine, _environment(run)) for run in frame.runs]
    names = list(dict.fromkeys(name for _, facts in environments for name in facts))
    return template.render(
        "raw",
        runs=[
            (run, [shlex.join(words) for words in run.commands], [f"{run.run_id}/{shard}" for shard in run.shards]) for run in frame.runs
        ],
        machines=[machine for machine, _ in environments],
        facts=[(name, [facts.get(name, "") for _, facts in environments]) for name in names],
        commands=commands[:COMMANDS],
        left_out=max(0, len(commands) - COMMANDS),
    )


def _environment(run: Run) -> dict[str, str]:
    facts = {name.replace("_", " "): _text(run.environment.get(name)) for name in _FIELDS}
    facts |= {f"requested {name}": _text(value) for name, value in sorted(run.requested.items())}
    return facts | {name: str(version) for name, version in sorted((run.environment.get("packages") or {}).items())}


def _text(value: Any) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(str(item) for item in value) or "none" if isinstance(value, (list, tuple)) else str(value)
