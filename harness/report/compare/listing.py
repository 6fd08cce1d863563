"""A history as tables: its runs, newest first, and the steps in its series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moe_harness.report.compare.tables import Table
from moe_harness.report.compare.trend import Trend
from moe_harness.report.text import number
from moe_harness.stats.changepoints import FEWEST

_COUNTS = ("passed", "failed", "inconclusive", "void", "not run", "measured")
NOTE = "From this run on the level is another one (L1 Potts fit of logarithms; a level holds for at least three runs)."


def sentence(entries: Sequence[Mapping[str, Any]], trends: Sequence[Trend]) -> str:
    steps, judged = sum(len(trend.steps) for trend in trends), sum(trend.long_enough for trend in trends)
    return f"{len(entries)} runs, {len(trends)} series, {judged} of them with the {FEWEST} runs that steps need: {steps} steps"


def tables(entries: Sequence[Mapping[str, Any]], trends: Sequence[Trend]) -> list[Table]:
    runs = [(entry["run"], entry["word"], _commit(entry), str(entry.get("machine") or ""), _counts(entry)) for entry in reversed(entries)]
    steps = [
        (run, trend.name, number(before), number(after), f"{after / before:.3f}×") for trend in trends for run, before, after in trend.steps
    ]
    newest_first = sorted(steps, key=lambda step: step[0], reverse=True)
    return [
        Table("Steps", ("From run", "Series", "Before", "After", "Factor"), newest_first, NOTE),
        Table("Runs", ("Run", "Verdict", "Commit", "Machine", "Counts"), runs),
    ]


def _commit(entry: Mapping[str, Any]) -> str:
    return str(entry.get("commit") or "")[:10]


def _counts(entry: Mapping[str, Any]) -> str:
    counts = entry.get("counts") or {}
    return ", ".join(f"{counts[name]} {name}" for name in _COUNTS if counts.get(name)) or str(entry.get("reason") or "")
