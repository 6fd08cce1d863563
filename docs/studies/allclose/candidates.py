"""Who is judged: every fault, in a model where it shows, and every honest variant, on several texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np

from moe_harness.cases.cases import Case, golden_cases
from moe_harness.cases.synthetic import synthesize
from moe_harness.implementations.interface import Backend
from moe_harness.mutants.catalogue import FAULTS, HONEST_VARIANTS, backend, entries
from moe_harness.mutants.entry import Fault, Honest
from moe_harness.suite.subject import Workshop

DTYPES = ("float32", "bfloat16")
ROUTER_SCALE = 2.0  # of the random model that stands in where no golden one has the fault's configuration
RUNS = 2  # per honest variant, each on another family and text, and with other draws where the variant draws


@dataclass(frozen=True)
class Candidate:
    """`entry`: an id of the catalogue. `family`: of a golden model, or of a router alone. `seed`: of the case (0: its golden prompts), and
    of an honest variant's arithmetic."""

    entry: str
    family: str
    dtype: str
    seed: int = 0

    @property
    def backend(self) -> Backend:
        return numpy_backend(self.entry if self.fault else f"{self.entry}#{self.seed}")

    @property
    def fault(self) -> Fault | None:
        """None: an honest variant."""
        entry = entries()[self.entry]
        return entry if isinstance(entry, Fault) else None


def numpy_backend(variant: str | None = None) -> Backend:
    """The honest subject, or that variant of it. Its fields are read-only, which the protocol does not ask for and does not mind."""
    return cast(Backend, backend(variant))


def candidates(dtype: str) -> Iterator[Candidate]:
    """All of one dtype: every fault once, every honest variant RUNS times."""
    for fault in FAULTS:
        if dtype in fault.dtypes:
            yield Candidate(fault.id, family_of(fault), dtype)
    for place, variant in enumerate(HONEST_VARIANTS):
        for run in range(RUNS):
            yield Candidate(variant.id, variant.families[(place + run) % len(variant.families)], dtype, run)


def sample(share: float) -> list[Candidate]:
    """Of all dtypes; below 1, that share of the faults and of the honest variants, drawn once for all."""
    every = [candidate for dtype in DTYPES for candidate in candidates(dtype)]
    kept = {entry.id for group in (FAULTS, HONEST_VARIANTS) for entry in _drawn(group, share)}
    return [candidate for candidate in every if candidate.entry in kept]


def _drawn(group: Sequence[Fault | Honest], share: float) -> list[Fault | Honest]:
    order = np.random.default_rng(0).permutation(len(group))
    return [group[place] for place in order[: round(share * len(group))]]


def family_of(fault: Fault) -> str:
    """The first of its families whose golden model shows it; else the first that has a golden model; else the first."""
    modelled = [family for family in fault.families if family in golden()]
    shown = [family for family in modelled if fault.shows_in(golden()[family].config)]
    return (shown or modelled or [*fault.families])[0]


@cache
def golden() -> dict[str, Case]:
    """The golden cases by family."""
    return {case.config.family: case for case in golden_cases()}


def case_of(candidate: Candidate, workshop: Workshop) -> Case | None:
    """The model that the candidate is judged on. None: its family is that of a router alone."""
    if candidate.family not in golden():
        return None
    case, fault = golden()[candidate.family], candidate.fault
    if fault is None:
        return case.seeded(candidate.seed)
    return case if fault.shows_in(case.config) else stand_in(fault, case, workshop)


def stand_in(fault: Fault, case: Case, workshop: Workshop) -> Case:
    """A random model of the nearest configuration that shows the fault."""
    config = fault.needs(case.config)
    return Case(f"{case.name} for {fault.id}", workshop.once(f"{config}", lambda dst: synthesize(config, dst, 1, ROUTER_SCALE)))
