"""MoE block under routings from even to extreme (skew.py): the same tokens, the same number of token-expert pairs, other loads. Pinned, so
that every backend does exactly the same work; the loads are verified before timing and stand in the record."""

from __future__ import annotations

from pathlib import Path

import pytest

from moe_harness.bench import traffic
from moe_harness.bench.layer import broken_pins, hidden_states, probe_of
from moe_harness.bench.measure import measure
from moe_harness.bench.routing_trace import read
from moe_harness.bench.skew import SKEWS, pin
from moe_harness.bench.timing import Timing
from moe_harness.implementations.interface import PinnedRouting
from moe_harness.records.status import Status
from moe_harness.suite.options import spec_of
from moe_harness.suite.subject import Subject

WIDE = pytest.mark.asked("wide")
DEFAULT = ("uniform", "zipf", "hot-rank")
AXIS = [skew if skew in DEFAULT else pytest.param(skew, marks=WIDE) for skew in SKEWS]


@pytest.mark.workload("moe_block", layers=True)
@pytest.mark.parametrize("tokens", [pytest.param(16, marks=WIDE), 256, pytest.param(1024, marks=WIDE)])
@pytest.mark.parametrize("skew", [*AXIS, pytest.param("trace", marks=pytest.mark.asked("routing_trace"))])
def test_skew(subject: Subject, timing: Timing, request: pytest.FixtureRequest, skew: str, tokens: int) -> None:
    subject.needs("pinned")
    probe, config = probe_of(subject, timing.model), subject.config
    given = spec_of(request.config).routing_trace
    chosen = pin(skew, tokens, config.routing, trace=read(Path(given)) if given else None)
    work = traffic.moe_block(config, subject.dtype, tokens, chosen.loads_E)
    if reason := broken_pins(subject, probe):
        timing.record |= {"status": Status.VOID, "reason": f"no number: {reason}"}
        return
    x_TD, pinned = hidden_states(subject, tokens), PinnedRouting(chosen.ids_TK[None])
    measure(
        timing, lambda: probe.moe_block(0, x_TD, pinned), None, tokens, work,
        batch=1, sequence=tokens, routing=skew, **chosen.about,
    )  # fmt: skip
