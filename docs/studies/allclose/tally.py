"""Outcomes counted: faults killed and honest runs that alarm, per rule and dtype, with intervals. docs/rivals.json holds the counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from allclose.candidates import DTYPES
from allclose.judge import Outcome
from allclose.rules import RULES
from moe_harness.mutants.catalogue import FAULTS

CONFIDENCE = 0.95
Kills = Callable[[Outcome], bool]


@dataclass(frozen=True)
class Rate:
    """`hits` of `of` trials."""

    hits: int
    of: int

    @property
    def share(self) -> float:
        return self.hits / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Two-sided interval of a binomial share at CONFIDENCE (Clopper and Pearson 1934)."""
        tail = (1 - CONFIDENCE) / 2
        low = stats.beta.ppf(tail, self.hits, self.of - self.hits + 1) if self.hits else 0.0
        high = stats.beta.ppf(1 - tail, self.hits + 1, self.of - self.hits) if self.hits < self.of else 1.0
        return float(low), float(high)


def tally(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What was judged, a row per rule and two of ours, and which rules let which visible fault pass."""
    verdicts: dict[str, Kills] = {rule.id: _kills(rule.id) for rule in RULES} | OURS
    return {
        "candidates": {dtype: _asked(of_dtype(outcomes, dtype)) for dtype in DTYPES}
        | {"faults": len(_killed(outcomes, lambda o: True)), "catalogue": len(FAULTS)},
        "rows": {name: _row(outcomes, name, kills) for name, kills in verdicts.items()},
        "missed": {dtype: _missed(of_dtype(outcomes, dtype), verdicts) for dtype in DTYPES},
    }


OURS: dict[str, Kills] = {"ours-same-runs": lambda o: o.same_runs, "ours": lambda o: o.all_clauses}


def _kills(rule: str) -> Kills:
    """Where nothing can be seen, a rule that fails does so on noise."""
    return lambda outcome: outcome.visible and not outcome.ratios[rule] <= 1.0


def of_dtype(outcomes: Sequence[Outcome], dtype: str) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.candidate.dtype == dtype]


def visible(outcomes: Sequence[Outcome], fault: bool) -> list[Outcome]:
    """Those whose logits an end-to-end comparison can tell from the reference implementation's: of the others it has nothing to judge."""
    return [outcome for outcome in outcomes if outcome.visible and (outcome.candidate.fault is not None) == fault]


def _asked(outcomes: Sequence[Outcome]) -> dict[str, int]:
    honest = visible(outcomes, fault=False)
    return {
        "visible_faults": len(visible(outcomes, fault=True)),
        "honest_kinds": len({outcome.candidate.entry for outcome in honest}),
        "honest_runs": len(honest),
    }


def _row(outcomes: Sequence[Outcome], name: str, kills: Kills) -> dict[str, Any]:
    by_dtype = {dtype: _rates(of_dtype(outcomes, dtype), name, kills) for dtype in DTYPES}
    return by_dtype | {"all": [len(_killed(outcomes, kills)), len(_killed(outcomes, lambda o: True))]}


def _rates(outcomes: Sequence[Outcome], name: str, kills: Kills) -> dict[str, list[int]]:
    """[hits, trials]; `tuned`: faults killed if the limit were the largest value of any honest run here, so that none alarms."""
    faults, honest = visible(outcomes, fault=True), visible(outcomes, fault=False)
    rates = {group: [sum(map(kills, judged)), len(judged)] for group, judged in (("kills", faults), ("alarms", honest))}
    if name not in OURS:
        limit = max((outcome.ratios[name] for outcome in honest), default=0.0)
        rates["tuned"] = [sum(outcome.ratios[name] > limit for outcome in faults), len(faults)]
    return rates


def _killed(outcomes: Sequence[Outcome], kills: Kills) -> set[str]:
    """Faults that are killed in some dtype."""
    return {outcome.candidate.entry for outcome in outcomes if outcome.candidate.fault is not None and kills(outcome)}


def _missed(outcomes: Sequence[Outcome], verdicts: dict[str, Kills]) -> dict[str, list[str]]:
    """Visible fault -> who lets it pass; nothing of those that everybody kills."""
    passed = {o.candidate.entry: [name for name, kills in verdicts.items() if not kills(o)] for o in visible(outcomes, fault=True)}
    return {fault: names for fault, names in sorted(passed.items()) if names}
