"""Tokens that are drawn inside the graph follow the distribution that the host draws from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_harness.implementations.interface import GenerationSpec, LoadSpec
from moe_harness.implementations.neuron.backend import backend
from moe_harness.implementations.tests.tiny import tiny_checkpoint

torch: Any = pytest.importorskip("torch")
sampler: Any = pytest.importorskip("moe_harness.implementations.neuron.sampler")
LOGITS = np.array([2.0, 1.0, 0.0, -1.0, -2.0], np.float32)


def shares(spec: GenerationSpec, draws: int = 4000) -> np.ndarray:
    """How often each of five tokens is drawn, by numbers that lie evenly in [0, 1)."""
    uniform = (np.arange(draws) + 0.5) / draws
    draw = sampler.Draw(*(torch.from_numpy(x) for x in (sampler.parameters(spec, draws), uniform.astype(np.float32))))
    return np.bincount(sampler.sample(torch.from_numpy(LOGITS).expand(draws, -1), draw).numpy(), minlength=5) / draws


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_draws_follow_the_softmax(temperature: float):
    assert np.abs(shares(GenerationSpec(1, temperature)) - softmax(LOGITS / temperature)).max() < 1e-3


@pytest.mark.parametrize(
    ("spec", "kept"), [(GenerationSpec(1, 1.0, top_k=2), 2), (GenerationSpec(1, 1.0, top_p=0.7), 2), (GenerationSpec(1, 1.0, 3, 0.1), 1)]
)
def test_the_rest_is_left_out(spec: GenerationSpec, kept: int):
    expected = np.where(np.arange(5) < kept, softmax(LOGITS), 0)
    assert np.abs(shares(spec) - expected / expected.sum()).max() < 1e-3


def test_greedy_is_the_likeliest():
    assert shares(GenerationSpec(1, 0.0))[0] == 1


def test_more_tokens_than_can_be_drawn():
    """Of 300, the 256 likeliest."""
    logits = torch.arange(300.0)[None] / 100
    drawn = [int(sampler.sample(logits, sampler.Draw(torch.tensor([[256.0, 1.0, 1.0]]), torch.tensor([u])))) for u in (0.0, 0.9999999)]
    assert drawn == [299, 44]


@pytest.mark.parametrize("variant", ["sampling", "sampling,batched"])
def test_generation_on_the_device_is_that_on_the_host_where_it_is_greedy(tmp_path: Path, variant: str):
    tiny_checkpoint(tmp_path / "m")
    prompt = np.random.default_rng(0).integers(3, 96, (3, 7)), np.array([7, 2, 5])
    found = []
    for name in (None, variant):
        model: Any = backend(name).load(str(tmp_path / "m"), LoadSpec(max_batch=4, max_length=32))
        found.append(model.generate(*prompt, GenerationSpec(9, eos_token_ids=())))
    assert found[0] == found[1] and all(len(row) == 9 for row in found[0])
