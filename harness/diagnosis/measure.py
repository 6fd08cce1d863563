"""How often the diagnosis is right: every fault of the catalogue, put under other arithmetic, judged, and explained from its capsule alone.

Rules of counting.
- The candidate is a fault on top of an honest kind that rounds in another way (`FAULT@KIND#SEED`), the kinds taken in turn; the hypotheses
  are the faults on the plain honest subject. No candidate is bit-equal to a hypothesis.
- A fault counts where one of its checks (`dies_by`, in their order) fails with a capsule that holds an experiment. Faults of inputs,
  declarations, files, generation and loss have none: they are counted as `without`, and nothing is claimed about them.
- NAMED: the fault is among the accepted hypotheses. PLACED: named, or else the first suspect is one of the operators whose seams it changes
  (operators.py derives them) in its first layer that shows it, which is where the check stopped.
- LEFT OUT: the fault is taken out of the hypotheses, and with it those that are exactly as far from the candidate in every part that is
  compared, to the last bit: on this input they are the same program. RIGHTLY NONE: then nothing is accepted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from io import StringIO

import pytest

from harness.capsule.capsule import Capsule
from harness.capsule.exhibit import RECORD, Exhibit
from harness.capsule.fit import fitted
from harness.cases import Case, RouterCase
from harness.diagnosis.account import diagnosed
from harness.diagnosis.diagnose import Diagnosis
from harness.diagnosis.hypotheses import Hypothesis
from harness.diagnosis.operators import operators
from harness.diagnosis.rejudge import rejudge
from harness.faults.catalogue import FAULTS, SEEDED_KINDS, backend, collisions
from harness.faults.entry import Fault
from harness.selftest.suite import Check, checks_of
from harness.subject import Subject, Workshop
from harness.verdict import Verdict

SEEDS = 10  # of the kinds, in turn


@dataclass(frozen=True)
class Trial:
    """One fault under one kind, and the capsule that its check left; None where none held an experiment."""

    fault: Fault
    candidate: str
    dtype: str
    capsule: Capsule | None


@dataclass(frozen=True)
class Score:
    """`accepted`: ids, nearest first. `equals`: those that are the same program on this input, the fault among them."""

    trial: Trial
    accepted: tuple[str, ...]
    equals: frozenset[str]
    suspects: tuple[str, ...]

    @property
    def named(self) -> bool:
        return self.trial.fault.id in self.accepted

    @property
    def placed(self) -> bool:
        return self.named or bool(set(self.suspects[:1]) & operators(self.trial.fault))

    @property
    def rightly_none(self) -> bool:
        return set(self.accepted) <= self.equals


@dataclass(frozen=True)
class Figures:
    """Counts over `judged` faults; `without`: those that left no experiment."""

    judged: int
    named: int
    placed: int
    rightly_none: int
    alone: int
    without: int

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {getattr(self, name)}" for name in ("named", "placed", "rightly_none", "alone"))
        return f"of {self.judged} faults: {shares}; {self.without} left no experiment"


def candidates(faults: Sequence[Fault] = FAULTS) -> Iterator[tuple[Fault, str]]:
    """(fault, specification of a backend with it), each on the next kind that it does not collide with."""
    for turn, fault in enumerate(faults):
        kinds = [kind.id for kind in SEEDED_KINDS if not collisions(fault.id, kind.id)]
        yield fault, f"{fault.id}@{kinds[turn % len(kinds)]}#{turn % SEEDS}" if kinds else fault.id


def trials(cases: dict[str, Case | RouterCase], workshop: Workshop, dtype: str, faults: Sequence[Fault] = FAULTS) -> Iterator[Trial]:
    """Every fault that shows in the dtype, on the first family where it shows."""
    for fault, candidate in candidates(faults):
        if dtype in fault.dtypes:
            subject = Subject(backend(candidate), cases[fault.families[0]], dtype, workshop)  # type: ignore[arg-type]
            found = (fail(check, subject) for check in checks_of(fault.dies_by) if check.asks(subject.case, dtype))
            yield Trial(fault, candidate, dtype, next((capsule for capsule in found if capsule), None))


def fail(check: Check, subject: Subject) -> Capsule | None:
    """The capsule of a failing check, if it holds an experiment that fails again when it is judged from its arrays."""
    verdict = Verdict()
    with redirect_stdout(StringIO()), warnings.catch_warnings(action="ignore"):
        with suppress(Exception, pytest.skip.Exception, pytest.fail.Exception):
            check.function(subject=subject, verdict=verdict, **check.parameters)
        return _capsule(check, subject, fitted(verdict.exhibit), verdict) if verdict.exhibit else None


def _capsule(check: Check, subject: Subject, exhibit: Exhibit, verdict: Verdict) -> Capsule | None:
    identity = {"check": check.id, "backend": subject.backend.name, "case": subject.case.name, "dtype": subject.dtype}
    capsule = Capsule(identity, tuple(verdict.metrics.values()), "", exhibit)
    if exhibit.kind == RECORD or not any(metric.violated for metric in rejudge(capsule)):
        return None
    return capsule


def score(trial: Trial) -> Score:
    """Raises AssertionError for a trial without a capsule."""
    assert trial.capsule is not None
    with warnings.catch_warnings(action="ignore"):
        found = diagnosed(trial.capsule)
    return Score(trial, _ids(found), equals(trial.fault, found), found.finding.operators)


def _ids(found: Diagnosis) -> tuple[str, ...]:
    return () if found.answer is None else tuple(h.fault.id for h in found.answer.accepted)


def equals(fault: Fault, found: Diagnosis) -> frozenset[str]:
    """The fault and those exactly as far from the candidate in every part."""
    accepted: tuple[Hypothesis, ...] = () if found.answer is None else found.answer.accepted
    own = [dict(h.distance.parts) for h in accepted if h.fault.id == fault.id]
    return frozenset({fault.id, *(h.fault.id for h in accepted if dict(h.distance.parts) in own)})


def figures(scores: Iterable[Score], without: int) -> Figures:
    found = list(scores)
    counts = {name: sum(getattr(s, name) for s in found) for name in ("named", "placed", "rightly_none")}
    alone = sum(s.named and len(s.accepted) == 1 for s in found)
    return Figures(len(found), counts["named"], counts["placed"], counts["rightly_none"], alone, without)
