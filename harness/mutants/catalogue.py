"""The catalogue: every fault and honest variant by id, and the factory that makes a backend of one.

The registry resolves `moe_harness.mutants.catalogue:backend:<id>`; without an id it is the honest subject.
`<id>#<seed>` draws an honest kind's arithmetic from a seed, `<fault>@<kind>#<seed>` puts a fault on top of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from moe_harness.emulator.honest import HONEST
from moe_harness.emulator.seams import HOME, Seams, seam
from moe_harness.emulator.subject import SubjectBackend
from moe_harness.mutants import entries as topics
from moe_harness.mutants.entry import Fault, Honest

SPECIFICATION = "moe_harness.mutants.catalogue:backend"


def _listed(name: str) -> Iterator[Any]:
    """What the topics' files list under a name, in the order of their names."""
    for info in iter_modules(topics.__path__):
        yield from getattr(import_module(f"{topics.__name__}.{info.name}"), name, ())


FAULTS: tuple[Fault, ...] = tuple(_listed("FAULTS"))
SURVIVORS: tuple[Fault, ...] = tuple(fault for fault in FAULTS if fault.survives)  # why, and in which dtypes, stands there
SEEDED_KINDS: tuple[Honest, ...] = tuple(_listed("KINDS"))  # honest, and their arithmetic differs by rounding
HONEST_VARIANTS: tuple[Honest, ...] = (*_listed("HONEST_VARIANTS"), *SEEDED_KINDS)


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


def entry(name: str) -> Fault | Honest:
    """Raises ValueError for an unknown id."""
    if name not in entries():
        raise ValueError(f"no fault or honest variant {name!r} in the catalogue; known: {', '.join(sorted(entries()))}")
    return entries()[name]


def honest(kind_id: str | None, seed: int = 0) -> Seams:
    """The seams of an honest variant, of that seed where it draws; of the honest subject where None. Raises ValueError for a fault."""
    if kind_id is None:
        return HONEST
    found = entry(kind_id)
    if isinstance(found, Fault):
        raise ValueError(f"{kind_id} is a fault, not an honest variant")
    return found.at(HONEST, seed)


def faulty(fault_id: str, kind_id: str | None = None, seed: int = 0) -> Seams:
    """The seams of a fault, on top of an honest kind's. Raises ValueError for a pair that collides."""
    found = entry(fault_id)
    if not isinstance(found, Fault):
        raise ValueError(f"{fault_id} is an honest variant, not a fault")
    below = honest(kind_id, seed)
    if kind_id is not None and (shared := collisions(fault_id, kind_id)):
        raise ValueError(f"{fault_id} and {kind_id} both need {', '.join(sorted(shared))}")
    return found.seams(below)


@cache
def collisions(fault_id: str, kind_id: str) -> frozenset[str]:
    """Seams that a fault changes and an honest variant changes or bypasses: one of the two would not show."""
    kind = entry(kind_id)
    taken = changed_seams(kind) | frozenset(kind.bypasses if isinstance(kind, Honest) else ())
    return changed_seams(entry(fault_id)) & taken


@cache
def changed_seams(of: Fault | Honest) -> frozenset[str]:
    """The names of the seams that an entry changes."""
    seams = of.seams(HONEST)
    return frozenset(name for name in HOME if seam(seams, name) is not seam(HONEST, name))


def backend(variant: str | None = None) -> SubjectBackend:
    """The honest subject, or what the specification describes. Raises ValueError for an unknown id, seed or pair."""
    if variant is None:
        return SubjectBackend(SPECIFICATION)
    name, _, seed = variant.partition("#")
    name, _, kind = name.partition("@")
    if not (seed or "0").isdecimal():
        raise ValueError(f"{variant!r}: the seed behind # is a whole number")
    if isinstance(entry(name), Fault):
        seams = faulty(name, kind or None, int(seed or 0))
    elif kind:
        raise ValueError(f"{variant!r}: {name} is an honest variant and stands on no kind")
    else:
        seams = honest(name, int(seed or 0))
    return SubjectBackend(f"{SPECIFICATION}:{variant}", seams)


def faults_of(check: str) -> tuple[Fault, ...]:
    """The faults that the check of that id must kill."""
    return tuple(fault for fault in FAULTS if check in fault.dies_by)
