"""Our own verdict on a candidate: the checks, called in process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from allclose.candidates import Candidate, golden
from moe_harness.cases.cases import router_cases
from moe_harness.checks.in_process import checks_of
from moe_harness.mutants.catalogue import entries
from moe_harness.mutants.entry import Fault
from moe_harness.selftest.trial import judge
from moe_harness.suite.subject import Subject, Workshop

# Clauses that see the same runs of the same model as the rules do: whole, split and ragged passes over its prompts, and its MoE blocks.
SAME_RUNS = ("PARITY-02", "PARITY-03", "BLOCK-01", "BLOCK-02", "CACHE-01", "PAD-01", "PAD-02")
ROUTING = ("ROUTE-04", "ROUTE-05")  # asked of every candidate, besides the clauses that are about what it changes


def fails(subject: Subject, clauses: Iterable[str]) -> bool:
    """Whether it fails one of the clauses, of those that concern its case and dtype; the others are not tried."""
    return any(judge(check, subject).failed for check in checks_of(clauses) if check.asks(subject.case, subject.dtype))


def fails_elsewhere(candidate: Candidate, workshop: Workshop) -> bool:
    """Whether it fails a clause that is about what it changes, or about routing, on the golden model or the router of its family."""
    entry = entries()[candidate.entry]
    about = entry.dies_by if isinstance(entry, Fault) else entry.also
    subjects = [Subject(candidate.backend, case, candidate.dtype, workshop) for case in _cases(candidate)]
    return any(fails(subject, (*ROUTING, *about)) for subject in subjects)


def _cases(candidate: Candidate) -> list[Any]:
    if candidate.family in golden():
        return [golden()[candidate.family].seeded(candidate.seed)]
    return [case for case in router_cases() if case.name == candidate.family]
