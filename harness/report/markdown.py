"""The verdict, failures, speeds and gaps as Markdown, for a pull request or a terminal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from moe_harness.records.frame import Frame
from moe_harness.records.status import STATUSES
from moe_harness.report.compare.diff import since
from moe_harness.report.compare.outcomes import KINDS
from moe_harness.report.failures import failures
from moe_harness.report.order import Labels, place_key
from moe_harness.report.pairs import Pair, pairs
from moe_harness.report.sections.since import facts
from moe_harness.report.sections.skips import reasons
from moe_harness.report.sections.verdict import provenance, summary
from moe_harness.report.speed import Speed, speeds
from moe_harness.report.text import grouped, interval, multiple, number, ratio, seconds, shortened
from moe_harness.report.trust import trust
from moe_harness.report.verdict import verdict

SHOWN = 50
_PIPE = "\\|"  # inside code, too, a bare one would end the cell


class Code(str):
    """A cell to be shown as code."""


def markdown(frame: Frame) -> str:
    """The report in Markdown, every value escaped."""
    parts = [_head(frame), _since(frame), _failures(frame), _backends(frame), _speeds(frame), _pairs(frame), _skips(frame)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(frame: Frame) -> str:
    found = verdict(frame)
    counts = ", ".join(f"{amount} {label}" for label, amount in found.counts.items() if amount)
    lines = [f"# {found.word}: {found.sentence}", "", f"Exit {found.code}: {found.meaning}. {counts.capitalize()}."]
    lines += [f"\n{_escaped(text)}." for text in [*(each.sentence for each in found.conformances), *found.notes, *trust(frame)]]
    return "\n".join([*lines, *(f"\n{_escaped(run.machine)}: {_escaped(provenance(run))}" for run in frame.runs)])


def _since(frame: Frame) -> str:
    found = since(frame)
    if found is None:
        return ""
    base, changes = summary(found)
    moved = [kind for kind in KINDS if kind != "still failing"]  # those stand among the failures
    lines = [(each.kind, str(each.key), each.before, each.after) for each in found.of(*moved)]
    lines += [("changed", *fact) for fact in facts(found)]
    said = f"Since {base}: {', '.join(text for text, _ in changes)}."
    return "\n\n".join(filter(None, (_escaped(said), _table("Changes", ("What", "Where", "Then", "Now"), lines))))


def _failures(frame: Frame) -> str:
    rows, labels = failures(frame), Labels(frame)
    lines = [
        (row["status"], row["check"], row["title"], labels(row), row["case"], row["dtype"], row["metric"], number(row["value"]),
         number(row["bound"]), multiple(row["ratio"]), shortened(row["reason"]), Code(row["reproduce"]))
        for row in rows
    ]  # fmt: skip
    heads = "Status | Check | Title | Backend | Case | dtype | Worst metric | Value | Bound | Value / bound | Reason | Reproduce".split(
        " | "
    )
    return _table("Failures", heads, lines)


def _backends(frame: Frame) -> str:
    labels, counted = Labels(frame), dict[tuple[str, str, str], Counter[str]]()
    for row in sorted(frame.of("check"), key=place_key):
        counted.setdefault((labels(row), row["case"], row["dtype"]), Counter())[row["status"]] += 1
    names = [status for status in reversed(STATUSES) if any(status in counts for counts in counted.values())]
    lines = [(*place, *(str(counts[name]) for name in names)) for place, counts in counted.items()]
    return _table("Checks", ("Backend", "Case", "dtype", *names), lines)


def _speeds(frame: Frame) -> str:
    labels = Labels(frame)
    lines = [_speed(speed, labels(speed.row)) for speed in speeds(frame)]
    heads = ("Workload", "Case", "dtype", "Backend", "Execution", "Median", "95 % interval", "Rounds", "Tokens / s", "Against the peer")
    return _table("Speed", heads, lines)


def _speed(speed: Speed, place: str) -> tuple[str, ...]:
    row = speed.row
    head = (f"{row['check']} {row['parameters']}", row["case"], row["dtype"], place, row["execution"])
    if speed.median is None:
        return (*head, row["status"], "", "", "", "")
    noise = " within noise" if speed.ratio and not speed.distinct else ""
    against = "peer" if speed.peer == row["backend"] else ratio(speed.ratio) + noise
    numbers = (seconds(speed.median), interval(speed.low, speed.high, speed.median), str(speed.rounds), grouped(speed.tokens_per_s))
    return (*head, *numbers, " ".join(filter(None, (against, speed.note))))


def _pairs(frame: Frame) -> str:
    lines = [(pair.verdict or pair.row["status"], *_who(pair), pair.gain, _interval(pair)) for pair in pairs(frame)]
    return _table("Timed in turn", ("Verdict", "Workload", "Case", "dtype", "b", "against a", "Time", "Interval"), lines)


def _who(pair: Pair) -> tuple[str, ...]:
    row = pair.row
    return (f"{row['check']} {row['parameters']}", row["case"], row["dtype"], pair.b, pair.a)


def _interval(pair: Pair) -> str:
    return f"{ratio(pair.low)} to {ratio(pair.high)}" if pair.gain else shortened(pair.row["reason"], 160)


def _skips(frame: Frame) -> str:
    lines = [
        (name, str(amount), place, " ".join(filter(None, (shortened(reason), link))), checks)
        for name, place, reason, link, amount, checks in reasons(frame)
    ]
    return _table("Not judged, and why", ("Status", "Count", "Backend", "Reason", "Checks"), lines)


def _table(title: str, heads: Sequence[str], lines: Sequence[Iterable[str]]) -> str:
    if not lines:
        return ""
    body = [f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines[:SHOWN]]
    more = [f"\n{len(lines) - SHOWN} more in results.csv"] if len(lines) > SHOWN else []
    return "\n".join([f"## {title}", "", f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads), *body, *more])


def _escaped(text: str) -> str:
    """One line that Markdown takes as text: no table, markup, link or HTML comes of it. Code stays fit for copying."""
    line = " ".join(str(text).split())
    if isinstance(text, Code) and line and "`" not in line:
        return f"`{line.replace('|', _PIPE)}`"
    line = line.replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*{}\[\]>|#~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))", r"\\\1", line)
