"""How often the diagnosis is right: every fault of the catalogue, put under other arithmetic, judged, and explained from its failure alone.

Rules of counting.
- The candidate is a fault on top of an honest kind that rounds in another way (`FAULT@KIND#SEED`), the kinds taken in turn; the hypotheses
  are the faults on the plain honest subject. No candidate is bit-equal to a hypothesis.
- Of the checks named for a fault, in their order, the first that leaves an experiment is explained from its arrays; where none does, the
  first that fails, by how it ends. A fault that no check fails is not counted: it is none of the killed.
- NAMED: the fault is among the accepted. PLACED: named, or else the first suspect is one of the operators whose seams it changes
  (diagnosis/operators.py derives them). ALONE: nothing else is accepted.
- RIGHTLY NONE: left out of the hypotheses, together with those that are the same program on this experiment (as far from the candidate in
  every part, within a tenth of a bound, which is rounding; or the same ending, to the last digit), nothing is accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from moe_harness.checks.in_process import Check, checks_of
from moe_harness.diagnosis.account import diagnosed
from moe_harness.diagnosis.diagnose import Answer, Diagnosis
from moe_harness.diagnosis.echo import Echo
from moe_harness.diagnosis.operators import operators, suspects
from moe_harness.diagnosis.rejudge import rejudge
from moe_harness.diagnosis.replay import Distance
from moe_harness.diagnosis.stage import Stage, acting, explain_by_check
from moe_harness.judge.exhibit import RECORD, Exhibit
from moe_harness.mutants.catalogue import FAULTS, SEEDED_KINDS, backend, collisions, entry
from moe_harness.mutants.entry import Fault
from moe_harness.records.status import FAILING
from moe_harness.repro.capsule import Capsule
from moe_harness.repro.fit import fitted
from moe_harness.selftest.trial import room
from moe_harness.suite.subject import Subject

SEEDS = 10  # of the kinds, in turn
DTYPES = ("float32", "bfloat16")
TWINS = 0.1  # bounds; honest implementations differ by more


@dataclass(frozen=True)
class Batch:
    """Faults with the same checks on the same family, in one dtype: what is tried for one is tried for all."""

    dtype: str
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """`from_arrays`: explained from an experiment. `accepted`: ids, nearest first."""

    fault: str
    dtype: str
    check: str
    from_arrays: bool
    accepted: tuple[str, ...]
    placed: bool
    rightly_none: bool

    @property
    def named(self) -> bool:
        return self.fault in self.accepted


def batches(faults: Sequence[Fault] = FAULTS) -> list[Batch]:
    """Every fault in the dtypes where it shows, on the first family where it does."""
    grouped: dict[tuple[Any, ...], list[str]] = {}
    for dtype in DTYPES:
        for fault in faults:
            if dtype in fault.dtypes:
                grouped.setdefault((dtype, fault.dies_by, fault.families[0]), []).append(fault.id)
    return [Batch(dtype, tuple(ids)) for (dtype, *_), ids in grouped.items()]


def scores(directory: Path, batch: Batch) -> tuple[Score, ...]:
    """Of those that die. `directory`: where this process may write; the caller removes it."""
    found = (_score(fault, batch.dtype, directory) for fault in map(entry, batch.faults) if isinstance(fault, Fault))
    return tuple(score for score in found if score is not None)


def _score(fault: Fault, dtype: str, directory: Path) -> Score | None:
    case = room(directory).cases[fault.families[0]]
    subject = Subject(backend(candidates()[fault.id]), case, dtype, room(directory).workshop)
    checks = [check for check in checks_of(fault.dies_by) if check.asks(case, dtype)]
    if capsule := next((capsule for check in checks if (capsule := experiment(check, subject))), None):
        return _by_arrays(fault, capsule)
    for check in checks:
        stage = _stage(check.name, case.name, dtype, directory)
        if (came := stage.ask(subject.backend)).status in FAILING:
            return _by_check(fault, stage, came)
    return None


@cache
def candidates() -> dict[str, str]:
    """Fault -> specification of a backend with it, on the next kind that it does not collide with."""
    found = {}
    for turn, fault in enumerate(FAULTS):
        kinds = [kind.id for kind in SEEDED_KINDS if not collisions(fault.id, kind.id)]
        found[fault.id] = f"{fault.id}@{kinds[turn % len(kinds)]}#{turn % SEEDS}" if kinds else fault.id
    return found


@cache
def _stage(check: str, case: str, dtype: str, directory: Path) -> Stage:
    """Keeps how the check ends for each fault: several candidates are held against the same."""
    (found,) = (c for c in checks_of([check.split("[")[0]]) if c.name == check)
    return Stage(found, room(directory).cases[case], dtype, room(directory).workshop)


def experiment(check: Check, subject: Subject) -> Capsule | None:
    """The capsule of a failing check, if it holds an experiment that fails again when it is judged from its arrays."""
    verdict = check.ask(subject).verdict
    return None if verdict.exhibit is None else _failing(check, subject, fitted(verdict.exhibit), tuple(verdict.metrics.values()))


def _failing(check: Check, subject: Subject, exhibit: Exhibit, metrics: tuple[Any, ...]) -> Capsule | None:
    identity = {"check": check.id, "backend": subject.backend.name, "case": subject.case.name, "dtype": subject.dtype}
    capsule = Capsule(identity, metrics, "", exhibit)
    if exhibit.kind == RECORD or not any(metric.violated for metric in rejudge(capsule)):
        return None
    return capsule


def _by_arrays(fault: Fault, capsule: Capsule) -> Score:
    found = diagnosed(capsule)
    answer = found.answer
    accepted = tuple(h.fault.id for h in answer.accepted) if isinstance(answer, Answer) else ()
    placed = fault.id in accepted or bool(set(found.finding.operators[:1]) & operators(fault))
    return Score(fault.id, capsule.identity["dtype"], capsule.check, True, accepted, placed, set(accepted) <= _equals(fault, found))


def _equals(fault: Fault, found: Diagnosis) -> frozenset[str]:
    """The fault and those as far from the candidate in every part, but for rounding."""
    accepted = found.answer.accepted if isinstance(found.answer, Answer) else ()
    own = [h.distance for h in accepted if h.fault.id == fault.id]
    return frozenset({fault.id, *(h.fault.id for h in accepted if own and _twins(own[0], h.distance))})


def _twins(one: Distance, other: Distance) -> bool:
    return one.parts.keys() == other.parts.keys() and all(abs(other.parts[name] - value) <= TWINS for name, value in one.parts.items())


def _by_check(fault: Fault, stage: Stage, came: Echo) -> Score:
    accepted = tuple(other.id for other in explain_by_check(stage, came, FAULTS).accepted)
    placed = fault.id in accepted or bool(set(suspects(stage.check.id)[:1]) & operators(fault))
    own = _digits(stage.echo(fault))
    others = [other for other in acting(stage, FAULTS) if _digits(stage.echo(other)) != own]
    none = not explain_by_check(stage, came, others).accepted
    return Score(fault.id, stage.dtype, stage.check.id, False, accepted, placed, none)


def _digits(echo: Echo) -> str:
    return repr((echo.status, echo.words, sorted(echo.metrics.items())))


def figures(found: Sequence[Score]) -> dict[str, Any]:
    """Counts by dtype. `misplaced`, `taken_for_known`: ids of the faults with a wrong answer."""
    return {dtype: _figures([score for score in found if score.dtype == dtype]) for dtype in DTYPES}


def _figures(found: Sequence[Score]) -> dict[str, Any]:
    return {
        "killed": len(found),
        "from_arrays": sum(score.from_arrays for score in found),
        "named": sum(score.named for score in found),
        "alone": sum(score.accepted == (score.fault,) for score in found),
        "placed": sum(score.placed for score in found),
        "rightly_none": sum(score.rightly_none for score in found),
        "misplaced": [score.fault for score in found if not score.placed],
        "taken_for_known": [score.fault for score in found if not score.rightly_none],
    }
