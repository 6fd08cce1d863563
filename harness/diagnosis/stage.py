"""A check as the experiment: with which known bug does it end for the numpy subject as it did for the candidate?

For checks that leave no arrays: they compared two runs bit by bit, generated, converted, declared, or had something refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from moe_harness.cases.cases import RouterCase, named_cases
from moe_harness.checks.in_process import Check, suite
from moe_harness.diagnosis.echo import Echo, alike, violated
from moe_harness.diagnosis.operators import operators
from moe_harness.emulator.honest import HONEST
from moe_harness.emulator.seams import HOME, Seams, changed, seam
from moe_harness.emulator.subject import SubjectBackend
from moe_harness.implementations.interface import Backend
from moe_harness.mutants.catalogue import changed_seams
from moe_harness.mutants.entry import Fault
from moe_harness.repro.capsule import Capsule
from moe_harness.repro.checkpoint import golden_checkpoint
from moe_harness.suite.subject import Subject, Workshop


@dataclass
class Stage:
    """One check, and the case and dtype in which it is asked."""

    check: Check
    case: Any
    dtype: str
    workshop: Workshop
    _known: dict[str, Echo] = field(default_factory=dict)

    def echo(self, fault: Fault) -> Echo:
        """The ending for the honest subject with that fault."""
        if fault.id not in self._known:
            self._known[fault.id] = self.ask(SubjectBackend(fault.id, fault.seams(HONEST)))
        return self._known[fault.id]

    def ask(self, backend: Backend) -> Echo:
        ended = self.check.ask(Subject(backend, self.case, self.dtype, self.workshop))
        return Echo(ended.status, ended.reason, violated(ended.verdict.metrics.values()))

    @cached_property
    def called(self) -> frozenset[str]:
        """The seams through which the honest subject passes when it is asked: a fault in others cannot show."""
        seen: set[str] = set()
        self.ask(SubjectBackend("traced", _traced(seen)))
        return frozenset(seen)


def _traced(seen: set[str]) -> Seams:
    def traced(name: str) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            seen.add(name)
            return seam(HONEST, name)(*args, **keywords)

        return call

    return changed(HONEST, **{name: traced(name) for name in HOME})


@contextmanager
def staged(capsule: Capsule) -> Iterator[Stage | None]:
    """The stage of a capsule's check; None where its case is no golden one (the subject is slow) or the check is gone."""
    case = named_cases().get(capsule.identity["case"])
    known = isinstance(case, RouterCase) or (case is not None and golden_checkpoint(capsule) is not None)
    check = next((c for c in suite() if c.id == capsule.check and _plain(c.parameters) == _plain(capsule.parameters)), None)
    if check is None or not known:
        yield None
        return
    with TemporaryDirectory(prefix="moe-harness-explain-") as scratch:
        yield Stage(check, case, capsule.identity["dtype"], Workshop(Path(scratch)))


def _plain(parameters: Any) -> dict[str, str]:
    """JSON makes lists of tuples."""
    return {name: str(list(value) if isinstance(value, tuple) else value) for name, value in parameters.items()}


@dataclass(frozen=True)
class Echoes:
    """`accepted`: faults with which the check ends as it did for the candidate; several cannot be told apart by it. `tried`: how many."""

    accepted: tuple[Fault, ...]
    tried: int

    @property
    def operators(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for fault in self.accepted for name in sorted(operators(fault))))


def acting(stage: Stage, faults: Iterable[Fault]) -> list[Fault]:
    """Those that can show: they change what the check calls."""
    return [fault for fault in faults if changed_seams(fault) & stage.called]


def explain_by_check(stage: Stage, came: Echo, faults: Iterable[Fault]) -> Echoes:
    """Tries the faults that the check is there for; where none of these fits, every other one that can act on it."""
    possible = acting(stage, faults)
    named = [fault for fault in possible if stage.check.id in fault.dies_by]
    tried = 0
    for some in (named, [fault for fault in possible if fault not in named]):
        tried += len(some)
        if accepted := tuple(fault for fault in some if alike(came, stage.echo(fault))):
            return Echoes(accepted, tried)
    return Echoes((), tried)
