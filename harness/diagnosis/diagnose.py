"""The diagnosis of an exhibit: where the error enters, and which known bug makes the same one. The catalogue as hypotheses: which bug gives
the candidate's own output, and how exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from moe_harness.diagnosis.block import find_in_block
from moe_harness.diagnosis.model import find_in_model
from moe_harness.diagnosis.operators import Finding, operators
from moe_harness.diagnosis.replay import Distance, distance
from moe_harness.diagnosis.router import find_in_router
from moe_harness.emulator.honest import HONEST
from moe_harness.emulator.seams import HOME
from moe_harness.judge.exhibit import BLOCK, MODEL, RECORD, ROUTER, Exhibit
from moe_harness.mutants.catalogue import FAULTS, changed_seams
from moe_harness.mutants.entry import Fault

if TYPE_CHECKING:
    from moe_harness.diagnosis.stage import Echoes

# The candidate is rounded and so is the hypothesis: each may be off by the bound (as in checks that compare two rounded things). And the
# hypothesis must be much nearer than an honest implementation is: half a failure, or more, that stays unexplained is none.
WITHIN, NEARER = 2.0, 2.0
IN_MODEL_ONLY = frozenset(("router_input", "router_layer", "pinned_layer", "dense_mlp"))
STORAGE = frozenset(("pack", "widen", "loaded"))  # the seams of storage that change a model's weights
CALLS = frozenset(("segments", "packed_positions", "boundaries", "admit", "lengths"))


@dataclass(frozen=True)
class Hypothesis:
    """A known fault, and the distance from the candidate of the honest subject with that fault."""

    fault: Fault
    distance: Distance

    @property
    def operators(self) -> frozenset[str]:
        return operators(self.fault)


@dataclass(frozen=True)
class Answer:
    """`honest`: the distance of the honest subject. `accepted`: nearest first; several of them cannot be told apart here. `nearest`: the
    best of all that were tried, accepted or not. `tried`: how many."""

    honest: Distance
    accepted: tuple[Hypothesis, ...]
    nearest: Hypothesis | None
    tried: int

    @property
    def operators(self) -> tuple[str, ...]:
        """Of the accepted faults."""
        return tuple(dict.fromkeys(name for hypothesis in self.accepted for name in sorted(hypothesis.operators)))


def explain_by_catalogue(exhibit: Exhibit, faults: Iterable[Fault] = FAULTS) -> Answer:
    """Tries every fault that can act on the exhibit."""
    honest = distance(exhibit, HONEST, strict=False)
    tried = sorted((Hypothesis(fault, distance(exhibit, fault.seams(HONEST))) for fault in acting(exhibit, faults)), key=_key)
    accepted = tuple(h for h in tried if h.distance.worst <= WITHIN < honest.worst and honest.worst >= NEARER * h.distance.worst)
    return Answer(honest, accepted, tried[0] if tried else None, len(tried))


def narrowed(answer: Answer, others: Sequence[Exhibit]) -> Answer:
    """Without the explanations that do not also give what came in other experiments on the same backend; all of them where none does."""
    left = tuple(h for h in answer.accepted if all(_holds(h.fault, other) for other in others))
    return replace(answer, accepted=left) if left else answer


def _holds(fault: Fault, other: Exhibit) -> bool:
    return not list(acting(other, [fault])) or distance(other, fault.seams(HONEST)).worst <= WITHIN


def _key(hypothesis: Hypothesis) -> tuple[float, str]:
    return hypothesis.distance.worst, hypothesis.fault.id


def acting(exhibit: Exhibit, faults: Iterable[Fault]) -> Iterator[Fault]:
    """Faults of parts that take part in the experiment."""
    return (fault for fault in faults if changed_seams(fault) & _active(exhibit.kind))


@cache
def _active(kind: str) -> frozenset[str]:
    parts = {ROUTER: ("router",), BLOCK: ("router", "experts"), MODEL: ("router", "experts", "attention", "cache", "network")}[kind]
    own = frozenset(seam for seam, part in HOME.items() if part in parts) | {"linear"}
    return own | STORAGE | CALLS if kind == MODEL else own - IN_MODEL_ONLY


@dataclass(frozen=True)
class Diagnosis:
    """`answer`: of hypotheses, or of a check that was asked again. None: nothing could be tried, for want of weights."""

    finding: Finding
    answer: Answer | Echoes | None

    @property
    def operators(self) -> tuple[str, ...]:
        """Those of the known bugs that fit, else the suspects."""
        return (self.answer.operators if self.answer else ()) or self.finding.operators


def diagnose(exhibit: Exhibit, faults: Iterable[Fault] = FAULTS) -> Diagnosis:
    """Raises ValueError for an exhibit that holds no experiment."""
    if exhibit.kind == RECORD:
        raise ValueError("a record without arrays cannot be diagnosed")
    find = {ROUTER: find_in_router, BLOCK: find_in_block, MODEL: find_in_model}[exhibit.kind]
    with np.errstate(all="ignore"):
        finding = find(exhibit)
    return Diagnosis(finding, explain_by_catalogue(exhibit, faults) if exhibit.tensors else None)
