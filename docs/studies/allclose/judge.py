"""One candidate judged by every rule, and by ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from allclose import ours
from allclose.candidates import Candidate, case_of
from allclose.references import BLOCKS, Archive, References, rows
from allclose.rules import BLOCK, LOGITS, RULES
from allclose.runs import LOGIT_RUNS, blocks
from moe_harness.suite.subject import Subject, Workshop

Ratios = dict[str, float]  # rule id -> measured / allowed


@dataclass(frozen=True)
class Outcome:
    """`visible`: some logits differ in a bit from the honest subject's, or a run raised. `ratios`: the worst over all runs, infinite where
    one raised. `same_runs`: one of our clauses failed that see no more than the rules do; `all_clauses`: any of ours."""

    candidate: Candidate
    visible: bool
    ratios: Ratios
    same_runs: bool
    all_clauses: bool


def judge(candidate: Candidate, workshop: Workshop, archive: Archive) -> Outcome:
    """No rule sees a router without a model, nor a model that tells a list of likely tokens instead of its logits."""
    case = case_of(candidate, workshop)
    visible, ratios, same_runs = False, {rule.id: 0.0 for rule in RULES}, False
    if case is not None and "all" in candidate.backend.capabilities().logits:
        subject = Subject(candidate.backend, case, candidate.dtype, workshop)
        visible, ratios = _by_rules(subject, archive.of(subject))
        same_runs = visible and ours.fails(subject, ours.SAME_RUNS)
    return Outcome(candidate, visible, ratios, same_runs, same_runs or ours.fails_elsewhere(candidate, workshop))


def _by_rules(subject: Subject, known: References) -> tuple[bool, Ratios]:
    visible, ratios = False, {rule.id: 0.0 for rule in RULES}
    for name, run in LOGIT_RUNS.items():
        observed = _attempt(lambda run=run: rows(run(subject)))  # type: ignore[misc]
        visible |= observed is None or _differs(observed, known.same_dtype[name])
        _raise_to(ratios, LOGITS, known, name, observed, subject.dtype)
    if "probe" in subject.capabilities.features:
        _raise_to(ratios, BLOCK, known, BLOCKS, _attempt(lambda: tuple(blocks(subject, known.states))), subject.dtype)
    return visible, ratios


def _raise_to(ratios: Ratios, site: str, known: References, run: str, observed: Sequence[np.ndarray] | None, dtype: str) -> None:
    """Each rule's worst so far. Who raises, or gives arrays of another shape, fails every rule: anybody notices that."""
    shapes = [array.shape for array in observed or ()] == [array.shape for array in known.exact[run]]
    given = known.evidence(run, observed, dtype) if observed is not None and shapes else None
    for rule in RULES:
        if rule.site == site:
            with np.errstate(all="ignore"):
                ratios[rule.id] = max(ratios[rule.id], rule.ratio(given) if given else np.inf)


def _attempt(run: Callable[[], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...] | None:
    """None where the candidate raises, whatever it raises."""
    try:
        return run()
    except Exception:
        return None


def _differs(observed: Sequence[np.ndarray], honest: Sequence[np.ndarray]) -> bool:
    return any(a.shape != b.shape or a.tobytes() != b.tobytes() for a, b in zip(observed, honest, strict=True))
