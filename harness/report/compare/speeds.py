"""How speeds moved between two runs. Samples of different runs are not pairs: this informs, and gates only what recurs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moe_harness.records.status import Status
from moe_harness.report.compare.identity import Key, Row
from moe_harness.stats.medians import FEWEST, Ratio, ratio_of_medians, verdict

VERDICTS = ("slower", "inconclusive", "faster", "equivalent")  # most pressing first
MARGIN = 0.05


@dataclass(frozen=True)
class SpeedChange:
    """`before`, `after`: medians in seconds; `ratio`: after over before. `rounds`: of both. `recurs`: at least two runs show the same
    change, each by itself. `reason`: why nothing can be concluded. `ratio` is None where no comparison makes sense."""

    key: Key
    verdict: str
    before: float | None = None
    after: float | None = None
    ratio: Ratio | None = None
    rounds: tuple[int, int] = (0, 0)
    recurs: bool = False
    reason: str = ""

    @property
    def factor(self) -> float:
        """Times as long as in the base; 1 where that cannot be said."""
        return self.ratio.value if self.ratio else 1.0


def speed_changes(base: Mapping[Key, Sequence[Row]], run: Mapping[Key, Sequence[Row]], margin: float = MARGIN) -> list[SpeedChange]:
    """One per benchmark that both measured and whose object conforms on both sides; most pressing first."""
    pairs = [(key, _timed(base[key]), _timed(run[key])) for key in base.keys() & run.keys() if key.kind == "bench"]
    found = [_change(key, before, after, margin) for key, before, after in pairs if before and after]
    return sorted(found, key=lambda change: (VERDICTS.index(change.verdict), change.key))


def _timed(rows: Sequence[Row]) -> list[Row]:
    """Rows with a speed: one that is VOID anywhere has none."""
    return [row for row in rows if row["samples"]] if all(row["status"] == Status.PASS for row in rows) else []


def _change(key: Key, base: Sequence[Row], run: Sequence[Row], margin: float) -> SpeedChange:
    before, after = _samples(base), _samples(run)
    rounds = (len(before), len(after))
    medians = (_median(before), _median(after))
    if reason := _obstacle(base, run, rounds):
        return SpeedChange(key, "inconclusive", *medians, rounds=rounds, reason=reason)
    ratio = ratio_of_medians(before, after, str(key))
    found = verdict(ratio, margin)
    return SpeedChange(key, found, *medians, ratio, rounds, recurs=_recurs(found, key, before, run, margin))


def _recurs(found: str, key: Key, before: Sequence[float], run: Sequence[Row], margin: float) -> bool:
    """Whether each of several runs shows the same by itself. One alone is not asked: an interval costs its resamples."""
    rows = [row for row in run if len(row["samples"]) >= FEWEST]
    verdicts = (verdict(ratio_of_medians(before, row["samples"], f"{key} {row['run']}"), margin) for row in rows)
    return len(rows) > 1 and set(verdicts) == {found}


def _obstacle(base: Sequence[Row], run: Sequence[Row], rounds: tuple[int, int]) -> str:
    """Why these samples cannot be compared, "" if they can."""
    asked = [sorted({str(row["parameters"]) for row in rows}) for rows in (base, run)]
    if asked[0] != asked[1]:
        return f"parameters changed: {', '.join(asked[0])} -> {', '.join(asked[1])}"
    if any(_disturbed(row) for row in (*base, *run)):
        return "the machine was disturbed while one of them was timed (canary)"
    return f"fewer than {FEWEST} rounds" if min(rounds) < FEWEST else ""


def _disturbed(row: Row) -> bool:
    canary: Any = row["facts"].get("canary")
    return isinstance(canary, Mapping) and bool(canary.get("disturbed"))


def _samples(rows: Sequence[Row]) -> list[float]:
    return [sample for row in rows for sample in row["samples"]]


def _median(samples: Sequence[float]) -> float:
    ordered = sorted(samples)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else math.fsum(ordered[middle - 1 : middle + 1]) / 2
