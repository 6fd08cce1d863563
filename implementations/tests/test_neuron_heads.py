"""How heads come out even over processes: every query head once, each beside the key head that it reads."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_harness.implementations.neuron.mesh import EMPTY, Heads, spread

TP = st.sampled_from([1, 2, 4, 8, 16])


@settings(deadline=None, derandomize=True)
@given(kv_heads=st.integers(1, 12), group=st.integers(1, 8), tp=TP)
def test_every_query_head_is_somewhere_once_and_reads_its_own_key_head(kv_heads: int, group: int, tp: int):
    found = spread(kv_heads * group, kv_heads, tp)
    assert sorted(q for q in found.q if q != EMPTY) == list(range(kv_heads * group))
    for rank in range(tp):
        own = found.of(rank, tp)
        assert own.q and own.kv and len(own.q) % len(own.kv) == 0
        run = len(own.q) // len(own.kv)
        assert all(own.kv[place // run] == q // group for place, q in enumerate(own.q) if q != EMPTY)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "tp", "found"),
    [
        (4, 2, 2, Heads((0, 1, 2, 3), (0, 1))),  # as they are
        (4, 2, 4, Heads((0, 1, 2, 3), (0, 0, 1, 1))),  # key heads repeated to the degree
        (6, 2, 4, Heads((0, 1, 2, EMPTY, 3, 4, 5, EMPTY), (0, 0, 1, 1))),  # and every group of queries filled up
        (6, 3, 2, Heads((0, 1, 2, 3, 4, 5), (0, 0, 1, 1, 2, 2))),  # one key head a query head
        (3, 3, 2, Heads((0, 1, 2, EMPTY), (0, 1, 2, EMPTY))),  # filled up at the end
    ],
)
def test_the_rule_is_nxds(heads: int, kv_heads: int, tp: int, found: Heads):
    assert spread(heads, kv_heads, tp) == found
