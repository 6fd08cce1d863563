"""Routing seen, pinned and probed through transformers' own routers and blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch  # noqa: E402

from moe_harness.implementations import families  # noqa: E402
from moe_harness.implementations.interface import InvalidInput, ModelConfig, PinnedRouting, Request, Routing  # noqa: E402
from moe_harness.implementations.tests.tiny import tiny_tensors  # noqa: E402
from moe_harness.implementations.tests.tiny_hf import ALL, assert_same_maths, full, load, one_thread, prompts  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("one_thread")
FAMILIES = sorted(families.families())
CHOICES = [("mixtral", True), ("qwen3_moe", True), ("qwen3_moe", False), ("olmoe", False), ("dots1", True), ("dots1", False)]
KERNELS = ("hf", "hf:batched_mm", "hf:grouped_mm")
LENGTHS = np.array([12, 5, 9])


def scores_of(config: ModelConfig, routing: Routing) -> np.ndarray:
    """scores_LTE in float64 from the router logits."""
    assert routing.router_logits_LTE is not None
    logits = routing.router_logits_LTE.astype(np.float64)
    if config.routing.scoring == "sigmoid":
        return 1 / (1 + np.exp(-logits))
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def ranking_of(config: ModelConfig, scores_LTE: np.ndarray) -> np.ndarray:
    """What selection ranks, -inf outside of the best groups."""
    spec = config.routing
    ranking = scores_LTE.copy()
    if spec.correction_bias:
        tensors = tiny_tensors(config)
        ranking += np.stack([tensors[f"layers.{i}.moe.router.correction_bias"] for i in config.moe_layers])[:, None]
    if spec.num_groups == 1:
        return ranking
    grouped = ranking.reshape(*ranking.shape[:2], spec.num_groups, -1)
    totals = np.sort(grouped, axis=-1)[..., -2:].sum(-1)
    worst = np.argsort(-totals, axis=-1)[..., spec.top_groups :]
    np.put_along_axis(grouped, worst[..., None], -np.inf, axis=2)
    return grouped.reshape(ranking.shape)


def weights_of(config: ModelConfig, scores_LTE: np.ndarray, ids_LTK: np.ndarray) -> np.ndarray:
    weights = np.take_along_axis(scores_LTE, ids_LTK, axis=-1)
    normalised = weights / weights.sum(-1, keepdims=True) if config.routing.normalize_topk else weights
    return normalised * config.routing.scaling_factor


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family, normalize", CHOICES)
def test_routing_shapes_and_values(tmp_path: Path, family: str, dtype: str, normalize: bool):
    """Layer 1 of the Qwen3-MoE model is dense, so L is 2 of 3 layers. Weights are as combined: always in float32 in Mixtral and dots.llm1,
    in the model's dtype in the others."""
    model, config = load(tmp_path, family, dtype=dtype, normalize_topk=normalize)
    ids = prompts()
    routing = model.prefill(ids, LENGTHS, Request("none", routing=True, padding="left")).routing
    L, T, E, K = len(config.moe_layers), 36, config.routing.num_experts, config.routing.top_k
    assert routing.router_logits_LTE.shape == (L, T, E) and routing.router_logits_LTE.dtype == np.float32
    assert routing.topk_ids_LTK.shape == routing.topk_weights_LTK.shape == (L, T, K)
    assert routing.topk_ids_LTK.dtype == np.int64 and routing.topk_weights_LTK.dtype == np.float32 and routing.dropped_LTK is None
    assert np.array_equal(routing.mask_T.reshape(3, 12), np.arange(12) >= 12 - LENGTHS[:, None])
    # Rounding the weight to bfloat16 errs by 2^-8 relative at most, float32 softmax by a few units.
    scores = scores_of(config, routing)
    ranking = ranking_of(config, scores)
    ranked = -np.sort(-ranking, axis=-1)
    clear = ranked[..., K - 1] - ranked[..., K] > 1e-6  # equal bfloat16 logits: either expert may come first
    assert clear.mean() > 0.5
    chosen = np.sort(np.argsort(-ranking, axis=-1)[..., :K], axis=-1)
    assert np.array_equal(np.sort(routing.topk_ids_LTK, axis=-1)[clear], chosen[clear])
    rounded = family not in ("mixtral", "dots1") and dtype == "bfloat16"
    expected = weights_of(config, scores, routing.topk_ids_LTK)
    np.testing.assert_allclose(routing.topk_weights_LTK[clear], expected[clear], rtol=2.0**-8 if rounded else 2.0**-20)
    in_bfloat16 = routing.topk_weights_LTK.astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(in_bfloat16, routing.topk_weights_LTK) == rounded


def test_routing_of_decode_and_without_moe_layers(tmp_path: Path):
    model, config = load(tmp_path, "qwen3_moe")
    ids = prompts()
    model.prefill(ids, LENGTHS, Request())
    routing = model.decode(ids[:, 0], Request(routing=True)).routing
    assert routing.topk_ids_LTK.shape == (2, 3, 3) and routing.mask_T.all()
    model, config = load(tmp_path, "qwen3_moe", moe_layers=())
    assert not model.capabilities().is_moe
    routing = model.prefill(ids, LENGTHS, Request(routing=True)).routing
    assert routing.topk_ids_LTK.shape == (0, 36, 3) and routing.router_logits_LTE.shape == (0, 36, 10)


def test_capture_is_only_there_when_asked_for_and_changes_nothing(tmp_path: Path):
    model, _ = load(tmp_path)
    ids = prompts()
    with_routing = model.prefill(ids, full(ids), ALL)
    model.reset()
    without = model.prefill(ids, full(ids), Request("all"))
    assert without.routing is None and without.logits_BSV.tobytes() == with_routing.logits_BSV.tobytes()
    assert not any(module._forward_hooks for module in model._module.modules())


@pytest.mark.parametrize("name, dtype", list(zip(KERNELS, ["float32", "bfloat16", "bfloat16"])))
@pytest.mark.parametrize("family, normalize", CHOICES)
def test_pinning_the_own_routing_reproduces_the_run(tmp_path: Path, family: str, normalize: bool, dtype: str, name: str):
    """Bit for bit: the same ids in the same order, and weights that go through the same operations."""
    model, _ = load(tmp_path, family, name, dtype=dtype, normalize_topk=normalize)
    ids = prompts()
    own = model.prefill(ids, LENGTHS, ALL)
    for weights in (None, own.routing.topk_weights_LTK):
        model.reset()
        pinned = PinnedRouting(own.routing.topk_ids_LTK, weights)
        again = model.prefill(ids, LENGTHS, replace(ALL, pinned=pinned))
        assert again.logits_BSV.tobytes() == own.logits_BSV.tobytes()
        assert np.array_equal(again.routing.topk_weights_LTK, own.routing.topk_weights_LTK)


@pytest.mark.parametrize("family, name", [("qwen3_moe", "hf"), ("dots1", "hf"), ("qwen2_moe", "hf:batched_mm"), ("dots1", "hf:grouped_mm")])
def test_pinning_other_experts_uses_them(tmp_path: Path, family: str, name: str):
    model, config = load(tmp_path, family, name)
    ids = prompts()
    own = model.prefill(ids, full(ids), ALL)
    model.reset()
    other = (own.routing.topk_ids_LTK + 1) % config.routing.num_experts
    pinned = model.prefill(ids, full(ids), replace(ALL, pinned=PinnedRouting(other)))
    assert np.array_equal(pinned.routing.topk_ids_LTK, other)
    assert np.abs(pinned.logits_BSV - own.logits_BSV).max() > 0.1
    expected = weights_of(config, scores_of(config, pinned.routing), other)
    np.testing.assert_allclose(pinned.routing.topk_weights_LTK, expected, rtol=2.0**-20)


def test_pinned_decode_and_junk_at_pads(tmp_path: Path):
    model, _ = load(tmp_path)
    ids = prompts()
    own, step = model.prefill(ids, LENGTHS, ALL), model.decode(ids[:, 0], ALL)
    model.reset()
    pads = ~own.routing.mask_T
    topk_ids, weights = own.routing.topk_ids_LTK.copy(), own.routing.topk_weights_LTK.copy()
    topk_ids[:, pads], weights[:, pads] = -7, np.nan
    again = model.prefill(ids, LENGTHS, replace(ALL, pinned=PinnedRouting(topk_ids, weights)))
    valid = own.routing.mask_T.reshape(3, 12)
    # Expert 0 serves the pads now, so the eager kernel's products have other shapes.
    assert np.abs(again.logits_BSV - own.logits_BSV)[valid].max() < 1e-4
    other = (step.routing.topk_ids_LTK + 1) % 6
    pinned = model.decode(ids[:, 0], replace(ALL, pinned=PinnedRouting(other)))
    assert np.array_equal(pinned.routing.topk_ids_LTK, other) and np.abs(pinned.logits_BSV - step.logits_BSV).max() > 0.1


@pytest.mark.parametrize(
    "change",
    [
        lambda ids, w: (ids[:1], w),
        lambda ids, w: (ids[:, :-1], w),
        lambda ids, w: (ids, w[..., :1]),
        lambda ids, w: (ids + 6, w),
        lambda ids, w: (ids - 6, None),
        lambda ids, w: (ids.astype(float), w),
        lambda ids, w: (ids, w * np.nan),
    ],
)
def test_bad_pinned_routing_is_rejected_and_changes_nothing(tmp_path: Path, change):
    model, _ = load(tmp_path)
    ids = prompts()
    own = model.prefill(ids, full(ids), ALL)
    expected = model.decode(ids[:, 0], ALL)
    model.reset()
    bad = PinnedRouting(*change(own.routing.topk_ids_LTK, own.routing.topk_weights_LTK))
    with pytest.raises(InvalidInput):
        model.prefill(ids, full(ids), replace(ALL, pinned=bad))
    model.prefill(ids, full(ids), ALL)
    with pytest.raises(InvalidInput):
        model.decode(ids[:, 0], replace(ALL, pinned=bad))
    assert model.decode(ids[:, 0], ALL).logits_BSV.tobytes() == expected.logits_BSV.tobytes()


@pytest.mark.parametrize("family, name", [("mixtral", "hf:batched_mm"), ("qwen3_moe", "hf:grouped_mm"), *((f, "hf") for f in FAMILIES)])
def test_probe_equals_the_block_inside_the_model(tmp_path: Path, family: str, name: str):
    """Bit for bit: the same module on the same input."""
    model, config = load(tmp_path, family, name)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    for index in config.moe_layers:
        block = model._module.model.layers[index].mlp
        block.register_forward_hook(lambda _, args, out: seen.append((args[0][0].numpy(), out[0].numpy())))
    ids = prompts(B=1)
    output = model.prefill(ids, full(ids), ALL)
    assert len(seen) == len(config.moe_layers)
    for layer, (x_TD, y_TD) in enumerate(seen[:]):
        assert np.array_equal(model.moe_block(layer, x_TD), y_TD)
        routing = model.route(layer, x_TD)
        assert np.array_equal(routing.topk_ids_LTK[0], output.routing.topk_ids_LTK[layer])
        assert np.array_equal(routing.topk_weights_LTK[0], output.routing.topk_weights_LTK[layer])
        assert np.array_equal(routing.router_logits_LTE[0], output.routing.router_logits_LTE[layer])
        pinned = PinnedRouting(routing.topk_ids_LTK, routing.topk_weights_LTK)
        assert np.array_equal(model.moe_block(layer, x_TD, pinned), y_TD)


def test_probe_leaves_the_cache_alone(tmp_path: Path):
    model, _ = load(tmp_path)
    ids, x_TD = prompts(), np.ones((4, 32), np.float32)
    model.prefill(ids, full(ids), ALL)
    expected = model.decode(ids[:, 0], ALL).logits_BSV
    model.reset()
    model.prefill(ids, full(ids), ALL)
    model.moe_block(0, x_TD), model.route(1, x_TD)
    assert model.decode(ids[:, 0], ALL).logits_BSV.tobytes() == expected.tobytes()


def swiglu(gate_up: np.ndarray, down: np.ndarray, x: np.ndarray) -> np.ndarray:
    gate, up = np.split(gate_up @ x, 2)
    return down @ (gate / (1 + np.exp(-gate)) * up)


def formula(tensors: dict[str, np.ndarray], index: int, x_TD: np.ndarray, routing: PinnedRouting | Routing) -> np.ndarray:
    """y = sum_k w_k down_k(silu(gate_k x) * (up_k x)) in float64, plus the shared expert, times the sigmoid of its gate if it has one."""
    assert routing.topk_weights_LTK is not None
    moe = {n.split(".moe.")[1]: t.astype(np.float64) for n, t in tensors.items() if n.startswith(f"layers.{index}.moe.")}
    y_TD = np.zeros(x_TD.shape)
    for t, x in enumerate(x_TD.astype(np.float64)):
        for e, weight in zip(routing.topk_ids_LTK[0, t], routing.topk_weights_LTK[0, t]):
            y_TD[t] += weight * swiglu(moe["gate_up.weight"][e], moe["down.weight"][e], x)
        if "shared.down.weight" in moe:
            share = 1 / (1 + np.exp(-moe["shared.gate.weight"][0] @ x)) if "shared.gate.weight" in moe else 1.0
            y_TD[t] += share * swiglu(moe["shared.gate_up.weight"], moe["shared.down.weight"], x)
    return y_TD


@pytest.mark.parametrize("family", FAMILIES)
def test_block_is_the_formula(tmp_path: Path, family: str):
    """With the router's own choice, and with other experts and weights pinned."""
    model, config = load(tmp_path, family)
    tensors = tiny_tensors(config)
    x_TD = np.random.default_rng(1).standard_normal((7, 32)).astype(np.float32)
    for layer, index in enumerate(config.moe_layers):
        routing = model.route(layer, x_TD)
        assert_same_maths(model.moe_block(layer, x_TD), formula(tensors, index, x_TD, routing), config)
        other = PinnedRouting((routing.topk_ids_LTK + 1) % config.routing.num_experts, routing.topk_weights_LTK * np.float32(0.5))
        assert_same_maths(model.moe_block(layer, x_TD, other), formula(tensors, index, x_TD, other), config)
        logits = x_TD @ tensors[f"layers.{index}.moe.router.weight"].T
        assert_same_maths(routing.router_logits_LTE[0], logits, config)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("family", ["qwen2_moe", "dots1"])
def test_probe_of_no_tokens(tmp_path: Path, family: str, name: str):
    model, config = load(tmp_path, family, name)
    x_TD = np.zeros((0, 32), np.float32)
    assert model.moe_block(0, x_TD).shape == (0, 32)
    routing = model.route(0, x_TD)
    E, K = config.routing.num_experts, config.routing.top_k
    assert routing.topk_ids_LTK.shape == (1, 0, K) and routing.router_logits_LTE.shape == (1, 0, E) and routing.mask_T.shape == (0,)
    pinned = PinnedRouting(np.zeros((1, 0, K), np.int64), np.zeros((1, 0, K), np.float32))
    assert model.moe_block(0, x_TD, pinned).shape == (0, 32)


def test_bad_probe_input(tmp_path: Path):
    model, _ = load(tmp_path, "qwen3_moe", dtype="bfloat16")
    good = np.ones((2, 32), np.float32)
    for layer, x_TD in ((2, good), (-1, good), (0, good[:, :5]), (0, good[0]), (0, good.astype(np.float64)), (0, good * np.float32(1.001))):
        with pytest.raises(InvalidInput):
            model.route(layer, x_TD)
        with pytest.raises(InvalidInput):
            model.moe_block(layer, x_TD)
    with pytest.raises(InvalidInput, match="not exactly representable in bfloat16"):
        model.route(0, np.full((1, 32), np.finfo(np.float32).max))
    assert model.moe_block(0, good).shape == (2, 32)


def test_router_that_cannot_be_found_is_unsupported():
    from moe_harness.implementations.hf.routing import _block
    from moe_harness.implementations.interface import Unsupported

    layer = torch.nn.Module()
    layer.mlp = torch.nn.Linear(2, 2)
    with pytest.raises(Unsupported, match="layer 4 .*0 parts"):
        _block(layer, 4)
