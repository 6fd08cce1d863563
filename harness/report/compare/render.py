"""A diff as tables, as Markdown and as JSON's types: surroundings first, then what failed, then what is slower."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from moe_harness.report.compare.diff import Diff
from moe_harness.report.compare.outcomes import KINDS, Outcome
from moe_harness.report.compare.speeds import SpeedChange
from moe_harness.report.compare.tables import Table, escaped, markdown
from moe_harness.report.text import number, seconds
from moe_harness.stats.medians import CONFIDENCE

TITLES = {
    "new failure": "New failures",
    "vanished": "Vanished: asked in the base, not asked now",
    "not run": "Planned, not run",
    "status changed": "Status changed",
    "fixed": "Fixed",
    "newly asked": "Newly asked",
    "still failing": "Still failing",
}
_LISTS = ("surroundings", "outcomes", "speeds", "pairs", "void", "gating")
UNPAIRED = (
    f"Time of the run over time of the base: medians, {CONFIDENCE:.0%} bootstrap interval over rounds. Runs are not pairs: a drift of the "
    "machine counts as change. Gates only with --gate-speed, or where two runs show it on the same machine and versions."
)


def tables(diff: Diff) -> list[Table]:
    """In reading order; VOID stands before speeds, since it says which of them there are not."""
    moved = [(each.about, each.name, each.before, each.after) for each in diff.surroundings]
    pairs = [(each.name, _side(each.before, each.ratio_before), _side(each.after, each.ratio_after)) for each in diff.pairs]
    return [
        Table("Surroundings that changed", ("About", "What", "Base", "Run"), moved),
        *_outcomes(diff),
        Table("Void speeds", ("Benchmark", "Place", "Base", "Reason"), [(o.key.check, o.key.place, o.before, o.reason) for o in diff.void]),
        Table("Speeds", ("", "Benchmark", "Place", "Base", "Run", "Ratio", "Interval", "Rounds", ""), list(_speeds(diff)), UNPAIRED),
        Table("Backends against each other, paired", ("Pair", "Base", "Run"), pairs, "Time of the second over time of the first."),
    ]


def heading(diff: Diff) -> str:
    """Which runs, and what moved, in a line."""
    return f"{' + '.join(diff.run.ids)} against {' + '.join(diff.base.ids)}: {diff.sentence}"


def as_markdown(diff: Diff) -> str:
    return "\n\n".join(filter(None, (f"# {escaped(heading(diff))}", markdown(tables(diff))))) + "\n"


def as_json(diff: Diff) -> dict[str, Any]:
    """The ids of both sides and every list, with the exit code and the sentence."""
    lists = {name: [asdict(each) for each in getattr(diff, name)] for name in _LISTS}
    return {"schema": 1, "code": diff.code, "sentence": diff.sentence, "base": diff.base.ids, "run": diff.run.ids, **lists}


def _outcomes(diff: Diff) -> Iterator[Table]:
    for kind in KINDS:
        lines = [_line(outcome) for outcome in diff.of(kind)]
        yield Table(TITLES[kind], ("Check", "Place", "Base", "Run", "Reason or title", "Reproduce"), lines)


def _line(outcome: Outcome) -> tuple[str, ...]:
    failing = outcome.kind in ("new failure", "still failing")
    about = (outcome.reason if outcome.kind != "vanished" else "") or outcome.title
    return (outcome.key.check, outcome.key.place, outcome.before, outcome.after, about, outcome.reproduce if failing else "")


def _speeds(diff: Diff) -> Iterator[tuple[str, ...]]:
    for change in diff.speeds:
        ratio, interval = (_ratio(change), _interval(change)) if change.ratio else ("", "")
        rounds = " / ".join(str(count) for count in change.rounds)
        times = (seconds(change.before), seconds(change.after))
        yield (change.verdict, change.key.check, change.key.place, *times, ratio, interval, rounds, _note(diff, change))


def _ratio(change: SpeedChange) -> str:
    return f"{change.ratio.value:.3f}" if change.ratio else ""


def _interval(change: SpeedChange) -> str:
    return f"{change.ratio.low:.3f} – {change.ratio.high:.3f}" if change.ratio else ""


def _note(diff: Diff, change: SpeedChange) -> str:
    words = [change.reason, "recurs" if change.recurs else "", "gates" if change in diff.gating else ""]
    return ", ".join(filter(None, words))


def _side(verdict: str, ratio: float | None) -> str:
    return f"{verdict} ({number(ratio)})" if ratio is not None else verdict
