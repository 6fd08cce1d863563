"""The catalogue: every fault and honest variant by id, and the factory that makes a backend of one.

The registry resolves `harness.faults.catalogue:backend:<id>`; without an id it is the honest subject.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from harness.faults import entries as topics
from harness.faults.entry import Fault, Honest
from harness.faults.seams import HONEST
from harness.faults.subject import SubjectBackend

SPECIFICATION = "harness.faults.catalogue:backend"


def _listed(name: str) -> Iterator[Any]:
    """What the topics' files list under a name, in the order of their names."""
    for info in iter_modules(topics.__path__):
        yield from getattr(import_module(f"{topics.__name__}.{info.name}"), name, ())


FAULTS: tuple[Fault, ...] = tuple(_listed("FAULTS"))
HONEST_VARIANTS: tuple[Honest, ...] = tuple(_listed("HONEST_VARIANTS"))


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
