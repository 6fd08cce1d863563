"""The timing measured on itself: how often two equal arms are told apart, how often one that does 5 % more work is called slower.

Real rounds on the machine at hand: a step is STEP calls of a MoE block of a golden model, the slower arm's step is one call in twenty
more. The rules that are in use elsewhere judge rounds of the same arms, taken one arm after the other as they do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from scipy import stats

from moe_harness.bench.blocks import BLOCKS, QUADS
from moe_harness.bench.clock import Arm, no_collection
from moe_harness.bench.compare import DIFFERENT, Answer, Prepared, compare, prepared
from moe_harness.stats.paired import PairConfig

STEP, MORE = 20, 1  # calls, and one more of them: +5 %
TOKENS = 1
SLOWER_EVERY = 3  # of the trials also have a slower arm, whose comparison takes two series
SEQUENTIAL = 60  # rounds of each arm for the other rules
PEERS: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {
    "unpaired Mann-Whitney, p < 0.002": lambda a, b: bool(stats.mannwhitneyu(a, b).pvalue < 0.002),
    "medians one after the other, 5 %": lambda a, b: bool(abs(np.median(b) / np.median(a) - 1) > 0.05),
}
MOST_FALSE, LEAST_SEEN = 0.01, 0.9
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Trial:
    """One comparison. `peers`: the names of the peers that call the arms different, in any direction."""

    answer: Answer
    peers: frozenset[str]


def measure(trials: int, console: Console) -> dict[str, Any]:
    """The `timing_selftest` record, of `trials` with equal arms and a third as many with a slower one. Some four seconds a trial."""
    step = moe_blocks()
    load_before, began = os.getloadavg(), datetime.now(UTC)
    kinds: dict[str, list[Trial]] = {"equal": [], "slower": []}
    arms = {name: ready(step, more) for name, more in (("equal", 0), ("slower", MORE))}
    for number in track(range(trials), "trials", console=console):
        for name in ("equal", "slower") if number % SLOWER_EVERY == 0 else ("equal",):
            kinds[name].append(trial(arms[name], number))
    about = {"time": began.isoformat(timespec="seconds"), "load_before": load_before, "load_after": os.getloadavg()}
    return {"type": "timing_selftest", "schema": 1, **about, **figures(kinds["equal"], kinds["slower"])}


def moe_blocks() -> Callable[[int], None]:
    """Calls a MoE block so many times. The model and the input are always the same."""
    from moe_harness.cases.cases import golden_cases
    from moe_harness.implementations import registry
    from moe_harness.implementations.interface import LoadSpec

    case = next(case for case in golden_cases(None) if case.name == "mixtral")
    model = registry.backend("moe_harness.mutants.catalogue:backend").load(
        str(case.checkpoint), LoadSpec("float32", max_length=32, max_batch=1)
    )
    x_TD = np.random.default_rng(0).standard_normal((TOKENS, case.config.hidden_size), np.float32)

    def step(calls: int) -> None:
        for _ in range(calls):
            model.moe_block(0, x_TD)  # type: ignore[attr-defined]

    return step


def arm(step: Callable[[int], object], more: int) -> Arm:
    return Arm("equal" if not more else "slower", lambda: step(STEP + more))


def ready(step: Callable[[int], object], more: int) -> Prepared:
    return prepared(arm(step, 0), arm(step, more))


def trial(arms: Prepared, number: int) -> Trial:
    answer = compare(arms, PairConfig(), seed=2 * number)
    with no_collection():
        a, b = (np.array([arm.time() for _ in range(SEQUENTIAL)]) for arm in arms.arms)
    return Trial(answer, frozenset(name for name, differs in PEERS.items() if differs(a, b)))


def figures(equal: Sequence[Trial], slower: Sequence[Trial]) -> dict[str, Any]:
    """False flags: equal arms called faster or slower. Seen: the slower arm called slower. A peer's flag counts in any direction."""
    peers = {name: {"false_flags": _rate(name in t.peers for t in equal), "seen": _rate(name in t.peers for t in slower)} for name in PEERS}
    errors = [abs(np.log(trial.answer.final.ratio / 1.05)) for trial in slower if trial.answer.final.ratio]
    return {
        "plan": {"blocks": BLOCKS, "quads": QUADS, "step_calls": STEP, "more_calls": MORE},
        "false_flags": _rate(trial.answer.final.verdict in DIFFERENT for trial in equal),
        "first_series_flags": _rate(len(trial.answer.series) > 1 for trial in equal),
        "seen": _rate(trial.answer.final.verdict == "slower" for trial in slower),
        "equivalent": _rate(trial.answer.final.verdict == "equivalent" for trial in equal),
        "mde": _median([trial.answer.final.mde for trial in (*equal, *slower)]),
        "ratio_error": _median(errors),
        "disturbed_blocks": float(
            np.mean([len(t.answer.disturbed) / sum(s.plan.blocks for s in t.answer.series) for t in (*equal, *slower)])
        ),
        "peers": peers,
    }


def _median(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.median(present)) if present else None


def _rate(hits: Any) -> dict[str, Any]:
    """With the interval of Clopper and Pearson (1934), two-sided."""
    found = [bool(hit) for hit in hits]
    interval = stats.binomtest(sum(found), len(found)).proportion_ci(CONFIDENCE, "exact")
    return {"count": sum(found), "of": len(found), "low": float(interval.low), "high": float(interval.high)}


def reaches_the_bar(found: dict[str, Any]) -> bool:
    """At most 1 % false flags, at least 90 % seen, as observed."""
    share = {name: found[name]["count"] / found[name]["of"] for name in ("false_flags", "seen")}
    return share["false_flags"] <= MOST_FALSE and share["seen"] >= LEAST_SEEN


def show(found: dict[str, Any], console: Console) -> None:
    """A line a rule."""
    lines = {"this harness": found, **found["peers"]}
    for name, rates in lines.items():
        console.print(f"{name:>34}: equal arms flagged {_text(rates['false_flags'])}, +5 % seen {_text(rates['seen'])}")
    console.print(
        f"load {found['load_before'][0]:.1f} before, {found['load_after'][0]:.1f} after; would see {100 * (found['mde'] or 0):.1f} %"
    )


def _text(rate: dict[str, Any]) -> str:
    return f"{rate['count']}/{rate['of']} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f} %]"
