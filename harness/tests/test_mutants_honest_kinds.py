"""Honest kinds differ from the honest subject by rounding, from seed to seed where they say so, and carry faults on top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from moe_harness.cases.synthetic import synthesize
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.subject import SubjectBackend
from moe_harness.implementations.interface import LoadSpec, ModelConfig, PinnedRouting, Request
from moe_harness.mutants.catalogue import FAULTS, SEEDED_KINDS, backend, changed_seams, collisions, faulty, honest
from moe_harness.mutants.entry import Honest
from moe_harness.suite.subject import Workshop
from moe_harness.tests.mutants_models import ROUNDING, base_config, prompts

# Two subjects of some 40 roundings each, which add up like a random walk.
LIMITS = {"float32": ROUNDING, "bfloat16": 2**-8 * np.sqrt(80), "float16": 2**-11 * np.sqrt(80)}
KINDS = pytest.mark.parametrize("kind", SEEDED_KINDS, ids=lambda kind: kind.id)


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    return Workshop(tmp_path_factory.mktemp("kinds")).once


def config_of(family: str) -> ModelConfig:
    """With attention biases where the family may have them, so that every kind has something to do."""
    bias = {"qwen3_moe": tuple("qkvo"), "qwen2_moe": tuple("qkv")}.get(family, ())
    return replace(base_config(family), attention_bias=bias, dtype="bfloat16")


def logits(once, family: str, seams: Seams, dtype: str) -> np.ndarray:
    """Under one fixed choice of experts, so that no flip hides the rounding; the weights are the model's own."""
    config = config_of(family)
    path = once(f"{config}", lambda dst: synthesize(config, dst, 1, router_scale=2.0))
    model, rng, spec = SubjectBackend(seams=seams).load(str(path), LoadSpec(dtype)), np.random.default_rng(5), config.routing
    ids_LTK = np.stack([[rng.permutation(spec.num_experts)[: spec.top_k] for _ in range(48)] for _ in config.moe_layers])
    request = Request(logits="all", pinned=PinnedRouting(ids_LTK))
    found = model.prefill(prompts(model, 2, 24), np.full(2, 24), request).logits_BSV
    assert found is not None
    return found


def family_of(kind: Honest) -> str:
    return kind.families[SEEDED_KINDS.index(kind) % len(kind.families)]


def test_there_are_thirty_kinds_that_vary():
    assert sum(not kind.deterministic for kind in SEEDED_KINDS) >= 30


@KINDS
@pytest.mark.parametrize("dtype", LIMITS)
def test_a_kind_differs_by_rounding(once, kind: Honest, dtype: str):
    expected = logits(once, family_of(kind), honest(None), dtype)
    for seed in (0, 1):
        found = logits(once, family_of(kind), honest(kind.id, seed), dtype)
        assert np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < LIMITS[dtype]


@KINDS
def test_a_seed_is_a_sample(once, kind: Honest):
    samples = [logits(once, family_of(kind), honest(kind.id, seed), "float32").tobytes() for seed in (0, 1, 2, 0)]
    assert samples[0] == samples[3]
    assert len(set(samples)) == 1 if kind.deterministic else len(set(samples)) > 1


def shows(once, kind: Honest, family: str, dtype: str) -> bool:
    """Beside what the same seed's order of sums does."""
    plain = logits(once, family, honest("sum-in-drawn-order", 3), dtype)
    return bool((logits(once, family, honest(kind.id, 3), dtype) != plain).any())


@KINDS
def test_a_kind_is_more_than_its_order_of_sums(once, kind: Honest):
    """In one of its families, in bfloat16 or float32."""
    found = any(shows(once, kind, family, dtype) for dtype in ("bfloat16", "float32") for family in kind.families)
    assert found or kind.id == "sum-in-drawn-order"


def test_a_fault_stands_on_a_kind(once):
    plain = honest("sum-tree", 7)
    seams = faulty("silu-missing", "sum-tree", 7)
    assert seams.network.linear is not honest(None).network.linear and seams.experts.activate is not plain.experts.activate
    assert (logits(once, "mixtral", seams, "float32") != logits(once, "mixtral", faulty("silu-missing"), "float32")).any()


def test_a_pair_that_collides_is_refused():
    assert changed_seams(next(f for f in FAULTS if f.id == "silu-missing")) == {"activate"}
    assert collisions("silu-missing", "silu-by-tanh") == {"activate"}
    assert collisions("relu-before-softmax", "benign-megatron-955") == {"scores"}
    with pytest.raises(ValueError, match="both need activate"):
        faulty("silu-missing", "silu-by-tanh")


@pytest.mark.parametrize("variant", ["silu-missing", "silu-missing@sum-tree", "silu-missing@sum-tree#3", "sum-tree", "sum-tree#3"])
def test_a_specification_names_entry_kind_and_seed(variant: str):
    assert backend(variant).name.endswith(f":{variant}")


@pytest.mark.parametrize(
    ("variant", "message"),
    [("sum-tree#x", "whole number"), ("silu-missing@gelu-for-silu", "is a fault"), ("sum-tree@sum-split", "stands on no kind")],
)
def test_a_specification_that_means_nothing_is_an_error(variant: str, message: str):
    with pytest.raises(ValueError, match=message):
        backend(variant)
