"""The least work of one call: floating-point operations and bytes that have to move, from the config and the experts actually touched.

Legend: B rows, S new positions a row, C positions held before, T = B*S, L MoE layers, E experts, D hidden, F expert FFN, V vocabulary,
H heads, N key/value heads, P head size.

Operations: a matrix of n elements times one vector is 2n (a multiplication and an addition each). Attention is 2P for a query's score with
one key and 2P for its share of the value, so 4 H P for every pair of a query and a position it sees (PaLM, arXiv:2204.02311, appendix B,
counts the same). An expert is three matrices (SwiGLU), 6 D F operations for each of its tokens. Norms, activations, softmax, RoPE and the
weighted sum are not counted: less than a hundredth at any size that is timed here for its speed.

Bytes: every weight that is needed is read once a call, of the experts those that have a token, in the dtype that the model is loaded in;
the embedding only at the rows that are looked up; keys and values are written once for new positions and read once where any query sees
them. Activations between operations, and logits, are taken to stay in a cache: this is a lower bound of the traffic, so that the time
derived from it is a lower bound too (the roofline of Williams, Waterman, Patterson 2009, doi:10.1145/1498765.1498785).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from moe_harness.cases.tensors import numpy_dtype
from moe_harness.implementations.families.weights import canonical_shapes
from moe_harness.implementations.interface import ModelConfig

EMBEDDING, HEAD = "embed.weight", "lm_head.weight"
EXPERTS = (".moe.gate_up.weight", ".moe.down.weight")
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Work:
    """Of all calls of a round. `experts_touched`: experts whose weights had to be read, summed over MoE layers and calls. `loads_LE`:
    tokens of each expert, summed over calls. `weights`: bytes of all that the calls choose from; no cache holds more than that."""

    flops: int
    bytes: int
    experts_touched: int
    loads_LE: np.ndarray
    weights: int

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.bytes + other.bytes,
            self.experts_touched + other.experts_touched,
            self.loads_LE + other.loads_LE,
            max(self.weights, other.weights),
        )

    def to_record(self) -> dict[str, Any]:
        return {
            "flops": self.flops,
            "bytes": self.bytes,
            "experts_touched": self.experts_touched,
            "loads": self.loads_LE.tolist(),
        }


def forward(config: ModelConfig, dtype: str, rows: int, held: int, new: int, loads_LE: np.ndarray, logits: int) -> Work:
    """One call of the model: `rows` of `new` positions each behind `held` ones. `logits`: positions, over all rows, whose logits are asked
    for. Raises ValueError for loads that are not K a token in every MoE layer."""
    tokens, size = rows * new, numpy_dtype(dtype).itemsize
    _check(config, len(config.moe_layers), tokens, loads_LE)
    shapes = canonical_shapes(config)
    experts = _experts(config, size, loads_LE)
    dense = [prod(shape) for name, shape in shapes.items() if name not in (EMBEDDING, HEAD) and not name.endswith(EXPERTS)]
    matrices = [prod(shape) for name, shape in shapes.items() if _is_dense_matrix(name, shape)]
    head = prod(shapes[HEAD]) if logits else 0
    flops = 2 * tokens * sum(matrices) + 2 * logits * head + _attention_flops(config, rows, held, new)
    moved = size * (sum(dense) + head + tokens * config.hidden_size) + size * _cache_elements(config, rows, held, new)
    whole = size * sum(prod(shape) for shape in shapes.values())
    return Work(flops + experts.flops, moved + experts.bytes, experts.experts_touched, loads_LE, whole)


def moe_block(config: ModelConfig, dtype: str, tokens: int, loads_E: np.ndarray) -> Work:
    """The first MoE layer's block by itself: router, experts, shared expert. Its input is read and its output written, (T, D) each."""
    size, loads_LE = numpy_dtype(dtype).itemsize, loads_E[None]
    _check(config, 1, tokens, loads_LE)
    shapes = _block_shapes(config)
    beside = {name: shape for name, shape in shapes.items() if not name.endswith(EXPERTS)}
    experts = _experts(config, size, loads_LE)
    flops = 2 * tokens * sum(prod(shape) for name, shape in beside.items() if _is_dense_matrix(name, shape))
    moved = size * (sum(prod(shape) for shape in beside.values()) + 2 * tokens * config.hidden_size)
    whole = size * sum(prod(shape) for shape in shapes.values())
    return Work(flops + experts.flops, moved + experts.bytes, experts.experts_touched, loads_LE, whole)


def router(config: ModelConfig, dtype: str, tokens: int) -> Work:
    """The first MoE layer's router by itself: its tensors and x (T, D) are read; logits (T, E) are not counted, E being far below D."""
    size = numpy_dtype(dtype).itemsize
    tensors = [shape for name, shape in _block_shapes(config).items() if ".moe.router." in name]
    weights = size * sum(prod(shape) for shape in tensors)
    flops = 2 * tokens * sum(prod(shape) for shape in tensors if len(shape) == 2)
    return Work(flops, weights + size * tokens * config.hidden_size, 0, np.zeros((0, config.routing.num_experts), np.int64), weights)


def _experts(config: ModelConfig, size: int, loads_LE: np.ndarray) -> Work:
    """The experts alone: 3 D F weights each, read where it has a token."""
    one, touched = 3 * config.hidden_size * config.moe_intermediate_size, int(np.count_nonzero(loads_LE))
    return Work(2 * one * int(loads_LE.sum()), size * one * touched, touched, loads_LE, size * one * loads_LE.size)


def _is_dense_matrix(name: str, shape: Sequence[int]) -> bool:
    """What every token is multiplied with."""
    return len(shape) == 2 and name not in (EMBEDDING, HEAD)


def _block_shapes(config: ModelConfig) -> Shapes:
    prefix = f"layers.{config.moe_layers[0]}.moe."
    return {name: shape for name, shape in canonical_shapes(config).items() if name.startswith(prefix)}


def _attention_flops(config: ModelConfig, rows: int, held: int, new: int) -> int:
    seen = np.arange(held, held + new, dtype=np.int64) + 1
    pairs = int(np.minimum(seen, config.sliding_window or held + new).sum())
    return config.num_hidden_layers * rows * pairs * 4 * config.num_attention_heads * config.head_dim


def _cache_elements(config: ModelConfig, rows: int, held: int, new: int) -> int:
    """Elements of keys and values: written for the new positions, read at every position that some query sees."""
    seen = min(held + new, (config.sliding_window or held + new) + new - 1)
    return config.num_hidden_layers * rows * (new + seen) * 2 * config.num_key_value_heads * config.head_dim


def _check(config: ModelConfig, layers: int, tokens: int, loads_LE: np.ndarray) -> None:
    expected, K = (layers, config.routing.num_experts), config.routing.top_k
    if loads_LE.shape != expected or (loads_LE < 0).any() or (loads_LE.sum(-1) != tokens * K).any():
        raise ValueError(f"loads {loads_LE.tolist()} are not {K} a token of {tokens} tokens in each of {expected[0]} MoE layers")
