"""What the kernel door asks is what it says: routings without doubt, weights with exact outputs, cases that cover, places named right."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.cases.describe import read_model
from moe_harness.cases.synthetic import FLAT
from moe_harness.cases.tensors import numpy_dtype, round_to
from moe_harness.implementations.interface import InvalidInput, KernelCall
from moe_harness.kernel.cases import TOKENS, Case
from moe_harness.kernel.check import locate, ranges
from moe_harness.kernel.noise import limits
from moe_harness.kernel.routes import GAP, LEVELS, rotating_ids
from moe_harness.kernel.run import Suite, check_memory
from moe_harness.kernel.weights import Shape, drawn, palette, small_shapes
from moe_harness.oracle import layers
from moe_harness.oracle.routing import combine_weights

LIKES = ["mixtral-8x7b", "qwen3-30b-a3b"]
SHAPE = Shape("true", 6, 2, 64, 48)


def suite(like: str, dtype: str = "bfloat16") -> Suite:
    return Suite(read_model(like), dtype, true=False)


def calls(like: str, dtype: str = "bfloat16") -> list[tuple[Case, KernelCall]]:
    return [(case, call) for case in suite(like, dtype).cases() for call in case.calls]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("like", LIKES)
def test_logits_select_without_doubt_and_give_the_weights(like: str, dtype: str):
    spec = suite(like).config.routing
    for case, call in calls(like, dtype):
        if (logits_TE := call.router_logits_TE) is None:
            continue
        ranked = -np.sort(-logits_TE, axis=-1)
        chosen = np.sort(np.take_along_axis(logits_TE, call.topk_ids_TK, axis=-1), axis=-1)
        assert (chosen == np.sort(ranked[:, : spec.top_k], axis=-1)).all(), case.name
        assert (ranked[:, spec.top_k - 1] - ranked[:, spec.top_k] >= GAP * FLAT / LEVELS).all(), case.name
        assert (round_to(logits_TE, dtype) == logits_TE).all(), case.name
        if case.name != "renormalize":
            expected = combine_weights(logits_TE.astype(np.float64), call.topk_ids_TK, spec)
            np.testing.assert_allclose(call.topk_weights_TK, expected, rtol=1e-6)


@pytest.mark.parametrize("like", LIKES)
def test_calls_are_legal(like: str):
    spec = suite(like).config.routing
    for case, call in calls(like):
        ids_TK = call.topk_ids_TK
        assert ids_TK.dtype == np.int64 and ids_TK.shape == (len(call.x_TD), spec.top_k), case.name
        assert all(len(set(row)) == spec.top_k for row in ids_TK.tolist()), case.name
        assert ((ids_TK >= 0) & (ids_TK < spec.num_experts)).all(), case.name
        assert call.topk_weights_TK.dtype == np.float32 and call.topk_weights_TK.shape == ids_TK.shape, case.name
        finite = call.x_TD[np.isfinite(call.x_TD)]
        assert (round_to(finite, "bfloat16") == finite).all(), case.name


@pytest.mark.parametrize("like", LIKES)
def test_cases_cover_what_they_say(like: str):
    by_name = {case.name: case for case in suite(like).cases()}
    E, K = suite(like).config.routing.num_experts, suite(like).config.routing.top_k
    assert [len(by_name[f"tokens-{T}"].calls[0].x_TD) for T in TOKENS] == list(TOKENS)
    slots_KE = [set(column) for column in by_name["every-expert"].calls[0].topk_ids_TK.T.tolist()]
    assert slots_KE == [set(range(E))] * K
    loads_E = np.bincount(by_name["load-129"].calls[0].topk_ids_TK.ravel(), minlength=E)
    assert sorted(set(loads_E)) == [0, 129] and (loads_E == 129).sum() == K and loads_E[-1] == 129
    empty = by_name["empty-experts"].calls[0].topk_ids_TK
    assert 0 not in empty and E - 1 not in empty
    assert (by_name["one-expert-in-all"].calls[0].topk_ids_TK[:, 0] == 1).all()
    sums = by_name["weights-any-sum"].calls[0].topk_weights_TK.sum(-1)
    assert (np.abs(sums - 1) > 0.05).mean() > 0.5


def test_the_same_suite_is_the_same_bits():
    for (_, one), (_, other) in zip(calls("mixtral-8x7b"), calls("mixtral-8x7b"), strict=True):
        assert one.x_TD.tobytes() == other.x_TD.tobytes() and one.topk_weights_TK.tobytes() == other.topk_weights_TK.tobytes()


def test_a_true_suite_adds_the_models_own_shape():
    whole = Suite(read_model("mixtral-8x7b"), "bfloat16")
    true = [case for case in whole.cases() if case.shape == "true"]
    assert [case.name for case in true] == ["true-1", "true-every-expert", "true-129"]
    assert (whole.shapes["true"].D, whole.shapes["true"].F) == (4096, 14336)
    assert set(true[1].calls[0].topk_ids_TK.ravel()) == set(range(8))


@pytest.mark.parametrize("like", LIKES)
def test_small_dimensions_differ_and_the_others_are_square(like: str):
    shapes = small_shapes(read_model(like))
    small = shapes["small"]
    assert len({small.E, small.K, small.D, small.F, 2 * small.F}) == 5
    assert shapes["square-gate-up"].D == 2 * shapes["square-gate-up"].F and shapes["square-down"].D == shapes["square-down"].F


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_palette_weights_give_the_oracles_outputs(dtype: str):
    weights, rng = palette(SHAPE, dtype), np.random.default_rng(0)
    x_TD, ids_TK = rng.standard_normal((9, 64)), (rotating_ids(6, 2)[np.arange(9) % 6])
    weights_TK = rng.random((9, 2))
    expected = layers.moe(x_TD, ids_TK, weights_TK, weights.gate_up_E2FD, weights.down_EDF)
    np.testing.assert_allclose(weights.outputs(x_TD, ids_TK, weights_TK), expected, rtol=1e-12, atol=1e-14)
    assert weights.gate_up_E2FD.dtype == numpy_dtype(dtype) and weights.gate_up_E2FD.shape == (6, 96, 64)


def test_palette_experts_and_tiles_differ():
    """Or reading another expert's weights, or another tile's, would not show."""
    weights = palette(SHAPE, "float32")
    blocks = {weights.gate_up_E2FD[e, r : r + 16].tobytes() for e in range(6) for r in range(0, 96, 16)}
    blocks |= {weights.down_EDF[e, r : r + 16].tobytes() for e in range(6) for r in range(0, 64, 16)}
    assert len(blocks) == 6 * 6 + 6 * 4


def test_weights_keep_the_scale_of_activations():
    for weights in (palette(SHAPE, "float32"), drawn(SHAPE, "float32")):
        assert 0.9 < weights.gate_up_E2FD.std() * 8 < 1.1 and 0.9 < weights.down_EDF.std() * np.sqrt(48) < 1.1


def test_the_bound_grows_with_the_accumulation_alone():
    small, large = Shape("small", 8, 2, 96, 80), Shape("true", 8, 2, 4096, 14336)
    bound = {(dtype, s.name): limits(dtype, s, 128)["block_error"].bound for dtype in ("bfloat16", "float32") for s in (small, large)}
    assert bound["bfloat16", "true"] < 1.01 * bound["bfloat16", "small"]
    assert 4 < bound["float32", "true"] / bound["float32", "small"] < 20


def test_a_shape_that_does_not_fit_is_refused():
    with pytest.raises(InvalidInput, match="--no-true-shape"):
        check_memory(Shape("true", 4096, 8, 65536, 65536), "float32", "torch")
    check_memory(Shape("true", 8, 2, 64, 48), "float32", "numpy")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda y: y.__setitem__(slice(None), 9.0), "all 20 tokens"),
        (lambda y: y.__setitem__(19, 9.0), "the last token of 20"),
        (lambda y: y.__setitem__(slice(16, None), 9.0), "the last 4 of 20 tokens, from 16 on"),
        (lambda y: y.__setitem__([2, 3, 11], 9.0), "3 of 20 tokens (2..3, 11)"),
        (lambda y: y.__setitem__((slice(None), slice(4, 8)), 9.0), "columns 4..7 of all 20 tokens"),
        (lambda y: y.__setitem__([1, 7, 13, 19], 9.0), "every token of expert 1, no other (4 of 20)"),
        (lambda y: y.__setitem__((5, 3), np.nan), "columns 3 of 1 of 20 tokens (5)"),
        (lambda y: None, ""),
    ],
)
def test_where_an_output_is_wrong_is_said(bad: object, says: str):
    expected = np.random.default_rng(0).standard_normal((20, 16))
    ids_TK = np.stack([np.arange(20) % 6, np.full(20, 7)], axis=-1)
    observed = expected.copy()
    bad(observed)  # type: ignore[operator]
    assert locate(observed, expected, ids_TK, 0.01) == says


def test_ranges_are_cut():
    assert ranges([1, 2, 3, 7]) == "1..3, 7" and ranges([0, 2, 4, 6, 8]) == "0, 2, 4, 6, ..."
