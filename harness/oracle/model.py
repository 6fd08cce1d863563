"""The whole model in float64 over one unpadded sequence, with every MoE layer's input and routing in view.

Legend: S sequence, L MoE layers, E experts, K top-k, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moe_harness.implementations.interface import ModelConfig
from moe_harness.oracle import routing
from moe_harness.oracle.layers import attention, moe, rms_norm, swiglu
from moe_harness.oracle.memo import Memo


@dataclass(frozen=True)
class OracleOutput:
    """`x_LSD`: what each router and MoE block is given (after the post-attention norm); `y_LSD`: what the block returns."""

    logits_SV: np.ndarray
    x_LSD: np.ndarray
    y_LSD: np.ndarray
    router_logits_LSE: np.ndarray
    topk_ids_LSK: np.ndarray
    topk_weights_LSK: np.ndarray


class Oracle:
    """`tensors`: canonical name -> array of any float dtype, read on demand and cast to float64 one tensor (one expert) at a time; they
    must not change. Arrays of `forward`, `route`, `moe_block` and `combine` may be read-only: an answer is kept for whoever asks again."""

    def __init__(self, config: ModelConfig, tensors: Mapping[str, np.ndarray]):
        self.config, self.tensors, self.memo = config, tensors, Memo()

    def forward(
        self,
        input_ids: Sequence[int] | np.ndarray,
        pinned_ids_LSK: np.ndarray | None = None,
        pinned_weights_LSK: np.ndarray | None = None,
    ) -> OracleOutput:
        """All logits of one sequence. `pinned_ids_LSK`: use these experts; with `pinned_weights_LSK` with these weights, else with those
        of the oracle's own scores."""
        return self.memo(self._forward, np.asarray(input_ids), pinned_ids_LSK, pinned_weights_LSK)

    def _forward(self, ids_S: np.ndarray, pinned_ids_LSK: np.ndarray | None, pinned_weights_LSK: np.ndarray | None) -> OracleOutput:
        h_SD = self.tensors["embed.weight"][ids_S].astype(np.float64)
        seen: list[tuple[np.ndarray, ...]] = []
        for i in range(self.config.num_hidden_layers):
            h_SD = h_SD + attention(self._norm(h_SD, f"layers.{i}.attention_norm.weight"), self._attention_weights(i), self.config)
            x_SD = self._norm(h_SD, f"layers.{i}.ffn_norm.weight")
            if i in self.config.moe_layers:
                pinned = (None if p is None else p[len(seen)] for p in (pinned_ids_LSK, pinned_weights_LSK))
                seen.append((x_SD, *self._moe_block(len(seen), x_SD, *pinned)))
                h_SD = h_SD + seen[-1][1]
            else:
                h_SD = h_SD + swiglu(x_SD, self._float64(f"layers.{i}.mlp.gate_up.weight"), self._float64(f"layers.{i}.mlp.down.weight"))
        x, y, logits, ids, weights = (np.stack(part) for part in zip(*seen, strict=True))
        return OracleOutput(self._head(h_SD), x, y, logits, ids, weights)

    def route(self, layer: int, x_TD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(logits_TE, ids_TK, weights_TK) of the layer-th MoE layer's router on given hidden states."""
        return self.memo(self._route, layer, x_TD)

    def _route(self, layer: int, x_TD: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        spec = self.config.routing
        logits_TE = routing.router_logits(x_TD, self.router_weight(layer), self.router_bias(layer))
        ids_TK = routing.select(self.ranking(layer, logits_TE), spec)
        return logits_TE, ids_TK, routing.combine_weights(logits_TE, ids_TK, spec)

    def ranking(self, layer: int, logits_TE: np.ndarray) -> np.ndarray:
        """What the layer-th MoE layer's selection ranks, from its router logits."""
        return routing.ranking(logits_TE, self.config.routing, self.correction(layer))

    def correction(self, layer: int) -> np.ndarray | None:
        """correction_bias_E of the layer-th MoE layer, float64, or None."""
        return self._router_tensor(layer, "correction_bias")

    def moe_block(
        self, layer: int, x_TD: np.ndarray, pinned_ids_TK: np.ndarray | None = None, pinned_weights_TK: np.ndarray | None = None
    ) -> tuple[np.ndarray, ...]:
        """(y_TD, logits_TE, ids_TK, weights_TK) of the layer-th MoE block."""
        return self.memo(self._moe_block, layer, x_TD, pinned_ids_TK, pinned_weights_TK)

    def _moe_block(
        self, layer: int, x_TD: np.ndarray, pinned_ids_TK: np.ndarray | None, pinned_weights_TK: np.ndarray | None
    ) -> tuple[np.ndarray, ...]:
        logits_TE, ids_TK, weights_TK = self._route(layer, x_TD)
        if pinned_ids_TK is not None:
            ids_TK = pinned_ids_TK
            weights_TK = routing.combine_weights(logits_TE, ids_TK, self.config.routing)
        weights_TK = weights_TK if pinned_weights_TK is None else pinned_weights_TK
        return self._combine(layer, x_TD, ids_TK, weights_TK), logits_TE, ids_TK, weights_TK

    def combine(self, layer: int, x_TD: np.ndarray, ids_TK: np.ndarray, weights_TK: np.ndarray) -> np.ndarray:
        """y_TD of the layer-th MoE layer for a given routing: its experts, and the shared one where there is one."""
        return self.memo(self._combine, layer, x_TD, ids_TK, weights_TK)

    def _combine(self, layer: int, x_TD: np.ndarray, ids_TK: np.ndarray, weights_TK: np.ndarray) -> np.ndarray:
        prefix, x_TD = f"layers.{self.config.moe_layers[layer]}.moe", x_TD.astype(np.float64)
        gate_up, down = self.tensors[f"{prefix}.gate_up.weight"], self.tensors[f"{prefix}.down.weight"]
        y_TD = moe(x_TD, ids_TK, weights_TK, gate_up, down)
        return y_TD if self.config.shared_expert == "none" else y_TD + self.shared(layer, x_TD)

    def shared(self, layer: int, x_TD: np.ndarray) -> np.ndarray:
        """y_TD of the layer-th MoE layer's shared expert, its gate applied (Qwen1.5-MoE: sigmoid(w x) * expert(x))."""
        prefix = f"layers.{self.config.moe_layers[layer]}.moe.shared"
        y_TD = swiglu(x_TD, self._float64(f"{prefix}.gate_up.weight"), self._float64(f"{prefix}.down.weight"))
        if self.config.shared_expert == "ungated":
            return y_TD
        return y_TD / (1.0 + np.exp(-(x_TD @ self._float64(f"{prefix}.gate.weight").T)))

    def router_weight(self, layer: int) -> np.ndarray:
        """w_ED of the layer-th MoE layer, float64."""
        return self._float64(f"layers.{self.config.moe_layers[layer]}.moe.router.weight")

    def router_bias(self, layer: int) -> np.ndarray | None:
        """bias_E on the layer-th MoE layer's router logits, float64, or None."""
        return self._router_tensor(layer, "bias")

    def _router_tensor(self, layer: int, name: str) -> np.ndarray | None:
        full = f"layers.{self.config.moe_layers[layer]}.moe.router.{name}"
        return self._float64(full) if full in self.tensors else None

    def _attention_weights(self, i: int) -> dict[str, np.ndarray]:
        prefix = f"layers.{i}.attention."
        return {name.removeprefix(prefix): self._float64(name) for name in self.tensors if name.startswith(prefix)}

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return rms_norm(x, self._float64(name), self.config.rms_norm_eps)

    def _head(self, h_SD: np.ndarray) -> np.ndarray:
        name = "embed.weight" if self.config.tie_word_embeddings else "lm_head.weight"
        return self._norm(h_SD, "norm.weight") @ self._float64(name).T

    def _float64(self, name: str) -> np.ndarray:
        return self.tensors[name].astype(np.float64)
