"""STATIC: graphs of one shape each, as ahead-of-time compilers ask."""

from __future__ import annotations

from collections.abc import Iterator

from moe_harness.implementations.interface import GraphProof, StaticProof
from moe_harness.judge.metric import Metric
from moe_harness.judge.verdict import Verdict
from moe_harness.suite.capacity import options
from moe_harness.suite.clause import LOGIC, clause
from moe_harness.suite.situations import like, two_layers
from moe_harness.suite.subject import Subject

ROWS, POSITIONS = 2, 32


@clause("STATIC-01", "Every graph has one shape, whatever its data, and computes what is written", dtypes=LOGIC)
def test_every_graph_has_one_shape(subject: Subject, verdict: Verdict) -> None:
    for proof in _proofs(subject):
        metrics = {"untraced": int(bool(proof.problem)), "dynamic_values": proof.dynamic, "assumed_ranges": proof.ranges}
        counts = [Metric(name, value, 0) for name, value in metrics.items()]
        verdict.judge(*counts, Metric("difference", proof.difference, 0), about=f"{proof.graph} {proof.problem}".strip())
        verdict.saw(graphs=1)
    verdict.require(graphs=2)


def _proofs(subject: Subject) -> Iterator[GraphProof]:
    """Of a small model, and of one with a capacity where the backend has any."""
    subject.needs("static")
    small = like(subject, "static", two_layers(subject.config.family))
    for asked in ({}, options(1.0))[: 2 if "capacity" in subject.capabilities.features else 1]:
        model = small.model(max_length=POSITIONS, max_batch=ROWS, options=asked)
        assert isinstance(model, StaticProof), f"{subject.backend.name} declares `static` but its model has no prove_static"
        yield from model.prove_static()
