"""Sampling distributions and losses in closed form, and the test of counts against probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from moe_harness.implementations.interface import GenerationSpec
from moe_harness.judge.distance import chi_square
from moe_harness.oracle.outputs import IGNORED, cross_entropies, sampling_distribution

LOGITS = np.log(np.array([0.1, 0.4, 0.3, 0.2]))


@pytest.mark.parametrize(
    "spec, expected",
    [
        (GenerationSpec(1, 1.0), [0.1, 0.4, 0.3, 0.2]),
        (GenerationSpec(1, 0.0), [0, 1, 0, 0]),
        (GenerationSpec(1, 0.5), np.array([0.01, 0.16, 0.09, 0.04]) / 0.3),
        (GenerationSpec(1, 1.0, top_k=2), [0, 4 / 7, 3 / 7, 0]),
        (GenerationSpec(1, 1.0, top_p=0.65), [0, 4 / 7, 3 / 7, 0]),  # 0.4 does not reach it, 0.7 does
        (GenerationSpec(1, 1.0, top_p=0.75), [0, 4 / 9, 3 / 9, 2 / 9]),
        (GenerationSpec(1, 1.0, top_k=2, top_p=0.5), [0, 1, 0, 0]),  # 4/7 of what top_k left
        (GenerationSpec(1, 1.0, top_p=0.01), [0, 1, 0, 0]),
    ],
)
def test_sampling_distribution(spec: GenerationSpec, expected: list[float]) -> None:
    assert sampling_distribution(LOGITS, spec) == pytest.approx(np.array(expected))


def test_chi_square_tells_a_fair_draw_from_another() -> None:
    expected, random = np.array([0.5, 0.3, 0.15, 0.05]), np.random.default_rng(0)
    assert chi_square(random.multinomial(400, expected), expected) > 0.01
    assert chi_square(random.multinomial(400, [0.25] * 4), expected) < 1e-12
    assert chi_square(8 * random.multinomial(50, expected), expected) < 0.05  # the same draw eight times over
    assert chi_square(np.array([400, 0, 0, 0]), np.array([1.0, 0, 0, 0])) == 1.0


def test_cross_entropy_is_of_the_next_label_and_skips_ignored_ones() -> None:
    logits_SV = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]]))
    labels_S = np.array([2, 0, 2])
    assert cross_entropies(logits_SV, labels_S) == pytest.approx(-np.log([0.5, 0.6]))
    assert cross_entropies(logits_SV, np.array([0, IGNORED, 2])) == pytest.approx(-np.log([0.6]))
    assert cross_entropies(logits_SV, np.array([0, IGNORED, IGNORED])).size == 0
