"""The whole account of a capsule: judged anew, told in words, diagnosed, and narrowed down by the capsules that lie beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from moe_harness.diagnosis import words
from moe_harness.diagnosis.diagnose import Answer, Diagnosis, diagnose, narrowed
from moe_harness.diagnosis.echo import echo_of
from moe_harness.diagnosis.jury import ask
from moe_harness.diagnosis.operators import Finding, suspects
from moe_harness.diagnosis.rejudge import rejudge
from moe_harness.judge.exhibit import RECORD, Exhibit
from moe_harness.judge.metric import Metric
from moe_harness.mutants.catalogue import FAULTS
from moe_harness.repro.capsule import Capsule
from moe_harness.repro.storage import CapsuleError, read

MOST_SIBLINGS = 8


@dataclass(frozen=True)
class Account:
    """`fails`: judged anew, it fails as recorded."""

    lines: tuple[str, ...]
    fails: bool


def account(capsule: Capsule, path: Path) -> Account:
    """Raises CapsuleError for arrays that pass for an exhibit and cannot be judged."""
    try:
        metrics = rejudge(capsule)
        fails = any(metric.violated for metric in metrics) or not capsule.metrics
        return Account(tuple(_lines(capsule, metrics, fails, path)), fails)
    except (ValueError, KeyError, IndexError, TypeError, AssertionError, ArithmeticError, MemoryError) as error:
        raise CapsuleError(f"{path}: cannot be judged: {type(error).__name__}: {error}") from error


def _lines(capsule: Capsule, metrics: list[Metric], fails: bool, path: Path) -> Iterator[str]:
    yield from words.headline(capsule)
    if not fails:
        yield "  got        judged anew from its arrays, it passes: the record and the capsule disagree"
        yield from (f"             {metric}" for metric in metrics if metric.bound is not None)
        return
    yield from words.measured(metrics, capsule.metrics)
    if (jury := ask(capsule)) is not None:
        yield words.jury(jury)
    yield from words.diagnosis(diagnosed(capsule, path), capsule.exhibit.kind)
    yield f"  again      {capsule.reproduce}"


def diagnosed(capsule: Capsule, path: Path | None = None) -> Diagnosis:
    """With those of several explanations left that also explain the capsules beside it. A clause about conversion puts conversion first.
    Where there is no experiment, the check itself is asked again."""
    if capsule.exhibit.kind == RECORD:
        return asked_again(capsule)
    found = diagnose(capsule.exhibit)
    if isinstance(found.answer, Answer) and len(found.answer.accepted) > 1 and path is not None:
        found = replace(found, answer=narrowed(found.answer, list(siblings(capsule, path))))
    if capsule.check.startswith("CONV-"):
        operators = tuple(dict.fromkeys(("conversion", *found.finding.operators)))
        found = replace(found, finding=replace(found.finding, operators=operators))
    return found


def asked_again(capsule: Capsule) -> Diagnosis:
    """The check asked of the numpy subject with each known bug."""
    from moe_harness.diagnosis.stage import explain_by_check, staged  # brings pytest, without which experiments are explained

    with staged(capsule) as stage:
        answer = None if stage is None else explain_by_check(stage, echo_of(capsule), FAULTS)
    return Diagnosis(Finding(suspects(capsule.check), evidence=("the check leaves no arrays; how it ends is compared",)), answer)


def siblings(capsule: Capsule, path: Path) -> Iterator[Exhibit]:
    """Experiments of other failures of the same backend, from the same directory."""
    files = sorted(file for file in path.resolve().parent.glob("*.safetensors") if file != path.resolve())
    found = 0
    for file in files:
        try:
            other = read(file)
        except (CapsuleError, FileNotFoundError):
            continue
        if other.identity["backend"] == capsule.identity["backend"] and other.exhibit.tensors and found < MOST_SIBLINGS:
            found += 1
            yield other.exhibit
