"""A capsule and its diagnosis in words: required, got, by how much, where, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from moe_harness.diagnosis.diagnose import Answer, Diagnosis, Hypothesis
from moe_harness.diagnosis.jury import Jury
from moe_harness.diagnosis.operators import operators
from moe_harness.diagnosis.replay import Distance
from moe_harness.judge.exhibit import BLOCK, MODEL, RECORD, ROUTER, Exhibit
from moe_harness.judge.metric import Metric
from moe_harness.repro.capsule import Capsule

if TYPE_CHECKING:
    from moe_harness.diagnosis.stage import Echoes

SHOWN = 4


def headline(capsule: Capsule) -> Iterator[str]:
    """Who was judged by what, and what was asked of it."""
    identity = capsule.identity
    yield f"{capsule.check} failed: {identity['backend']} on {identity['case']}, {identity['dtype']}"
    yield f"  required   {identity.get('title') or capsule.check} (docs/spec.md, {capsule.check})"
    if reason := identity.get("reason"):
        yield f"  recorded   {shortened(reason)}"
    if asked := describe(capsule.exhibit):
        yield f"  asked      {asked}"


def shortened(text: str, most: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 4] + " ..."


def describe(exhibit: Exhibit) -> str:
    """The experiment."""
    arrays, facts = exhibit.arrays, exhibit.facts
    if exhibit.kind == ROUTER:
        return f"the router of MoE layer {facts['layer']} on {len(arrays['x_TD'])} tokens"
    if exhibit.kind == BLOCK:
        how = "with experts and weights pinned" if facts["pinned"] else "with the experts of its own router"
        return f"the MoE block of layer {facts['layer']} on {len(arrays['x_TD'])} tokens {how}"
    if exhibit.kind == MODEL:
        calls = [_call(i, call, exhibit) for i, call in enumerate(facts["calls"])]
        said = ", ".join(calls[:4]) + (f", ... {len(calls)} calls in all" if len(calls) > 4 else "")
        return f"the whole model: {said}; row {facts['row']} was judged"
    return ""


def _call(i: int, call: dict[str, str], exhibit: Exhibit) -> str:
    ids = exhibit.arrays[f"call{i}.ids"]
    if call["kind"] == "reset":
        return "reset"
    return f"{call['kind']} of {ids.shape[0]} x {ids.shape[1]}" + (" tokens" if i == 0 else "")


def measured(metrics: Sequence[Metric], recorded: Sequence[Metric]) -> Iterator[str]:
    """The violated metrics, each name once: those that were recorded first, then the worst."""
    names = [metric.name for metric in recorded]
    told: dict[str, Metric] = {}
    for metric in sorted(metrics, key=lambda metric: metric.name not in names):
        if metric.violated:
            told.setdefault(metric.name, metric)
    for metric in list(told.values())[:SHOWN]:
        yield f"  got        {metric.name} = {metric.value:.4g}, at most {metric.bound:.4g} is allowed{_times(metric)}"


def _times(metric: Metric) -> str:
    against = f", {metric.value / metric.noise:.3g} times honest noise" if metric.noise else ""
    return (f" ({metric.severity:.3g} times the bound{against})") if metric.bound else ""


def jury(found: Jury) -> str:
    return f"  honest     {found.passed} of {found.asked} honest implementations pass on the same input" + (
        f"; not: {', '.join(found.failed[:SHOWN])}" if found.failed else ""
    )


def diagnosis(found: Diagnosis, kind: str) -> Iterator[str]:
    """Where, and which known bug. `kind`: of the exhibit."""
    finding = found.finding
    where = "" if finding.layer is None else f"MoE layer {finding.layer}, "
    yield f"  where      {where}{' or '.join(finding.operators[:3])}"
    yield from (f"             {sentence}" for sentence in finding.evidence)
    if finding.experts:
        yield f"             experts {', '.join(map(str, finding.experts))}"
    if finding.tokens:
        yield f"             tokens {', '.join(map(str, finding.tokens))}" + (" ..." if len(finding.tokens) == 8 else "")
    yield from _answer(found, kind)


def _answer(found: Diagnosis, kind: str) -> Iterator[str]:
    if found.answer is None:
        yield f"  known bug  cannot be tried: {'it was not on a golden model' if kind == RECORD else 'the capsule holds no weights'}"
    elif isinstance(found.answer, Answer):
        yield from _by_hypotheses(found.answer)
    else:
        yield from _by_check(found.answer)


def _by_check(echoes: Echoes) -> Iterator[str]:
    if not echoes.accepted:
        yield f"  known bug  none of the known: of {echoes.tried} tried, the check ends this way with none"
        return
    several = f" (one of {len(echoes.accepted)} that it cannot tell apart)" if len(echoes.accepted) > 1 else ""
    yield f"  known bug  the check ends the same way with it{several}:"
    for fault in echoes.accepted[:SHOWN]:
        yield f"             {fault.id}: {fault.what}"
        yield f"               {', '.join(sorted(operators(fault)))}" + (f"; {fault.url}" if fault.url else "")
    yield f"             {echoes.tried} known bugs were tried"


def _by_hypotheses(answer: Answer) -> Iterator[str]:
    if not answer.accepted:
        near = f"; the nearest, {answer.nearest.fault.id}, is {_far(answer.nearest)}" if answer.nearest else ""
        yield f"  known bug  none of the known: of {answer.tried} tried, none gives this output{near}"
    else:
        several = f" (one of {len(answer.accepted)} that this input cannot tell apart)" if len(answer.accepted) > 1 else ""
        yield f"  known bug  reproduced within rounding{several}:"
        for hypothesis in answer.accepted[:SHOWN]:
            yield from _hypothesis(hypothesis)
        yield f"             {answer.tried} known bugs were tried; without one, an honest implementation {_honest(answer.honest)}"


def _hypothesis(hypothesis: Hypothesis) -> Iterator[str]:
    fault = hypothesis.fault
    yield f"             {fault.id}: {fault.what}"
    yield f"               {_bounds(hypothesis.distance.worst)} from what came; {', '.join(sorted(hypothesis.operators))}" + (
        f"; {fault.url}" if fault.url else ""
    )


def _honest(distance: Distance) -> str:
    if distance.parts.get("selection"):
        return "chooses other experts"
    return f"is {_bounds(distance.worst)} from what came" if np.isfinite(distance.worst) else "gives something that cannot be compared"


def _far(hypothesis: Hypothesis) -> str:
    return f"{_bounds(hypothesis.distance.worst)} away" if np.isfinite(hypothesis.distance.worst) else "not comparable"


def _bounds(value: float) -> str:
    return f"{value:.3g} bounds"
