"""Layouts are bijections: every element of every canonical tensor has exactly one place on disk, and the way back finds it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_harness.implementations import families
from moe_harness.implementations.families.weights import Placement, assemble, by_target, canonical_shapes, identity_layout, scatter
from moe_harness.implementations.interface import ModelConfig
from moe_harness.implementations.tests.test_families import model_configs

LayoutOf = Callable[[ModelConfig, bool], list[Placement]]
LAYOUTS: dict[str, LayoutOf] = {
    "hf": lambda config, stored_head: families.family(config.family).layout(config, stored_head),
    "identity": identity_layout,
}


def watermarks(config: ModelConfig, stored_head: bool) -> dict[str, np.ndarray]:
    """Canonical tensors in which no two elements of the whole model are equal."""
    shapes = canonical_shapes(config, stored_head)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    return {name: np.arange(end - np.prod(shape), end).reshape(shape) for (name, shape), end in zip(shapes.items(), ends)}


@pytest.mark.parametrize("layout_of", LAYOUTS.values(), ids=LAYOUTS)
@settings(max_examples=50, deadline=None)
@given(config=model_configs(), stored_head=st.booleans())
def test_regions_tile_every_canonical_tensor(layout_of: LayoutOf, config: ModelConfig, stored_head: bool):
    layout = layout_of(config, stored_head)
    covered = {name: np.zeros(shape, int) for name, shape in canonical_shapes(config, stored_head).items()}
    for placement in layout:
        assert covered[placement.name][placement.region].shape == placement.shape, placement
        covered[placement.name][placement.region] += 1
    assert all((count == 1).all() for count in covered.values())
    assert len({placement.source for placement in layout}) == len(layout)


@pytest.mark.parametrize("layout_of", LAYOUTS.values(), ids=LAYOUTS)
@settings(max_examples=50, deadline=None)
@given(config=model_configs(), stored_head=st.booleans())
def test_scatter_and_assemble_are_inverse(layout_of: LayoutOf, config: ModelConfig, stored_head: bool):
    layout, canonical = layout_of(config, stored_head), watermarks(config, stored_head)
    on_disk = dict(scatter(layout, canonical))
    elements = np.concatenate([array.ravel() for array in on_disk.values()])
    assert np.array_equal(np.sort(elements), np.arange(sum(array.size for array in canonical.values())))
    assert all(array.flags.c_contiguous for array in on_disk.values())
    groups = by_target(layout)
    assert list(groups) == list(canonical)
    for name, array in canonical.items():
        assert np.array_equal(assemble(groups[name], array.shape, on_disk.__getitem__), array), name


@settings(max_examples=30, deadline=None)
@given(config=model_configs())
def test_shapes_hold_what_the_config_says(config: ModelConfig):
    """Written out per layer kind; the head is the only tensor that `stored_head` adds."""
    shapes = canonical_shapes(config)
    D, E, F = config.hidden_size, config.routing.num_experts, config.moe_intermediate_size
    for i in range(config.num_hidden_layers):
        sparse = i in config.moe_layers
        assert shapes.get(f"layers.{i}.moe.router.weight") == ((E, D) if sparse else None)
        assert shapes.get(f"layers.{i}.moe.gate_up.weight") == ((E, 2 * F, D) if sparse else None)
        assert shapes.get(f"layers.{i}.mlp.gate_up.weight") == (None if sparse else (2 * config.intermediate_size, D))
        corrected, shared = sparse and config.routing.correction_bias, sparse and config.shared_expert != "none"
        assert shapes.get(f"layers.{i}.moe.router.correction_bias") == ((E,) if corrected else None)
        assert shapes.get(f"layers.{i}.moe.shared.down.weight") == ((D, config.shared_expert_intermediate_size) if shared else None)
        assert (f"layers.{i}.moe.shared.gate.weight" in shapes) is (sparse and config.shared_expert == "gated")
    assert {part for part in "qkvo" if f"layers.{i}.attention.{part}.bias" in shapes} == set(config.attention_bias)
    widths = {"none": None, "head": (config.head_dim,), "projection": (config.num_key_value_heads * config.head_dim,)}
    assert shapes.get(f"layers.{i}.attention.k_norm.weight") == widths[config.qk_norm]
    assert set(shapes) - set(canonical_shapes(config, stored_head=False)) == {"lm_head.weight"}


def test_a_whole_tensor_is_not_copied():
    array = np.ones(3)
    assert assemble([Placement("a", "b", (), (3,))], (3,), lambda name: array) is array


def test_sources_are_read_once_and_in_order():
    layout = [Placement(f"s{k}", "t", (k,), (2,)) for k in range(3)]
    read: list[str] = []

    def source(name: str) -> np.ndarray:
        read.append(name)
        return np.full(2, len(read), np.float16)

    found = assemble(layout, (3, 2), source)
    assert read == ["s0", "s1", "s2"] and found.dtype == np.float16 and found.tolist() == [[1, 1], [2, 2], [3, 3]]
