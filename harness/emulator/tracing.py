"""The subject's proof of static shapes: its decoder runs on two different inputs of one shape, and every array that is rounded on the way
must have the same shape in both. Its experts then run as a compiler would have them: all of them on all tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from moe_harness.emulator.cache import new_cache
from moe_harness.emulator.experts import ExpertJob, run_expert
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.implementations.interface import GraphProof

if TYPE_CHECKING:
    from moe_harness.emulator.network import Network, Step
    from moe_harness.emulator.seams import Seams


@dataclass(frozen=True)
class Recorder(Rounding):
    """A rounding that notes the shapes it sees."""

    seen: list[tuple[int, ...]] = field(default_factory=list, compare=False)

    def __call__(self, x: Array) -> Array:
        self.seen.append(np.shape(x))
        return super().__call__(x)


def all_experts(job: ExpertJob, seams: Seams) -> Array:
    """y_TKD: every expert multiplies every token, and each choice takes its own."""
    parts = [run_expert(job.x_TD, *weights, job.rounding, seams) for weights in zip(job.gate_up_E2FD, job.down_EDF, strict=True)]
    every_TED = np.stack(parts, axis=1)
    return np.take_along_axis(every_TED, job.ids_TK[..., None], axis=1)


def shapes(network: Network, step: Step) -> list[tuple[int, ...]]:
    """Of all that is rounded in one pass behind an empty cache."""
    recorder = Recorder(network.rounding.dtype)
    B, S = step.ids_BS.shape
    replace(network, rounding=recorder).forward(step, new_cache(network.config, B, S), None)
    return recorder.seen


def compare(network: Network, make: Callable[[Array], Step], shape: tuple[int, int]) -> GraphProof:
    """`make`: token ids to the step of a call."""
    draws = [np.random.default_rng(seed).integers(0, network.config.vocab_size, shape) for seed in (0, 1)]
    one, other = (shapes(network, make(ids_BS)) for ids_BS in draws)
    apart = sum(a != b for a, b in zip_longest(one, other))
    return GraphProof(f"{shape[0]} x {shape[1]} tokens", dynamic=apart)
