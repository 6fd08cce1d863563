"""The catalogue: every fault and honest variant by id, and the factory that makes a backend of one.

The registry resolves `harness.faults.catalogue:backend:<id>`; without an id it is the honest subject.
"""

from __future__ import annotations

from functools import cache

from harness.faults import (
    attention_faults,
    batch_faults,
    call_faults,
    continuation_faults,
    conversion_faults,
    expert_faults,
    generation_faults,
    honest,
    load_faults,
    loading_faults,
    loss_faults,
    memory_faults,
    router_faults,
    sampling_faults,
    shared_faults,
    spec_faults,
)
from harness.faults.entry import Fault, Honest
from harness.faults.seams import HONEST
from harness.faults.subject import SubjectBackend

SPECIFICATION = "harness.faults.catalogue:backend"
FAULTS: tuple[Fault, ...] = (
    *router_faults.FAULTS,
    *expert_faults.FAULTS,
    *attention_faults.FAULTS,
    *conversion_faults.FAULTS,
    *generation_faults.FAULTS,
    *spec_faults.FAULTS,
    *shared_faults.FAULTS,
    *load_faults.FAULTS,
    *continuation_faults.FAULTS,
    *batch_faults.FAULTS,
    *loss_faults.FAULTS,
    *loading_faults.FAULTS,
    *sampling_faults.FAULTS,
    *call_faults.FAULTS,
    *memory_faults.FAULTS,
)
HONEST_VARIANTS: tuple[Honest, ...] = honest.HONEST_VARIANTS


@cache
def entries() -> dict[str, Fault | Honest]:
    """Every entry by id. Raises ValueError for an id that is used twice."""
    found: dict[str, Fault | Honest] = {}
    every: tuple[Fault | Honest, ...] = (*FAULTS, *HONEST_VARIANTS)
    for entry in every:
        if entry.id in found:
            raise ValueError(f"two entries of the catalogue are called {entry.id!r}")
        found[entry.id] = entry
    return found


def backend(variant: str | None = None) -> SubjectBackend:
    """The honest subject, or the entry of that id. Raises ValueError for an unknown one."""
    if variant is None:
        return SubjectBackend(SPECIFICATION)
    if variant not in entries():
        raise ValueError(f"no fault or honest variant {variant!r} in the catalogue; known: {', '.join(sorted(entries()))}")
    return SubjectBackend(f"{SPECIFICATION}:{variant}", entries()[variant].seams(HONEST))


def faults_of(check: str) -> tuple[Fault, ...]:
    """The faults that the check of that id must kill."""
    return tuple(fault for fault in FAULTS if check in fault.dies_by)
