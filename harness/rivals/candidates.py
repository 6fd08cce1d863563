"""Who is judged: every fault, in a model where it shows, and every honest variant, on several texts. Legend: B batch, S sequence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from harness.cases import Case, golden_cases, golden_root
from harness.faults.catalogue import FAULTS, HONEST_VARIANTS, entries
from harness.faults.entry import Fault
from harness.golden import HELDOUT
from harness.subject import Workshop
from harness.synthetic import synthesize

DTYPES = ("float32", "bfloat16")
ROUTER_SCALE = 2.0  # of the random model that stands in where no golden one has the fault's configuration
TEXTS = 3  # per honest variant and family: the golden prompts, then windows of the held-out text, which nobody chose for their margins


@dataclass(frozen=True)
class Candidate:
    """`entry`: an id of the catalogue. `text` 0: the case's own prompts. `family`: of a golden model, or of a router alone."""

    entry: str
    family: str
    dtype: str
    text: int = 0

    @property
    def fault(self) -> Fault | None:
        """None: an honest variant."""
        entry = entries()[self.entry]
        return entry if isinstance(entry, Fault) else None


def candidates(dtype: str) -> Iterator[Candidate]:
    """All of one dtype: a fault once, an honest variant on every family that it changes and every text."""
    for fault in FAULTS:
        if dtype in fault.dtypes:
            yield Candidate(fault.id, family_of(fault), dtype)
    for variant in HONEST_VARIANTS:
        yield from (Candidate(variant.id, family, dtype, text) for family in variant.families for text in range(TEXTS))


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
        return on_text(case, candidate.text)
    return case if fault.shows_in(case.config) else stand_in(fault, case, workshop)


def stand_in(fault: Fault, case: Case, workshop: Workshop) -> Case:
    """A random model of the nearest configuration that shows the fault."""
    config = fault.needs(case.config)
    return Case(f"{case.name} for {fault.id}", workshop.once(f"{config}", lambda dst: synthesize(config, dst, 1, ROUTER_SCALE)))


@cache
def on_text(case: Case, text: int) -> Case:
    """The case with other prompts; its oracle is shared."""
    if text == 0:
        return case
    moved = replace(case)
    vars(moved).update(oracle=case.oracle, prompts_BS=windows(*case.prompts_BS.shape, seed=text))
    return moved


def windows(rows: int, length: int, seed: int) -> np.ndarray:
    """input_ids_BS: windows of the held-out text at random places."""
    text = np.frombuffer((golden_root() / HELDOUT).read_bytes(), np.uint8).astype(np.int64)
    starts = np.random.default_rng(seed).integers(0, len(text) - length, rows)
    return np.stack([text[start : start + length] for start in starts])
