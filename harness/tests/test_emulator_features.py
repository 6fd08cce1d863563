"""The honest subject's packed prefill, loss, routers by themselves and pads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from moe_harness.emulator.numerics import Rounding
from moe_harness.emulator.subject import SubjectModel
from moe_harness.implementations.interface import InvalidInput, LoadSpec, Request, RouterWeights, RoutingSpec
from moe_harness.mutants.catalogue import backend
from moe_harness.suite.subject import Workshop
from moe_harness.tests.mutants_models import ALL, CONFIGS, ROUNDING, distance, full, load, prompts


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    return Workshop(tmp_path_factory.mktemp("faults")).once


@pytest.fixture(params=CONFIGS, ids=lambda name: name.replace(" ", "-"))
def model(request, once) -> SubjectModel:
    return load(once, CONFIGS[request.param])


def test_packed_sequences_equal_each_alone(model):
    lengths = (5, 1, 8)
    sequences = np.split(prompts(model, 1, sum(lengths))[0], np.cumsum(lengths)[:-1])
    cu_seqlens = np.cumsum([0, *lengths])
    model.prefill(sequences[0][None], np.array([5]), ALL)  # what the cache holds must not matter
    packed_1TV = model.prefill_packed(np.concatenate(sequences), cu_seqlens, ALL).logits_BSV
    last = model.prefill_packed(np.concatenate(sequences), cu_seqlens, Request()).logits_BSV
    assert last.shape[:2] == (1, 3) and distance(last[0], packed_1TV[0, cu_seqlens[1:] - 1]) < ROUNDING
    for i, ids_S in enumerate(sequences):
        assert distance(packed_1TV[:, cu_seqlens[i] : cu_seqlens[i + 1]], full(model, ids_S[None])) < ROUNDING


@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_loss_is_the_mean_over_labels(model, padding):
    ids_BS, lengths_B = prompts(model, 2, 9), np.array([9, 6])
    labels_BS, terms = np.full((2, 9), -100), []
    for row, length in enumerate(lengths_B):
        valid = slice(9 - length, 9) if padding == "left" else slice(0, length)
        labels_BS[row, valid] = ids_BS[row, valid]
        labels_BS[row, valid][:3] = -100
        logits_SV = full(model, ids_BS[row : row + 1, valid])[0].astype(np.float64)
        log_probabilities = logits_SV - np.log(np.exp(logits_SV).sum(axis=1, keepdims=True))
        terms += [-log_probabilities[s - 1, ids_BS[row, valid][s]] for s in range(3, length)]
    assert abs(model.loss(ids_BS, lengths_B, labels_BS, padding) - np.mean(terms)) < 1e-5
    with pytest.raises(InvalidInput, match="no label"):
        model.loss(ids_BS, lengths_B, np.full((2, 9), -100), padding)


def test_a_router_by_itself_is_the_models(model):
    layer = model.config.moe_layers[0]
    tensors = [model.network.tensors.get(f"layers.{layer}.moe.router.{part}") for part in ("weight", "bias", "correction_bias")]
    router = backend().router(model.config.routing, RouterWeights(*tensors), LoadSpec())
    x_TD = np.random.default_rng(3).standard_normal((17, 64), np.float32)
    alone, inside = router.route(x_TD), model.route(0, x_TD)
    assert np.array_equal(alone.topk_ids_LTK, inside.topk_ids_LTK) and np.array_equal(alone.topk_weights_LTK, inside.topk_weights_LTK)


def test_a_router_bias_is_part_of_the_logits():
    weight_ED, bias_E = np.eye(6, 8, dtype=np.float32), np.array([0, 0, 0, 0, 0, 5], np.float32)
    router = backend().router(RoutingSpec(6, 2, router_bias=True), RouterWeights(weight_ED, bias_E), LoadSpec())
    routing = router.route(np.arange(8, dtype=np.float32)[None] / 8)
    assert routing.topk_ids_LTK.tolist() == [[[5, 4]]]
    assert routing.topk_weights_LTK[0, 0] == pytest.approx(np.exp([5.125, 0]) / (np.exp(5.125) + 1))
    with pytest.raises(InvalidInput, match="router_bias"):
        backend().router(RoutingSpec(6, 2), RouterWeights(weight_ED, bias_E), LoadSpec())


def test_correction_biases_stay_float32(once):
    model = load(once, CONFIGS["dots1"], "bfloat16")
    corrections = {name: t for name, t in model.network.tensors.items() if name.endswith("correction_bias")}
    assert corrections and all((t != Rounding("bfloat16")(t)).any() for t in corrections.values())


def test_a_nan_at_the_pads_stays_there(model):
    ids_BS, lengths_B = prompts(model, 2, 8), np.array([8, 5])
    ids_BS[ids_BS == 7] = 8
    clean = model.prefill(ids_BS, lengths_B, ALL).logits_BSV
    ids_BS[1, 5:] = 7
    model.network.tensors["embed.weight"][7] = np.nan
    if not model.config.tie_word_embeddings:
        model.reset()
        assert (model.prefill(ids_BS, lengths_B, ALL).logits_BSV[1, :5] == clean[1, :5]).all()
