"""What the tests of the hf backend share: loading a tiny checkpoint, and the one bound that their comparisons use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, Tuple

import numpy as np
import pytest

from moe_harness.implementations import registry
from moe_harness.implementations.interface import LoadSpec, ModelConfig, Request
from moe_harness.implementations.tests.tiny import tiny_checkpoint

ALL = Request("all", routing=True)
SPEC_FIELDS = {"dtype", "device", "max_batch", "max_length", "options"}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: at this size more only wait for each other, for seconds on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(path: Path, family: str = "mixtral", name: str = "hf", **overrides: Any) -> Tuple[Any, ModelConfig]:
    """(model, config) of a tiny checkpoint written to a new folder under `path`. `overrides`: LoadSpec's fields except dtype, or the
    checkpoint's; `dtype` is the stored one, in which it is loaded too."""
    directory = path / f"checkpoint-{len(list(path.iterdir()))}"
    spec = {key: overrides.pop(key) for key in list(overrides) if key in SPEC_FIELDS - {"dtype"}}
    config = tiny_checkpoint(directory, family, **overrides)
    return registry.backend(name).load(str(directory), LoadSpec(dtype=config.dtype, **spec)), config


def prompts(B: int = 3, S: int = 12, V: int = 96, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, V, (B, S))


def full(ids_BS: np.ndarray) -> np.ndarray:
    """Lengths without pads."""
    return np.full(len(ids_BS), ids_BS.shape[1])


def assert_same_maths(got: np.ndarray, expected: np.ndarray, config: ModelConfig, S: int = 12) -> None:
    """float32 results of one formula, evaluated in different orders.

    n additions in a row err by at most lambda sqrt(n) u, relative to the largest terms, with probability 1 - 2 exp(-lambda^2 / 2) (Higham
    and Mary, 2019); lambda is 4 here and n is counted along the longest path from a token to its logit. What differs by more is another
    formula.
    """
    D, F, attention = config.hidden_size, config.moe_intermediate_size, config.num_attention_heads * config.head_dim
    widest = max(F, config.intermediate_size, config.shared_expert_intermediate_size)
    layer = D + config.head_dim + S + attention + D + widest + config.routing.top_k
    n = config.num_hidden_layers * layer + D
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert error <= 4 * np.sqrt(n) * 2.0**-24, f"relative error {error:.2e}"
