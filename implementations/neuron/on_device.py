"""Tokens that are chosen inside the graph: `Steps` of moe_harness.implementations.common.generation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moe_harness.implementations.common.generation import Prompt, streams
from moe_harness.implementations.interface import GenerationSpec
from moe_harness.implementations.neuron.sampler import parameters

Draws = tuple[np.ndarray, np.ndarray]  # of sampler.Draw, by row of the call
First = Callable[[Prompt, Draws], np.ndarray]
Following = Callable[[np.ndarray, Draws], np.ndarray]


class OnDevice:
    """`first`, `following`: a graph each, from a prompt or the last tokens to the next ones. Random numbers come from the host, a stream
    for each row, so that the same seed gives the same tokens everywhere."""

    def __init__(self, first: First, following: Following, spec: GenerationSpec, rows: int):
        self._first, self._following = first, following
        self._params_B3, self._streams = parameters(spec, rows), streams(spec.seed, rows)

    def begin(self, prompt: Prompt) -> np.ndarray:
        return self._first(prompt, self._draws())

    def go_on(self, ids_B: np.ndarray) -> np.ndarray:
        return self._following(ids_B, self._draws())

    def _draws(self) -> Draws:
        return self._params_B3, np.array([stream.random() for stream in self._streams], np.float32)
