"""The router by itself: logits, selection and weights of the first MoE layer, brought to the host."""

from __future__ import annotations

import pytest

from moe_harness.bench import traffic
from moe_harness.bench.layer import hidden_states, probe_of
from moe_harness.bench.measure import measure
from moe_harness.bench.timing import Timing
from moe_harness.suite.subject import Subject

WIDE = pytest.mark.asked("wide")


@pytest.mark.workload("router", layers=True)
@pytest.mark.parametrize("tokens", [pytest.param(1, marks=WIDE), pytest.param(64, marks=WIDE), 1024, pytest.param(4096, marks=WIDE)])
def test_router(subject: Subject, timing: Timing, tokens: int) -> None:
    probe, x_TD = probe_of(subject, timing.model), hidden_states(subject, tokens)
    work = traffic.router(subject.config, subject.dtype, tokens)
    measure(timing, lambda: probe.route(0, x_TD), None, tokens, work, batch=1, sequence=tokens)
