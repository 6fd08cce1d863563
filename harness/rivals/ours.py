"""Our own verdict on a candidate: the checks, called in process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np

import harness.checks as checks
from harness.cases import router_cases
from harness.checks.clause import concerns
from harness.faults.catalogue import entries
from harness.faults.entry import Fault
from harness.rivals.candidates import Candidate, golden
from harness.subject import Subject, Workshop
from harness.verdict import Inconclusive, Verdict
from implementations.interface import Unsupported

# Clauses that see the same runs of the same model as the rules do: whole, split and ragged passes over its prompts, and its MoE blocks.
SAME_RUNS = ("PARITY-02", "PARITY-03", "BLOCK-01", "BLOCK-02", "CACHE-01", "PAD-01", "PAD-02")
ROUTING = ("ROUTE-04", "ROUTE-05")  # asked of every candidate, besides the clauses that are about what it changes


@dataclass(frozen=True)
class Check:
    """A check function with one choice of its parameters; `limits`: what its clause is about."""

    function: Any
    arguments: dict[str, Any]
    limits: dict[str, Any]


def fails(subject: Subject, clauses: Iterable[str]) -> bool:
    """Whether it fails one of the clauses, of those that concern its case and dtype; the others are not tried."""
    return any(_fails(check, subject) for name in clauses for check in all_checks()[name] if _asked(check, subject))


def fails_elsewhere(candidate: Candidate, workshop: Workshop) -> bool:
    """Whether it fails a clause that is about what it changes, or about routing, on the golden model or the router of its family."""
    entry = entries()[candidate.entry]
    about = entry.dies_by if isinstance(entry, Fault) else entry.also
    clauses = dict.fromkeys((*ROUTING, *about))
    subjects = [Subject(candidate.backend, case, candidate.dtype, workshop) for case in _cases(candidate)]
    return any(fails(subject, clauses) for subject in subjects)


def _cases(candidate: Candidate) -> list[Any]:
    if candidate.family in golden():
        return [golden()[candidate.family].seeded(candidate.seed)]
    return [case for case in router_cases() if case.name == candidate.family]


def _asked(check: Check, subject: Subject) -> bool:
    return concerns(check.limits, subject.case) and subject.dtype in (check.limits["dtypes"] or (subject.dtype,))


def _fails(check: Check, subject: Subject) -> bool:
    try:
        with np.errstate(all="ignore"):
            check.function(subject, Verdict(), **check.arguments)
    except (Unsupported, Inconclusive):
        return False
    except Exception:  # a violation, a broken contract, or a crash: all of them fail a run of the suite
        return True
    return False


@cache
def all_checks() -> dict[str, list[Check]]:
    """Every check by its clause."""
    found: dict[str, list[Check]] = {}
    for module in iter_modules(checks.__path__):
        if module.name.startswith("test_"):
            for name, function in vars(import_module(f"{checks.__name__}.{module.name}")).items():
                if name.startswith("test_"):
                    found |= dict(_checks(function))
    return found


def _checks(function: Any) -> Iterator[tuple[str, list[Check]]]:
    marks = {mark.name: mark for mark in function.pytestmark}
    parameter, values = marks["parametrize"].args if "parametrize" in marks else ("", [None])
    arguments = [{parameter: value} if parameter else {} for value in values]
    yield marks["clause"].args[0], [Check(function, chosen, marks["clause"].kwargs) for chosen in arguments]
