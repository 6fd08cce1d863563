"""Token ids that models are timed on: random, by seed. What is timed does not depend on what they say, but for the experts they go to."""

from __future__ import annotations

import numpy as np

from moe_harness.bench.timing import MAX_LENGTH
from moe_harness.implementations.interface import ModelConfig


def random_ids(config: ModelConfig, rows: int, length: int, seed: int) -> np.ndarray:
    """(rows, length) int64."""
    return np.random.default_rng(seed).integers(0, config.vocab_size, (rows, length))


def prompt_length(config: ModelConfig, asked: int, new: int = 0) -> int:
    """As long as was asked for, or as long as positions allow beside `new` further tokens."""
    return max(min(asked, min(MAX_LENGTH, config.max_position_embeddings) - new), 1)
