"""A check that leaves no arrays is asked again: it names the bug with which it ends as it did, and none where that bug is not known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from moe_harness.cases.cases import named_cases
from moe_harness.checks.in_process import checks_of, suite
from moe_harness.diagnosis.account import diagnosed
from moe_harness.diagnosis.echo import Echo, alike
from moe_harness.diagnosis.operators import TOPICS, operator, suspects
from moe_harness.diagnosis.stage import Stage, explain_by_check, staged
from moe_harness.emulator.seams import HOME
from moe_harness.judge.exhibit import RECORD, Exhibit
from moe_harness.judge.metric import Metric
from moe_harness.mutants.catalogue import FAULTS, backend, changed_seams, entry
from moe_harness.repro.capsule import Capsule, checkpoint_facts
from moe_harness.suite.subject import Subject, Workshop

MIXTRAL = named_cases()["mixtral"]
# Candidates on another arithmetic than the hypotheses, and the check: compared bit by bit, generated, converted, declared, refused, crashed
FAILING = {
    "attention-maximum-of-batch@sum-tree#1": "BATCH-02",
    "prompt-counted-in-new-tokens@sum-tree#1": "GEN-03",
    "router-stored-in-bfloat16@gate-by-tanh#1": "CONV-01",
    "declares-a-window@sum-tree#1": "CAP-01",
    "too-long-cut-off@sum-tree#1": "INPUT-03",
    "loss-in-bits@softmax-in-float64#1": "LOSS-01",
    "index-error-for-invalid-input@sum-tree#1": "INPUT-01",
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("stage"))


def failed(candidate: str, clause: str, workshop: Workshop) -> Capsule:
    """A record without arrays, as a run would leave it."""
    (check,) = checks_of([clause])
    ended = check.ask(Subject(backend(candidate), MIXTRAL, "float32", workshop))
    identity = {"check": clause, "backend": "mine", "case": "mixtral", "dtype": "float32", "status": ended.status, "reason": ended.reason}
    facts = checkpoint_facts(MIXTRAL.checkpoint)
    return Capsule(identity, tuple(ended.verdict.metrics.values()), "", Exhibit(RECORD), facts, check.parameters)


@pytest.mark.parametrize("candidate", FAILING)
def test_the_bug_is_named(candidate: str, workshop: Workshop):
    found = diagnosed(failed(candidate, FAILING[candidate], workshop))
    fault = entry(candidate.split("@")[0])
    assert (
        found.answer is not None
        and fault in found.answer.accepted
        and set(found.operators) >= {operator(seam) for seam in changed_seams(fault)}
    )


@pytest.mark.parametrize("candidate", list(FAILING)[2:4])
def test_a_bug_that_is_not_known_is_none(candidate: str, workshop: Workshop):
    (check,), fault = checks_of([FAILING[candidate]]), candidate.split("@")[0]
    stage = Stage(check, MIXTRAL, "float32", workshop)
    found = explain_by_check(stage, stage.ask(backend(candidate)), [f for f in FAULTS if f.id != fault])
    assert found.accepted == () and found.tried > 20


def test_only_faults_in_seams_that_are_called_are_tried(workshop: Workshop):
    (check,) = checks_of(["CAP-01"])
    called = Stage(check, MIXTRAL, "float32", workshop).called
    assert "describe" in called and "rotate" not in called and called < set(HOME)


def test_the_honest_ending_explains_nothing(workshop: Workshop):
    stage = Stage(checks_of(["GEN-03"])[0], MIXTRAL, "float32", workshop)
    honest = stage.ask(backend())
    assert honest == Echo("PASS") and not alike(honest, stage.ask(backend("prompt-counted-in-new-tokens")))


@pytest.mark.parametrize("other, same", [
    (Metric("x", 104, 0), True),  # counts move with rounding
    (Metric("x", 120, 0), False),
    (Metric("y", 100, 0), False),
])  # fmt: skip
def test_endings_are_alike_within_what_rounding_moves(other: Metric, same: bool):
    one, another = (Echo("FAIL", f"{m} [row 3 of 8]", {m.name: m}) for m in (Metric("x", 100, 0), other))
    assert alike(one, another) is same
    assert not alike(one, replace(another, reason="x = 100 (bound 0) [row 5 of 8]")) and not alike(one, replace(another, status="CRASHED"))


def test_a_floor_says_how_near_is_near():
    one, near, far = (Echo("FAIL", "", {"x": Metric("x", value, 1e-5, 1e-6)}) for value in (0.5, 0.50001, 0.5001))
    assert alike(one, near) and not alike(one, far)


def test_numbers_in_an_error_may_differ():
    one, other = Echo("CRASHED", "IndexError: 7 of 5 rows"), Echo("CRASHED", "IndexError: 9 of 8 rows")
    assert alike(one, other) and not alike(one, Echo("CRASHED", "KeyError: 7 of 5 rows"))


def test_on_a_checkpoint_of_its_own_nothing_is_tried(workshop: Workshop, tmp_path: Path):
    capsule = failed("prompt-counted-in-new-tokens", "GEN-03", workshop)
    with staged(replace(capsule, checkpoint={"sha256": "0", "path": str(tmp_path)})) as stage:
        assert stage is None
    with staged(replace(capsule, identity={**capsule.identity, "case": "mine"})) as stage:
        assert stage is None


def test_every_clause_has_a_first_suspect_that_is_an_operator():
    known = {operator(seam) for seam in HOME}
    assert all(suspects(check.id) for check in suite()) and {name for names in TOPICS.values() for name in names} <= known
