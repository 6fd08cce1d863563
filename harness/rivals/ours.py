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
from harness.faults.catalogue import backend
from harness.rivals.candidates import Candidate, golden
from harness.subject import Subject, Workshop
from harness.verdict import Inconclusive, Verdict
from implementations.interface import Unsupported

# Clauses that see the same runs of the same model as the rules do: whole, split and ragged passes over its prompts, and its MoE blocks.
SAME_RUNS = ("PARITY-02", "PARITY-03", "CACHE-01", "PAD-01", "PAD-02", "BLOCK-01", "BLOCK-02", "ROUTE-04", "ROUTE-05")


@dataclass(frozen=True)
class Check:
    """A check function with one choice of its parameters; `limits`: what its clause is about."""

    function: Any
    arguments: dict[str, Any]
    limits: dict[str, Any]


def failing(clauses: Iterable[str], subject: Subject) -> tuple[str, ...]:
    """The clauses that the subject fails, of those that concern its case and dtype."""
    return tuple(name for name in clauses if any(_fails(check, subject) for check in all_checks()[name] if _asked(check, subject)))


def failing_meant(candidate: Candidate, workshop: Workshop) -> tuple[str, ...]:
    """The clauses that are meant for a fault and not among SAME_RUNS, on the golden model or the router of its family."""
    if candidate.fault is None:
        return ()
    subjects = [Subject(backend(candidate.entry), case, candidate.dtype, workshop) for case in _cases(candidate)]
    meant = [name for name in candidate.fault.dies_by if name not in SAME_RUNS or candidate.family not in golden()]
    return tuple(dict.fromkeys(name for subject in subjects for name in failing(meant, subject)))


def _cases(candidate: Candidate) -> list[Any]:
    routers = [case for case in router_cases() if candidate.fault and case.name in candidate.fault.families]
    return [golden()[candidate.family]] if candidate.family in golden() else routers


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
