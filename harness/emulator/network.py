"""The decoder of the subject: embedding, layers over the cache, final norm and head. Written over the seams; no state of its own.

Its proof of static shapes: it runs on two different inputs of one shape, and every array that is rounded on the way must have the same
shape in both. Its experts then run as a compiler would have them: all of them on all tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import zip_longest

import numpy as np

from moe_harness.emulator.cache import Cache, new_cache
from moe_harness.emulator.capacity import Capacity, drop
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.routing import route
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import ExpertJob, KeyView, RouterTensors, Routes, SharedSum, Step, Tables
from moe_harness.implementations.interface import GraphProof, ModelConfig, PinnedRouting


@dataclass(frozen=True)
class Network:
    """A model's float32 copies of its weights, each a value of `rounding.dtype`, by canonical name. The head is the embedding when tied."""

    config: ModelConfig
    tensors: dict[str, Array]
    rounding: Rounding
    seams: Seams
    capacity: Capacity = Capacity()

    def forward(self, step: Step, cache: Cache, pinned: PinnedRouting | None) -> tuple[Array, list[Routes]]:
        """(hidden_BSD before the final norm, routing of each MoE layer). Appends to the cache."""
        cache.reserve(step.positions_BS, step.valid_BS, step.segment_BS)
        tables = self.seams.attention.rope_tables(step.positions_BS, self.config, self.rounding)
        hidden_BSD, records = self.seams.network.embed(self.tensors["embed.weight"], step.ids_BS, step.valid_BS), []
        for layer in range(self.config.num_hidden_layers):
            normed_BSD = self._norm(layer, "attention_norm", hidden_BSD)
            hidden_BSD = self._add(hidden_BSD, self._attention(layer, normed_BSD, step, tables, cache))
            update_BSD, routes = self._feed_forward(layer, hidden_BSD, step, pinned)
            hidden_BSD = self._add(hidden_BSD, update_BSD)
            records += [routes] if routes else []
        return hidden_BSD, records

    def logits(self, hidden: Array) -> Array:
        """Final norm and head of hidden states (..., D), float32."""
        normed = self.seams.network.final_norm(hidden, self.tensors["norm.weight"], self._epsilon, self.rounding)
        tied = self.config.tie_word_embeddings and "lm_head.weight" not in self.tensors
        return self.seams.network.head(normed, self.tensors["embed.weight" if tied else "lm_head.weight"], self.rounding, self.seams)

    def route(self, moe_layer: int, x_TD: Array, pinned: PinnedRouting | None = None) -> Routes:
        """`pinned` has L = 1."""
        prefix = f"layers.{self.config.moe_layers[moe_layer]}.moe.router."
        tensors = RouterTensors(*(self.tensors.get(prefix + part) for part in ("weight", "bias", "correction_bias")))  # type: ignore[arg-type]
        return route(x_TD, tensors, self.config.routing, self.rounding, self.seams, pinned)

    def moe_block(self, moe_layer: int, x_TD: Array, routes: Routes, valid_T: Array) -> Array:
        """y_TD of the experts under `routes` and of the shared one, without the residual."""
        layer = self.config.moe_layers[moe_layer]
        weights = (self._tensor(layer, "moe.gate_up.weight"), self._tensor(layer, "moe.down.weight"))
        job = ExpertJob(x_TD, routes.ids_TK, routes.weights_TK, valid_T, *weights, self.rounding)
        y_TKD = self.seams.experts.run_experts(job, self.seams)
        if routes.dropped_TK is not None:
            y_TKD = self.seams.capacity.hand_back(y_TKD, x_TD, routes.dropped_TK)
        routed_TD = self.seams.experts.combine(y_TKD, routes.weights_TK, routes.ids_TK, self.rounding)
        return routed_TD if self.config.shared_expert == "none" else self._with_shared(layer, x_TD, routed_TD, routes)

    def _with_shared(self, layer: int, x_TD: Array, routed_TD: Array, routes: Routes) -> Array:
        seams, rounding = self.seams, self.rounding
        x_TD, gate_T1 = seams.experts.shared_input(x_TD, routed_TD), None
        weights = (self._tensor(layer, "moe.shared.gate_up.weight"), self._tensor(layer, "moe.shared.down.weight"))
        if self.config.shared_expert == "gated":
            gate_T1 = seams.experts.shared_gate(x_TD, self._tensor(layer, "moe.shared.gate.weight"), rounding, seams)
        shared_TD = seams.experts.shared_mlp(x_TD, *weights, rounding, seams)
        return seams.experts.add_shared(SharedSum(routed_TD, shared_TD, gate_T1, routes.weights_TK, self.config.routing, rounding))

    def _feed_forward(self, layer: int, hidden_BSD: Array, step: Step, pinned: PinnedRouting | None) -> tuple[Array, Routes | None]:
        normed_BSD = self._norm(layer, "ffn_norm", hidden_BSD)
        if layer not in self.config.moe_layers:
            gate_up, down = self._tensor(layer, "mlp.gate_up.weight"), self._tensor(layer, "mlp.down.weight")
            return self.seams.experts.dense_mlp(normed_BSD, gate_up, down, self.rounding, self.seams), None
        index, D = self.config.moe_layers.index(layer), self.config.hidden_size
        x_TD = normed_BSD.reshape(-1, D)
        router_x_TD = self.seams.router.router_input(x_TD, hidden_BSD.reshape(-1, D))
        router = self.seams.router
        routes = self.route(router.router_layer(index, len(self.config.moe_layers)), router_x_TD, router.pinned_layer(pinned, index))
        if self.seams.capacity.has_capacity(step):
            routes = self.drop(routes, step.valid_BS.ravel(), pinned)
        return self.moe_block(index, x_TD, routes, step.valid_BS.ravel()).reshape(hidden_BSD.shape), routes

    def drop(self, routes: Routes, valid_T: Array, pinned: PinnedRouting | None) -> Routes:
        """What a capacity leaves of the routes of a prefill."""
        final = pinned is not None and pinned.topk_weights_LTK is not None
        return drop(routes, self.capacity, valid_T, self.config.routing, self.rounding, self.seams, final)

    def _attention(self, layer: int, x_BSD: Array, step: Step, tables: Tables, cache: Cache) -> Array:
        seams, config = self.seams, self.config
        q, k, v = (self._project(layer, part, x_BSD) for part in "qkv")
        heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        q, k, v = (x.reshape(*x.shape[:2], n, config.head_dim) for x, n in zip((q, k, v), heads, strict=True))
        q, k = (
            seams.attention.position_heads(
                x, self.tensors.get(f"layers.{layer}.attention.{part}_norm.weight"), self._epsilon, tables, self.rounding, seams
            )
            for x, part in ((q, "q"), (k, "k"))
        )
        seams.cache.append(cache, layer, k.swapaxes(1, 2), v.swapaxes(1, 2))
        context_BHQP = self._attend(layer, q.swapaxes(1, 2), step, cache)
        return self._project(layer, "o", context_BHQP.swapaxes(1, 2).reshape(*x_BSD.shape[:2], -1))

    def _attend(self, layer: int, q_BHQP: Array, step: Step, cache: Cache) -> Array:
        seams, config, M = self.seams, self.config, cache.used
        slots = (cache.position_BM[:, :M], cache.valid_BM[:, :M], step.segment_BS, cache.segment_BM[:, :M])
        view = KeyView(step.positions_BS, *slots, config.sliding_window, step.decoding)
        groups = config.num_attention_heads // config.num_key_value_heads
        keys, values = (seams.attention.repeat_kv(x[layer][:, :, :M], groups) for x in (cache.keys, cache.values))
        mask_BQM, scale = seams.attention.visible_keys(view), seams.attention.attention_scale(config)
        return seams.attention.attend(q_BHQP, keys, values, mask_BQM, scale, self.rounding)

    def _project(self, layer: int, part: str, x: Array) -> Array:
        weight, bias = self._tensor(layer, f"attention.{part}.weight"), self.tensors.get(f"layers.{layer}.attention.{part}.bias")
        return self.seams.network.linear(x, weight, bias, self.rounding)

    def _norm(self, layer: int, name: str, x: Array) -> Array:
        return self.seams.network.norm(x, self._tensor(layer, f"{name}.weight"), self._epsilon, self.rounding)

    def _add(self, hidden_BSD: Array, update_BSD: Array) -> Array:
        return self.seams.network.add_residual(hidden_BSD, update_BSD, self.rounding)

    @property
    def _epsilon(self) -> float:
        return self.seams.network.epsilon(self.config)

    def _tensor(self, layer: int, name: str) -> Array:
        return self.tensors[f"layers.{layer}.{name}"]


@dataclass(frozen=True)
class Recorder(Rounding):
    """A rounding that notes the shapes it sees."""

    seen: list[tuple[int, ...]] = field(default_factory=list, compare=False)

    def __call__(self, x: Array) -> Array:
        self.seen.append(np.shape(x))
        return super().__call__(x)


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
