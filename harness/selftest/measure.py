"""The whole self-test: faults, honest runs, effects, diagnoses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from moe_harness.cases.cases import golden_root
from moe_harness.records.environment import environment
from moe_harness.records.selftest_figures import SCHEMA
from moe_harness.records.selftest_version import version
from moe_harness.selftest import alarms, diagnoses, effects, kills
from moe_harness.selftest.alarms import Run
from moe_harness.selftest.diagnoses import Score
from moe_harness.selftest.dials import DIALS
from moe_harness.selftest.effects import Effect, Search
from moe_harness.selftest.figures import figures
from moe_harness.selftest.kills import Fate
from moe_harness.selftest.pool import Mapper, pool
from moe_harness.selftest.trial import Ledger

T = TypeVar("T")
Watch = Callable[[Iterable[T], str, int], Iterable[T]]  # passes items through: what they are, how many will come
ABOUT = ("cpu", "cores", "os", "python", "packages")


@dataclass(frozen=True)
class Plan:
    """How much is measured. `everything`: every check of every fault, the costly checks of honest runs, and the diagnosis. `families`: on
    which effects are sought."""

    mode: str
    everything: bool
    honest_runs: int
    families: tuple[str, ...]


QUICK = Plan("quick", everything=False, honest_runs=300, families=("mixtral",))
LONG = Plan("long", everything=True, honest_runs=3000, families=("mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "dots1"))


def silent(items: Iterable[T], what: str, count: int) -> Iterable[T]:
    return items


def measure(plan: Plan, workers: int, ledger: Path | None = None, watch: Watch = silent) -> dict[str, Any]:
    """The figures of figures.py. `ledger`: where endings are kept as they come, and found again by a second start."""
    began, sha = time.monotonic(), version(golden_root())
    kept = Ledger(ledger, sha)
    with pool(workers) as mapper:
        parts = fates(plan, mapper, kept, watch), honest(plan, mapper, kept, watch), smallest(plan, mapper, watch)
        scores = diagnosed(mapper, watch) if plan.everything else []
        found = figures(*parts, scores, costly=plan.everything)
    seconds, machine = time.monotonic() - began, {name: environment()[name] for name in ABOUT}
    about = {"schema": SCHEMA, "version": sha, "date": datetime.now(UTC).isoformat(timespec="seconds"), "mode": plan.mode}
    return about | {"seconds": round(seconds, 1), "machine": machine} | found


def fates(plan: Plan, mapper: Mapper, ledger: Ledger, watch: Watch = silent) -> list[Fate]:
    trials = kills.long_trials() if plan.everything else kills.quick_trials()
    trials = [*kills.controls(trials), *trials]
    return kills.fates(trials, list(watch(ledger.held(mapper, trials), "wrong implementations", len(trials))))


def honest(plan: Plan, mapper: Mapper, ledger: Ledger, watch: Watch = silent) -> list[Run]:
    trials = alarms.runs(plan.honest_runs, costly=plan.everything)
    ended = watch(ledger.held(mapper, trials), "runs on honest ones", len(trials))
    return [alarms.outcome(trial, endings) for trial, endings in zip(trials, ended, strict=True)]


def diagnosed(mapper: Mapper, watch: Watch = silent) -> list[Score]:
    asked = diagnoses.batches()
    return [score for scores in watch(mapper(diagnoses.scores, asked), "diagnoses", len(asked)) for score in scores]


def smallest(plan: Plan, mapper: Mapper, watch: Watch = silent) -> Sequence[Effect]:
    asked = [Search(dial, dtype, family) for dial in DIALS for dtype in effects.DTYPES for family in plan.families]
    return list(watch(mapper(effects.search, asked), "smallest errors", len(asked)))
