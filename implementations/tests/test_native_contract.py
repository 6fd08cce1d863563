"""The native backend keeps the contract of `moe_harness.interface`; no other library is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from moe_harness.implementations import families
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.interface import (
    Generate,
    GenerationSpec,
    InvalidInput,
    LoadSpec,
    Loss,
    Packed,
    PinnedRouting,
    Probe,
    Request,
    RouterBuilder,
    RoutingSpec,
)
from moe_harness.implementations.native.backend import backend
from moe_harness.implementations.tests.tiny import tiny_checkpoint

torch = pytest.importorskip("torch")

ALL, LAST = Request(logits="all"), Request()
DTYPES = ["float32", "bfloat16", "float16"]
WHOLE = ("mixtral", "dots1")  # families tried in every dtype
LENGTHS = np.array([9, 4, 1])
FEW_ROUNDINGS = {"float32": 1e-6, "bfloat16": 1e-2, "float16": 1e-3}  # relative RMS


def ids(B: int = 3, S: int = 9, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(3, 96, (B, S))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors this small gain nothing from a second thread, and lose much where the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    root = tmp_path_factory.mktemp("contract")
    tiny_checkpoint(root / "mixtral", "mixtral", dtype="bfloat16", sliding_window=6)
    for family in sorted(set(families.families()) - {"mixtral"}):
        tiny_checkpoint(root / family, family, dtype="bfloat16")
    return root


@pytest.fixture(scope="module", params=[(f, d) for f in families.families() for d in DTYPES if f in WHOLE or d == "bfloat16"], ids="-".join)
def loaded(request, checkpoints):
    family, dtype = request.param
    return backend().load(str(checkpoints / family), LoadSpec(dtype=dtype, max_batch=3, max_length=24))


@pytest.fixture
def model(loaded):
    loaded.reset()
    return loaded


def states(T: int, D: int = 32) -> np.ndarray:
    """Small multiples of 1/8: exactly representable in every dtype."""
    return np.random.default_rng(5).integers(-24, 25, (T, D)).astype(np.float32) / 8


def test_declared_optional_protocols_are_there(model):
    assert all(isinstance(model, protocol) for protocol in (Probe, Generate, Packed, Loss)) and isinstance(backend(), RouterBuilder)
    assert backend().capabilities().unavailable is None


def test_model_capabilities(checkpoints):
    seen = backend().load(str(checkpoints / "mixtral"), LoadSpec()).capabilities()
    assert (seen.architecture, seen.is_moe, seen.num_experts, seen.experts_per_token) == ("MixtralForCausalLM", True, 6, 2)
    assert (seen.sliding_window, seen.head_dim_override, seen.is_quantized) == (6, False, False)


def test_prefill_after_reset_is_bit_equal(model):
    first = model.prefill(ids(), np.full(3, 9), ALL).logits_BSV
    model.decode(ids()[:, 0], LAST)
    model.reset()
    assert np.array_equal(first, model.prefill(ids(), np.full(3, 9), ALL).logits_BSV)


def test_reset_forgets_longer_rows(model):
    """Ragged after long: slots past the end of a short row must not remember."""
    fresh = model.prefill(ids(), LENGTHS, ALL).logits_BSV
    model.reset()
    model.prefill(ids(seed=3, S=20), np.full(3, 20), LAST)
    model.reset()
    assert np.array_equal(fresh, model.prefill(ids(), LENGTHS, ALL).logits_BSV)


def test_last_is_the_last_valid_row_of_all(model):
    for side in ("right", "left"):
        model.reset()
        whole = model.prefill(ids(), LENGTHS, Request("all", padding=side)).logits_BSV
        model.reset()
        last = model.prefill(ids(), LENGTHS, Request("last", padding=side)).logits_BSV
        columns = LENGTHS - 1 if side == "right" else np.full(3, 8)
        # One row of the head instead of many: float32 kernels may round a different number of rows differently.
        assert last.shape == (3, 1, 96) and np.allclose(last[:, 0], whole[np.arange(3), columns], rtol=0, atol=1e-5)
    assert model.decode(ids()[:, 0], Request("none")).logits_BSV is None


@pytest.mark.parametrize("side", ["left", "right"])
def test_pad_contents_do_not_matter(model, side):
    column = np.arange(9)[None]
    valid = column < LENGTHS[:, None] if side == "right" else column >= 9 - LENGTHS[:, None]
    outputs = []
    for poison in (0, 1, 95):
        model.reset()
        out = model.prefill(np.where(valid, ids(), poison), LENGTHS, Request("all", routing=True, padding=side))
        assert np.array_equal(out.routing.mask_T, valid.ravel())
        outputs.append(np.concatenate((out.logits_BSV[valid], model.decode(ids()[:, 0], LAST).logits_BSV[:, 0])))
    assert all(np.array_equal(outputs[0], other) for other in outputs[1:])


def test_sides_agree(model):
    right = model.prefill(ids(), LENGTHS, LAST).logits_BSV
    after = model.decode(ids()[:, 0], LAST).logits_BSV
    model.reset()
    shifted = np.stack([np.roll(row, 9 - n) for row, n in zip(ids(), LENGTHS, strict=True)])
    left = model.prefill(shifted, LENGTHS, Request(padding="left")).logits_BSV
    assert close(left, right, model) and close(model.decode(ids()[:, 0], LAST).logits_BSV, after, model)


def close(a: np.ndarray, b: np.ndarray, model, roundings: int = 64) -> bool:
    """Within `roundings` unit roundoffs of the largest value: 64 for the whole model, as in the parity test; 8 for one block, where gate,
    silu, product, second product, weight and sum are each rounded once, and two of them enter the next matrix."""
    dtype = str(model._network.embed_VD.dtype).removeprefix("torch.")
    u = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    return float(np.abs(a - b).max()) <= roundings * u * float(np.abs(b).max())


def test_own_routing_pinned_is_bit_equal(model):
    for weights in (False, True):
        model.reset()
        free = model.prefill(ids(), LENGTHS, Request("all", routing=True))
        step = model.decode(ids()[:, 0], Request("all", routing=True))
        model.reset()
        pinned = model.prefill(ids(), LENGTHS, Request("all", routing=True, pinned=pin(free.routing, weights)))
        pinned_step = model.decode(ids()[:, 0], Request("all", pinned=pin(step.routing, weights)))
        mask_T = free.routing.mask_T
        assert np.array_equal(free.logits_BSV.reshape(27, -1)[mask_T], pinned.logits_BSV.reshape(27, -1)[mask_T])
        assert np.array_equal(free.routing.topk_weights_LTK[:, mask_T], pinned.routing.topk_weights_LTK[:, mask_T])
        assert np.array_equal(step.logits_BSV, pinned_step.logits_BSV)


def pin(routing, weights: bool) -> PinnedRouting:
    """Pads hold nonsense, which must not matter."""
    chosen = np.where(routing.mask_T[None, :, None], routing.topk_ids_LTK, -7)
    return PinnedRouting(chosen, routing.topk_weights_LTK if weights else None)


def test_other_experts_pinned_change_the_output(model):
    free = model.prefill(ids(), np.full(3, 9), Request("all", routing=True))
    model.reset()
    others = (free.routing.topk_ids_LTK + 1) % model.config.routing.num_experts
    other = model.prefill(ids(), np.full(3, 9), Request("all", routing=True, pinned=PinnedRouting(others)))
    assert np.array_equal(other.routing.topk_ids_LTK, others)
    assert np.abs(other.logits_BSV - free.logits_BSV).max() > 0.1


def test_probe_equals_a_plain_loop(model, checkpoints):
    """route and moe_block of the last MoE layer against float64 numpy on the stored weights, one token and one expert at a time."""
    spec, layer = model.config.routing, len(model.config.moe_layers) - 1
    x = states(7)
    routing, y = model.route(layer, x), model.moe_block(layer, x)
    with Checkpoint(checkpoints / model.config.family) as checkpoint:
        prefix = f"layers.{model.config.moe_layers[layer]}.moe."
        moe = {name.removeprefix(prefix): checkpoint.tensor(name).astype(np.float64) for name in checkpoint.names() if prefix in name}
    expected = np.zeros((7, 32))
    for t, row in enumerate(x.astype(np.float64)):
        scores, chosen = by_hand(moe, row, spec)
        assert sorted(routing.topk_ids_LTK[0, t]) == sorted(chosen)
        for e in chosen:
            weight = spec.scaling_factor * scores[e] / (scores[chosen].sum() if spec.normalize_topk else 1.0)
            expected[t] += weight * swiglu(moe["gate_up.weight"][e], moe["down.weight"][e], row)
        if "shared.down.weight" in moe:
            share = 1 / (1 + np.exp(-moe["shared.gate.weight"][0] @ row)) if "shared.gate.weight" in moe else 1.0
            expected[t] += share * swiglu(moe["shared.gate_up.weight"], moe["shared.down.weight"], row)
    assert np.abs(y).max() > 0.1 and close(y, expected, model, roundings=8)
    assert np.array_equal(y, model.moe_block(layer, x, PinnedRouting(routing.topk_ids_LTK)))


def by_hand(moe: dict[str, np.ndarray], row: np.ndarray, spec: RoutingSpec) -> tuple[np.ndarray, list[int]]:
    """(scores_E, ids_K) of one token: groups one by one, then experts one by one."""
    logits = moe["router.weight"] @ row
    scores = 1 / (1 + np.exp(-logits)) if spec.scoring == "sigmoid" else np.exp(logits) / np.exp(logits).sum()
    ranking, size = scores + moe.get("router.correction_bias", 0.0), spec.num_experts // spec.num_groups
    groups = sorted(range(spec.num_groups), key=lambda g: -sum(sorted(ranking[g * size : (g + 1) * size])[-2:]))[: spec.top_groups]
    allowed = [e for e in range(spec.num_experts) if e // size in groups]
    return scores, sorted(allowed, key=lambda e: -ranking[e])[: spec.top_k]


def swiglu(gate_up: np.ndarray, down: np.ndarray, row: np.ndarray) -> np.ndarray:
    gate, up = np.split(gate_up @ row, 2)
    return down @ (gate / (1 + np.exp(-gate)) * up)


def test_probe_takes_no_tokens(model):
    routing, y = model.route(0, states(0)), model.moe_block(0, states(0))
    K, E = model.config.routing.top_k, model.config.routing.num_experts
    assert routing.topk_ids_LTK.shape == (1, 0, K) and routing.router_logits_LTE.shape == (1, 0, E) and y.shape == (0, 32)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 60000.0])
def test_a_bad_row_stays_alone(request, model, bad):
    """Whatever one row holds, the others keep their experts and weights bit for bit, and their outputs to a few roundings: the bad row
    changes how many tokens an expert gets, and with that, on some processors, which matrix kernel computes the others."""
    x = states(33)
    spoilt = x.copy()
    spoilt[8] = bad
    others = np.arange(33) != 8
    clean, dirty = model.route(0, x), model.route(0, spoilt)
    assert np.array_equal(clean.topk_ids_LTK[:, others], dirty.topk_ids_LTK[:, others])
    assert np.array_equal(clean.topk_weights_LTK[:, others], dirty.topk_weights_LTK[:, others])
    assert 0 <= dirty.topk_ids_LTK.min() <= dirty.topk_ids_LTK.max() < model.config.routing.num_experts
    still, moved = model.moe_block(0, x)[others], model.moe_block(0, spoilt)[others]
    assert np.sqrt(np.mean((moved - still) ** 2) / np.mean(still**2)) <= FEW_ROUNDINGS[request.node.callspec.params["loaded"][1]]


@pytest.mark.parametrize("pack", ["auto", "false"])
@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "dots1"])
def test_neighbours_do_not_change_a_block(checkpoints, family, pack):
    """The same row among any number of others gets the same bits: the rows an expert sees vary from 1 to 40."""
    model: Any = backend().load(str(checkpoints / family), LoadSpec(options={"pack": pack}))
    x = np.concatenate((np.repeat(states(1), 20, 0), states(20)))
    y = model.moe_block(0, x)
    assert all(np.array_equal(y[:T], model.moe_block(0, x[:T])) for T in range(2, 40))


def test_a_model_without_moe_layers(tmp_path):
    tiny_checkpoint(tmp_path / "dense", "qwen3_moe", moe_layers=())
    dense = backend().load(str(tmp_path / "dense"), LoadSpec(max_batch=1, max_length=8))
    out = dense.prefill(ids(1, 5), np.array([5]), Request("all", routing=True))
    assert not dense.capabilities().is_moe and out.routing.topk_ids_LTK.shape == (0, 5, 3) and np.isfinite(out.logits_BSV).all()


def test_ties_go_to_the_lower_id(model):
    """A zero state gives equal logits to every expert."""
    if model.config.routing.correction_bias:
        pytest.skip("the correction bias breaks ties")
    routing = model.route(0, np.zeros((2, 32), np.float32))
    assert np.array_equal(routing.topk_ids_LTK[0], np.tile(np.arange(model.config.routing.top_k), (2, 1)))


def test_probe_leaves_the_cache_alone(model):
    model.prefill(ids(), LENGTHS, LAST)
    expected = model.decode(ids()[:, 0], LAST).logits_BSV
    model.reset()
    model.prefill(ids(), LENGTHS, LAST)
    model.route(0, states(5))
    model.moe_block(0, states(5))
    assert np.array_equal(expected, model.decode(ids()[:, 0], LAST).logits_BSV)


def test_generation_starts_and_ends_empty(model):
    spec = GenerationSpec(max_new_tokens=4, eos_token_ids=())
    expected = model.generate(ids(), LENGTHS, spec)
    model.prefill(ids(seed=1), LENGTHS, LAST)
    assert model.generate(ids(), LENGTHS, spec) == expected
    with pytest.raises(InvalidInput, match="before any prefill"):
        model.decode(ids()[:, 0], LAST)


def test_generation_stops_at_eos_and_leaves_the_others(model):
    free = model.generate(ids(), LENGTHS, GenerationSpec(max_new_tokens=8, eos_token_ids=()))
    assert [len(row) for row in free] == [8, 8, 8]
    eos = free[1][2]
    ended = model.generate(ids(), LENGTHS, GenerationSpec(max_new_tokens=8, eos_token_ids=(eos,)))
    assert ended == [row[: row.index(eos) + 1] if eos in row else row for row in free]


def test_sampling_follows_seed_and_limits(model):
    def draw(**change):
        return model.generate(
            ids(), LENGTHS, GenerationSpec(**{"max_new_tokens": 6, "temperature": 1.5, "seed": 1, "eos_token_ids": (), **change})
        )

    greedy = draw(temperature=0.0)
    assert draw() == draw() and draw() != draw(seed=2) and draw() != greedy
    assert draw(top_k=1) == greedy and draw(top_p=1e-6) == greedy
