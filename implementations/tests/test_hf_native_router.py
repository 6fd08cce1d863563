"""Routers by themselves, of both backends, against the definition of RoutingSpec in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from moe_harness.implementations import families, registry  # noqa: E402
from moe_harness.implementations.checkpoint.writer import write_checkpoint  # noqa: E402
from moe_harness.implementations.families.weights import scatter  # noqa: E402
from moe_harness.implementations.interface import InvalidInput, LoadSpec, RouterBuilder, RouterWeights, Routing, RoutingSpec, Unsupported  # noqa: E402
from moe_harness.implementations.tests.tiny import tiny_config, tiny_tensors  # noqa: E402
from moe_harness.implementations.tests.tiny_hf import one_thread  # noqa: E402, F401

pytestmark = pytest.mark.usefixtures("one_thread")
D, T = 24, 40
GROUPED = RoutingSpec(12, 3, "sigmoid", correction_bias=True, num_groups=4, top_groups=2, scaling_factor=2.5)
SPECS = {
    "softmax": RoutingSpec(10, 3),
    "softmax raw": RoutingSpec(10, 3, normalize_topk=False),
    "bias": RoutingSpec(8, 2, router_bias=True),
    "grouped": GROUPED,
    "grouped raw": replace(GROUPED, normalize_topk=False, scaling_factor=0.5),
    "corrected": replace(GROUPED, num_groups=1, top_groups=1),
    "sigmoid": RoutingSpec(8, 2, "sigmoid"),
    **{f.name: f.parse(next(iter(f.public.values()))) for f in families.routing_families().values()},
}


def builder(name: str) -> RouterBuilder:
    backend = registry.backend(name)
    assert isinstance(backend, RouterBuilder) and "router" in backend.capabilities().features
    return backend


def weights_of(spec: RoutingSpec, seed: int = 0) -> RouterWeights:
    """On a grid of bfloat16, but for the correction, whose last bits only float32 holds."""
    rng, E = np.random.default_rng(seed), spec.num_experts
    weight, bias = rng.integers(-8, 9, (E, D)).astype(np.float32) / 16, rng.integers(-8, 9, E).astype(np.float32) / 8
    correction = (0.2 * rng.standard_normal(E)).astype(np.float32)
    return RouterWeights(weight, bias if spec.router_bias else None, correction if spec.correction_bias else None)


def states(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-16, 17, (T, D)).astype(np.float32) / 8


def expected(spec: RoutingSpec, weights: RouterWeights, x_TD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(logits_TE, scores_TE, ranking_TE with -inf outside of the best groups) in float64."""
    logits = x_TD.astype(np.float64) @ weights.weight_ED.T.astype(np.float64) + (0 if weights.bias_E is None else weights.bias_E)
    sigmoid, softmax = 1 / (1 + np.exp(-logits)), np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    scores = sigmoid if spec.scoring == "sigmoid" else softmax
    ranking = scores + (0 if weights.correction_bias_E is None else weights.correction_bias_E)
    size = spec.num_experts // spec.num_groups
    for row in ranking:
        totals = [np.sort(row[g * size : (g + 1) * size])[-2:].sum() for g in range(spec.num_groups)]
        for g in np.argsort(totals)[: spec.num_groups - spec.top_groups]:
            row[g * size : (g + 1) * size] = -np.inf
    return logits, scores, ranking


def check(routing: Routing, spec: RoutingSpec, weights: RouterWeights, rtol: float) -> None:
    logits, scores, ranking = expected(spec, weights, states())
    ids = routing.topk_ids_LTK[0]
    assert routing.topk_ids_LTK.shape == (1, T, spec.top_k) and routing.topk_ids_LTK.dtype == np.int64 and routing.mask_T.all()
    assert np.allclose(routing.router_logits_LTE[0], logits, rtol=rtol, atol=8 * rtol)
    if not spec.correction_bias and spec.num_groups == 1:
        ranking = logits  # in the same order, and further apart
    best = -np.sort(-ranking, axis=-1)
    clear = best[:, spec.top_k - 1] - best[:, spec.top_k] > 8 * rtol
    assert clear.mean() > 0.5
    assert np.array_equal(np.sort(ids)[clear], np.sort(np.argsort(-ranking, axis=-1)[:, : spec.top_k])[clear])
    chosen = np.take_along_axis(scores, ids, axis=-1)
    combined = spec.scaling_factor * (chosen / chosen.sum(-1, keepdims=True) if spec.normalize_topk else chosen)
    assert np.allclose(routing.topk_weights_LTK[0][clear], combined[clear], rtol=16 * rtol, atol=1e-7)


@pytest.mark.parametrize("name", ["native", "hf"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_routing_is_as_the_spec_says(spec: RoutingSpec, name: str):
    weights, backend = weights_of(spec), builder(name)
    check(backend.router(spec, weights, LoadSpec()).route(states()), spec, weights, 2.0**-22)
    # |logits| up to 16 in bfloat16: off by 1/32, of which sigmoid scores, computed from float32 logits, see nothing
    low = backend.router(spec, weights, LoadSpec(dtype="bfloat16")).route(states())
    check(low, spec, weights, 2.0**-20 if spec.scoring == "sigmoid" else 2.0**-7)
    empty = backend.router(spec, weights, LoadSpec()).route(np.zeros((0, D), np.float32))
    assert empty.topk_ids_LTK.shape == (1, 0, spec.top_k) and empty.router_logits_LTE.shape == (1, 0, spec.num_experts)


@pytest.mark.parametrize("name", ["native", "hf"])
def test_a_correction_moves_selections_and_not_weights(name: str):
    spec = replace(GROUPED, num_groups=1, top_groups=1, normalize_topk=False)
    plain = weights_of(spec)
    pushed = replace(plain, correction_bias_E=np.where(np.arange(12) == 5, 2.0, 0.0).astype(np.float32))
    routing = builder(name).router(spec, pushed, LoadSpec()).route(states())
    _, scores, _ = expected(spec, plain, states())
    at = routing.topk_ids_LTK[0] == 5
    assert at.sum(-1).tolist() == [1] * T
    assert np.allclose(routing.topk_weights_LTK[0][at], 2.5 * scores[:, 5], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["native", "hf"])
def test_a_loaded_correction_keeps_its_last_bits(tmp_path: Path, name: str, dtype: str):
    """All logits are 0, and the corrections of a group differ by 2^-20: in bfloat16 or float16 they would tie."""
    config = tiny_config("dots1", "bfloat16")
    description, tensors = families.family("dots1"), tiny_tensors(config)
    rising = (0.25 + np.arange(12) * 2.0**-20).astype(np.float32)
    tensors |= {tensor: rising for tensor in tensors if tensor.endswith("correction_bias")}
    write_checkpoint(tmp_path / "m", description.to_hf(config), dict(scatter(description.layout(config, True), tensors)))
    model: Any = registry.backend(name).load(str(tmp_path / "m"), LoadSpec(dtype=dtype))
    for layer in range(2):
        assert sorted(model.route(layer, np.zeros((1, 32), np.float32)).topk_ids_LTK[0, 0]) == [9, 10, 11]


IMPOSSIBLE = {
    "softmax in groups": replace(GROUPED, scoring="softmax"),
    "softmax, scaled": RoutingSpec(8, 2, scaling_factor=2.0),
    "sigmoid with a bias": RoutingSpec(8, 2, "sigmoid", router_bias=True),
    "bias, not normalised": RoutingSpec(8, 2, router_bias=True, normalize_topk=False),
    "scores in bfloat16": RoutingSpec(8, 2, scoring_dtype="bfloat16"),
    "unknown scores": RoutingSpec(8, 2, "tanh"),
}


@pytest.mark.parametrize("spec", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_no_module_of_transformers_does_is_unsupported(spec: RoutingSpec):
    with pytest.raises(Unsupported, match="no router"):
        builder("hf").router(spec, weights_of(spec), LoadSpec())


@pytest.mark.parametrize("what", list(IMPOSSIBLE)[:4])
def test_native_routes_what_transformers_cannot(what: str):
    spec = IMPOSSIBLE[what]
    check(builder("native").router(spec, weights_of(spec), LoadSpec()).route(states()), spec, weights_of(spec), 2.0**-22)


@pytest.mark.parametrize("what", list(IMPOSSIBLE)[4:])
def test_scores_that_native_does_not_compute_are_unsupported(what: str):
    with pytest.raises(Unsupported):
        builder("native").router(IMPOSSIBLE[what], weights_of(IMPOSSIBLE[what]), LoadSpec())


@pytest.mark.parametrize("name", ["native", "hf"])
def test_weights_and_inputs_that_do_not_fit_are_refused(name: str):
    backend = builder(name)
    good = weights_of(GROUPED)
    extra, short = np.zeros(12, np.float32), np.zeros(11, np.float32)
    for bad in (
        replace(good, weight_ED=good.weight_ED[:11]),
        replace(good, bias_E=extra),
        replace(good, correction_bias_E=None),
        replace(good, correction_bias_E=short),
    ):
        with pytest.raises(InvalidInput):
            backend.router(GROUPED, bad, LoadSpec())
    bad_loads: list[tuple[dict[str, Any], type[Exception]]] = [
        (dict(dtype="float64"), InvalidInput),
        (dict(options={"x": "y"}), InvalidInput),
        (dict(device="tpu"), Unsupported),
    ]
    for fields, error in bad_loads:
        with pytest.raises(error):
            backend.router(GROUPED, good, LoadSpec(**fields))
    router = backend.router(GROUPED, good, LoadSpec())
    for x_TD in (states()[:, :-1], states()[0], states().astype(np.int64)):
        with pytest.raises(InvalidInput):
            router.route(x_TD)
    check(router.route(states()), GROUPED, good, 2.0**-22)
