"""Sampling draws from the distribution it states."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.implementations.common.generation import pick
from moe_harness.implementations.interface import GenerationSpec

LOGITS = np.log(np.array([0.05, 0.4, 0.15, 0.3, 0.1], np.float32))


def share(draws: int = 4000, **limits) -> np.ndarray:
    rng = np.random.default_rng(0)
    spec = GenerationSpec(max_new_tokens=1, **{"temperature": 1.0, **limits})
    return np.bincount([pick(LOGITS, spec, rng) for _ in range(draws)], minlength=5) / draws


@pytest.mark.parametrize(
    "limits, expected",
    [
        ({}, [0.05, 0.4, 0.15, 0.3, 0.1]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.7}, [0, 4 / 7, 0, 3 / 7, 0]),  # 0.4 + 0.3 reaches 0.7 exactly, or in floating point nearly: see the next line
        ({"top_p": 0.71}, [0, 0.4 / 0.85, 0.15 / 0.85, 0.3 / 0.85, 0]),
        ({"top_k": 3, "top_p": 0.5}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 0.5}, np.array([0.05, 0.4, 0.15, 0.3, 0.1]) ** 2 / 0.285),
    ],
    ids=str,
)
def test_shares(limits, expected):
    # Four standard deviations of a share: 4 sqrt(p (1 - p) / 4000) <= 0.032.
    assert np.abs(share(**limits) - expected).max() < 0.032


def test_greedy_takes_the_lowest_of_equals():
    spec = GenerationSpec(max_new_tokens=1)
    assert pick(np.array([1.0, 3.0, 3.0, 2.0], np.float32), spec, np.random.default_rng(0)) == 1
