"""How often the suite alarms on an honest implementation: whole runs of it, each on data that nothing else has seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest

import numpy as np
from scipy import stats

from moe_harness.cases.cases import named_cases
from moe_harness.checks.in_process import checks_of
from moe_harness.emulator.honest import HONEST
from moe_harness.mutants.catalogue import HONEST_VARIANTS
from moe_harness.mutants.entry import Honest
from moe_harness.records.status import Status
from moe_harness.selftest.trial import Ending, Trial

# The clauses whose verdict hangs on a bound for rounding errors, on data that a seed moves. Left out: what is asked bit for bit, of
# refusals, of conversion and of what is declared, where an honest implementation fails always or never.
ROUNDING = (
    "BATCH-01", "BATCH-03", "BLOCK-01", "BLOCK-02", "BLOCK-03", "BLOCK-04", "BLOCK-05", "CACHE-01", "DROP-02", "DROP-03", "PACK-01",
    "PAD-01", "PARITY-02", "PARITY-03", "PARITY-04", "PARITY-05", "PARITY-08", "PARITY-09", "PARITY-10", "PARITY-11", "ROUTE-04",
    "ROUTE-05", "ROUTE-16", "ROUTE-18", "ROUTE-19", "SLOT-01",
)  # fmt: skip
# More than half of the time of a run, for the same comparisons again (more rows, later positions, other numbers of tokens, the other side
# of padding) or on data that no seed moves (golden prompts). Asked in the long self-test.
COSTLY = (
    "BATCH-01", "BATCH-03", "BLOCK-04", "BLOCK-05", "DROP-02", "PAD-01[left]", "PARITY-05", "PARITY-08", "PARITY-09", "PARITY-10",
    "PARITY-11", "ROUTE-16", "SLOT-01",
)  # fmt: skip
DTYPES = ("float32", "bfloat16")
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Run:
    """One run of the suite on an honest subject. `alarms`: "CHECK: reason" of each that failed; `undecided`: names of the inconclusive."""

    kind: str
    seed: int
    family: str
    dtype: str
    judged: int
    alarms: tuple[str, ...]
    undecided: tuple[str, ...]


def runs(count: int, costly: bool) -> list[Trial]:
    """So many trials, the i-th with the arithmetic and on the data of seed i: every kind on its families and the dtypes in turn, in an
    order that is random but the same every time, so that the first few are as good a sample as all."""
    order = list(_combinations())
    chosen = [(seed, *order[(seed - 1) % len(order)]) for seed in range(1, count + 1)]
    return [Trial(f"{kind}#{seed}", family, dtype, rounding_checks(family, dtype, costly), seed) for seed, kind, family, dtype in chosen]


@cache
def kinds() -> tuple[Honest, ...]:
    """The honest variants that may be asked for everything; those that show less are judged less, and would dilute the rate."""
    return tuple(variant for variant in HONEST_VARIANTS if "probe" in variant.at(HONEST, 0).calls.features())


def _combinations() -> Iterator[tuple[str, str, str]]:
    random = np.random.default_rng(0)
    by_kind = []
    for variant in kinds():
        places = [(variant.id, family, dtype) for family in variant.families for dtype in DTYPES]
        by_kind.append([places[i] for i in random.permutation(len(places))])
    for turn in zip_longest(*by_kind):
        yield from (place for place in turn if place)


def rounding_checks(family: str, dtype: str, costly: bool) -> tuple[str, ...]:
    """Names of the checks of ROUNDING that are about the family in that dtype."""
    asked = (check for check in checks_of(ROUNDING) if check.asks(named_cases()[family], dtype))
    return tuple(check.name for check in asked if costly or not {check.name, check.id} & set(COSTLY))


def outcome(trial: Trial, endings: Sequence[Ending]) -> Run:
    alarms = tuple(f"{ending.check}: {ending.reason.splitlines()[0]}" for ending in endings if ending.failed)
    undecided = tuple(ending.check for ending in endings if ending.status == Status.INCONCLUSIVE)
    judged = sum(ending.status == Status.PASS or ending.failed for ending in endings)
    return Run(trial.subject.partition("#")[0], trial.seed, trial.case, trial.dtype, judged, alarms, undecided)


def upper_bound(alarms: int, count: int, confidence: float = CONFIDENCE) -> float:
    """The largest rate under which so few alarms in so many runs are as likely as 1 - confidence: one-sided, Clopper and Pearson 1934."""
    return 1.0 if alarms >= count else float(stats.beta.ppf(confidence, alarms + 1, count - alarms))
