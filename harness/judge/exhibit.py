"""What a check hands over when it fails: one experiment with its inputs, the weights needed and the candidate's answers.

Three kinds. Legend: B batch, S sequence, T tokens, L MoE layers, E experts, K top-k, D hidden, V vocabulary.

- `router`: `x_TD`, and what came: `ids_TK`, `weights_TK`, maybe `logits_TE`. facts: `layer`, `exact` (the logits are so in every dtype).
  `second.` before the same names: another input, which was not judged. What was judged may be as small as shrinking made it; a cause must
  explain both.
- `block`: `x_TD`, `ids_TK` (the experts used), `judged_T` (tokens that count), `weights_TK` if pinned, and what came: `y_TD`. facts:
  `layer`, `pinned`.
- `model`: `call<i>.<ids | lengths | pinned_ids | pinned_weights>` and `row<b>.<input_ids_S | logits_SV | ids_LSK | weights_LSK |
  router_logits_LSE>`. facts: `calls` [{kind: prefill | decode | packed, padding}], `row`: the one that was judged, `rows`.

Router and block are those of a one-layer model whose layer is the one in question. A fourth kind, `record`, holds no arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from moe_harness.implementations.interface import ModelConfig
from moe_harness.judge.limit import Limits
from moe_harness.oracle.model import Oracle

ROUTER, BLOCK, MODEL, RECORD = KINDS = ("router", "block", "model", "record")
Arrays = Mapping[str, np.ndarray]
PREFIX = "layers.0.moe."
SECOND = "second."  # before the names of a router's second input and answers


@dataclass(frozen=True)
class Exhibit:
    """`tensors`: weights by canonical name, as stored; empty where they do not fit into a capsule. An expert's tensors may lack rows:
    `experts` lists the ids that are there, None all of them. `limits`: what honest implementations may be off by on
    this very input, by metric; of a model, by row and metric ("row0.logit_error")."""

    kind: str
    config: ModelConfig | None = None
    dtype: str = "float32"
    facts: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = field(default_factory=dict)
    tensors: Arrays = field(default_factory=dict)
    arrays: Arrays = field(default_factory=dict)
    experts: tuple[int, ...] | None = None

    def limit(self, metric: str, row: int | None = None) -> float:
        """The bound of a metric; of a model's judged row, or another one."""
        row = self.facts.get("row") if row is None else row
        return self.limits[metric if row is None else f"row{row}.{metric}"].bound

    @cached_property
    def oracle(self) -> Oracle:
        """The float64 reference on these weights."""
        assert self.config is not None
        return Oracle(self.config, self.whole)

    @cached_property
    def whole(self) -> dict[str, np.ndarray]:
        """The tensors with a row for every expert, zeros where it was left out, so that ids keep their meaning."""
        return {name: self._spread(tensor) if is_experts(name) else tensor for name, tensor in self.tensors.items()}

    def _spread(self, rows: np.ndarray) -> np.ndarray:
        if self.experts is None or self.config is None:
            return rows
        whole = np.zeros((self.config.routing.num_experts, *rows.shape[1:]), rows.dtype)
        whole[list(self.experts)] = rows
        return whole


def is_experts(name: str) -> bool:
    """A tensor with a slice per expert."""
    return name.endswith((".moe.gate_up.weight", ".moe.down.weight"))


def one_layer_config(config: ModelConfig) -> ModelConfig:
    """The config of a model that consists of one MoE layer."""
    return replace(config, num_hidden_layers=1, moe_layers=(0,))


def layer_tensors(tensors: Arrays, config: ModelConfig, layer: int, parts: str = "") -> dict[str, np.ndarray]:
    """The layer-th MoE layer's tensors whose names begin with `parts` ("": all, "router"), under the names of a one-layer model."""
    prefix = f"layers.{config.moe_layers[layer]}.moe."
    return {PREFIX + name.removeprefix(prefix): np.asarray(tensors[name]) for name in tensors if name.startswith(prefix + parts)}
