"""Sampling inside the graph, as NxD Inference has it: the likeliest tokens, temperature, top-p, and the inverse of the cumulated
distribution. Greedy is top-k of 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from moe_harness.implementations.common.generation import Prompt, streams
from moe_harness.implementations.interface import GenerationSpec

MAX_TOP_K = 256  # tokens that can be drawn at all
FILL = -3000.0  # in the place of a logit that must not be drawn
Draws = tuple[np.ndarray, np.ndarray]  # as Draw's, by row of the call
First = Callable[[Prompt, Draws], np.ndarray]
Following = Callable[[np.ndarray, Draws], np.ndarray]


class Draw(NamedTuple):
    """`params_B3`: top_k, top_p, temperature, float32. `uniform_B`: in [0, 1)."""

    params_B3: Tensor
    uniform_B: Tensor


def sample(logits_BV: Tensor, draw: Draw) -> Tensor:
    """ids_B. The smallest set of likeliest tokens that reaches top_p is kept; the first of them always is."""
    top_BN, ids_BN = logits_BV.topk(min(MAX_TOP_K, logits_BV.shape[-1]), -1)
    top_k_B1, top_p_B1, temperature_B1 = draw.params_B3.unsqueeze(-1).unbind(1)
    rank_N = torch.arange(top_BN.shape[-1], device=logits_BV.device)
    probability_BN = (top_BN.masked_fill(rank_N >= top_k_B1, FILL) / temperature_B1).softmax(-1)
    before_BN = probability_BN.cumsum(-1) - probability_BN
    kept_BN = probability_BN.masked_fill(before_BN >= top_p_B1, 0)
    reached_BN = kept_BN.cumsum(-1) <= draw.uniform_B[:, None] * kept_BN.sum(-1, keepdim=True)
    index_B1 = reached_BN.sum(-1, keepdim=True).clamp_max(top_BN.shape[-1] - 1)
    return ids_BN.gather(-1, index_B1).squeeze(-1)


def parameters(spec: GenerationSpec, rows: int) -> np.ndarray:
    """params_B3 of a checked spec."""
    greedy = spec.temperature == 0
    top_k = 1 if greedy else spec.top_k or MAX_TOP_K
    return np.tile(np.array([top_k, spec.top_p, 1.0 if greedy else spec.temperature], np.float32), (rows, 1))


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
