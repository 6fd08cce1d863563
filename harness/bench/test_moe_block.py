"""MoE block: router, experts and combine of the first MoE layer, without attention, from one token to thousands, by its own router."""

from __future__ import annotations

import pytest

from moe_harness.bench import cold, traffic
from moe_harness.bench.layer import hidden_states, probe_of
from moe_harness.bench.loads import count
from moe_harness.bench.measure import measure
from moe_harness.bench.timing import Timing
from moe_harness.suite.subject import Subject

WIDE = pytest.mark.asked("wide")
TOKENS = (1, 4, 16, 64, 256, 1024, 4096)
COLD = [pytest.param(tokens, "cold", marks=WIDE, id=f"{tokens}-cold") for tokens in (1, 64)]
CASES = [pytest.param(tokens, "warm", marks=() if tokens in (1, 64, 1024) else WIDE, id=str(tokens)) for tokens in TOKENS] + COLD


@pytest.mark.workload("moe_block", layers=True)
@pytest.mark.parametrize(("tokens", "cache"), CASES)
def test_moe_block(subject: Subject, timing: Timing, tokens: int, cache: str) -> None:
    if cache == "cold":
        cold.needs_cold_caches(subject)
    probe, x_TD = probe_of(subject, timing.model), hidden_states(subject, tokens)
    loads_E = count(probe.route(0, x_TD).topk_ids_LTK, subject.config.routing.num_experts)
    work = traffic.moe_block(subject.config, subject.dtype, tokens, loads_E)
    prepare, about = (cold.evict, {"cache": cache}) if cache == "cold" else (None, {})
    measure(timing, lambda: probe.moe_block(0, x_TD), prepare, tokens, work, batch=1, sequence=tokens, routing="own", **about)
