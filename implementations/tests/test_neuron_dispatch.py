"""The four dispatch paths compute one sum, whoever holds the experts; capacity drops whom NxD's rule drops; shapes follow from T alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_harness.implementations.neuron.settings import PATHS, Rule

torch = pytest.importorskip("torch")
dispatch = pytest.importorskip("moe_harness.implementations.neuron.moe")
experts = pytest.importorskip("moe_harness.implementations.neuron.moe")

D, F = 6, 4
FEW = settings(deadline=None, derandomize=True, max_examples=60)
SIZES = dict(tokens=st.integers(1, 24), experts_=st.integers(1, 9), k=st.integers(1, 4), seed=st.integers(0, 99))


def drawn(tokens: int, experts_: int, k: int, seed: int):
    """(x, ids, weights, gate_up, down); some experts hot."""
    rng = np.random.default_rng(seed)
    k, heat = min(k, experts_), rng.standard_normal(experts_) * 2
    ids = np.argsort(-(heat + rng.gumbel(size=(tokens, experts_))), axis=1)[:, :k].copy()
    weights = rng.standard_normal((experts_, D, 2 * F)), rng.standard_normal((experts_, F, D))
    return [torch.from_numpy(each) for each in (rng.standard_normal((tokens, D)), ids, rng.random((tokens, k)), *weights)]


def one_by_one(x, ids, weights, gate_up, down):
    """Token by token, choice by choice."""
    rows = zip(x, ids, weights, strict=True)
    return torch.stack([sum(w * (experts.swiglu(row @ gate_up[e]) @ down[e]) for e, w in zip(es, ws, strict=True)) for row, es, ws in rows])


@pytest.mark.parametrize("path", [path for path in PATHS if path != "capacity"])
@pytest.mark.parametrize("parts", [1, 3])
@FEW
@given(**SIZES, block=st.integers(1, 5))
def test_every_path_computes_the_sum_whoever_holds_the_experts(path, parts, tokens, experts_, k, seed, block):
    x, ids, weights, gate_up, down = drawn(tokens, experts_ * parts, k, seed)
    pairs = zip(gate_up.split(experts_), down.split(experts_), strict=True)
    held = [experts.Experts(g, d, r * experts_, block) for r, (g, d) in enumerate(pairs)]
    found = sum(each(path, x, ids, weights, None) for each in held)
    torch.testing.assert_close(found, one_by_one(x, ids, weights, gate_up, down))


@FEW
@given(**SIZES, factor=st.floats(0.1, 4))
def test_capacity_drops_who_comes_too_late_and_nobody_else(tokens: int, experts_: int, k: int, seed: int, factor: float):
    x, ids, weights, gate_up, down = drawn(tokens, experts_, k, seed)
    rule = Rule(experts_, ids.shape[1], factor)
    room, dropped = rule.capacity(tokens), np.zeros(ids.shape, bool)
    taken = np.zeros(experts_, int)
    for t, row in enumerate(ids.numpy()):  # first come, first served; all choices of a token alike
        for j, e in enumerate(row):
            dropped[t, j] = taken[e] >= room
            taken[e] += 1
    position = dispatch.positions(ids, experts_)
    assert ((position > room).numpy() == dropped).all()
    found = experts.Experts(gate_up, down, 0, 1)("capacity", x, ids, weights.masked_fill(torch.from_numpy(dropped), 0), (position, room))
    kept = weights * torch.from_numpy(~dropped)
    torch.testing.assert_close(found, one_by_one(x, ids, kept, gate_up, down))


def test_pads_take_no_places_where_they_are_masked():
    ids, valid = torch.tensor([[0], [0], [0], [0]]), torch.tensor([True, False, True, False])
    assert dispatch.positions(ids, 2).flatten().tolist() == [1, 2, 3, 4]
    assert dispatch.positions(ids, 2, valid).flatten().tolist() == [1, 5, 2, 5]


@FEW
@given(counts=st.lists(st.integers(0, 30), min_size=1, max_size=9), block=st.integers(1, 9))
def test_there_are_blocks_enough_for_every_load(counts: list[int], block: int):
    needed = sum(math.ceil(count / block) for count in counts)
    assert needed <= dispatch.most_blocks(max(1, sum(counts)), len(counts), block)


@pytest.mark.parametrize("path", ["selective", "blockwise"])
def test_shapes_follow_from_the_number_of_tokens_alone(path: str):
    shapes = set()
    for ids in (torch.zeros(8, 2, dtype=torch.int64), torch.arange(16).view(8, 2) % 4):
        places = dispatch.selective(ids, 0, 4) if path == "selective" else dispatch.blockwise(ids, 3, 0, 4)
        shapes.add((places.index_TK.shape, places.expert_G.shape, places.size))
    assert len(shapes) == 1


def test_a_nan_stays_with_its_token():
    """An empty place holds zeros, and not token 0: nothing multiplies somebody else's NaN by 0."""
    x, ids, weights, gate_up, down = drawn(6, 4, 2, 0)
    x[0] = torch.nan
    layer = experts.Experts(gate_up, down, 0, 3)
    for path in ("selective", "blockwise", "all"):
        assert torch.isfinite(layer(path, x, ids, weights, None)[1:]).all(), path
    room = (dispatch.positions(ids, 4), 1)
    assert torch.isfinite(layer("capacity", x, ids, weights.masked_fill(room[0] > 1, 0), room)[1:]).all()


@pytest.mark.parametrize(
    ("tokens", "sequence", "factor", "path"),
    [
        (1, 1, None, "selective"),  # 1 * 2 / 8 < 1
        (4, 1, None, "all"),
        (4, 1, 1.0, "all"),  # one token of each sequence: capacity has no say
        (3, 3, None, "selective"),
        (255, 255, None, "all"),
        (256, 256, None, "blockwise"),
        (256, 256, 1.0, "capacity"),
        (256, 256, 4.0, "blockwise"),  # room for all
    ],
)
def test_the_choice_is_nxds(tokens: int, sequence: int, factor: float | None, path: str):
    assert Rule(8, 2, factor).path(tokens, sequence) == path


@pytest.mark.parametrize(("tokens", "factor", "places"), [(16, 1.0, 4), (17, 1.0, 5), (16, 0.1, 1), (2, 3.9, 2), (16, None, 16)])
def test_places_are_rounded_up_and_never_more_than_tokens(tokens: int, factor: float | None, places: int):
    assert Rule(8, 2, factor).capacity(tokens) == places
