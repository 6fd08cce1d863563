"""Checkpoint -> network, streamed: one source tensor at a time goes into its region of one canonical tensor, cast and moved on the way. And
routers by themselves, of families whose models are not here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Mapping

import numpy as np
import torch
from torch import Tensor

from moe_harness.implementations.checkpoint.checkpoint import HEAD, Checkpoint
from moe_harness.implementations.common.torch.values import routing_of, states, to_torch
from moe_harness.implementations.interface import DTYPES, InvalidInput, LoadSpec, RouterWeights, Routing, RoutingSpec, Unsupported
from moe_harness.implementations.native.cache import KVCache
from moe_harness.implementations.native.convert import layout_of
from moe_harness.implementations.native.linear import Linear, can_pack, linear
from moe_harness.implementations.native.model import NativeModel
from moe_harness.implementations.native.moe import (
    MLP,
    Experts,
    GroupedExperts,
    LoopExperts,
    MoE,
    Router,
    SharedExpert,
    least_rows,
    logits_dtype,
)
from moe_harness.implementations.native.network import Attention, Layer, Network, ProjectionNorm, RMSNorm, Rope

OPTIONS: Mapping[str, tuple[str, ...]] = {"pack": ("auto", "true", "false"), "experts": ("auto", "loop", "grouped")}


@dataclass(frozen=True)
class Plan:
    """What a LoadSpec comes down to. `pack`: oneDNN-packed weights (`linear.py`); `grouped`: one grouped product for all experts."""

    dtype: torch.dtype
    device: torch.device
    pack: bool
    grouped: bool


def load(path: str, spec: LoadSpec) -> NativeModel:
    """Raises CheckpointError, InvalidInput for a spec without sense, Unsupported for a device or option that this machine does not have."""
    plan = make_plan(spec)
    with Checkpoint(path, layout_of(path)) as checkpoint:
        config = checkpoint.config
        check_supported(config.routing)
        network = _Builder(checkpoint, plan).network(spec.max_length)
    return NativeModel(config, network, KVCache(config, spec.max_batch, spec.max_length, plan.dtype, plan.device))


def make_plan(spec: LoadSpec) -> Plan:
    if spec.dtype not in DTYPES:
        raise InvalidInput(f"dtype must be one of {', '.join(DTYPES)}, got {spec.dtype!r}")
    if spec.max_batch < 1 or spec.max_length < 1:
        raise InvalidInput(f"max_batch and max_length must be at least 1, got {spec.max_batch} and {spec.max_length}")
    options = _options(spec.options)
    dtype, device = getattr(torch, spec.dtype), _device(spec.device)
    # The loop reads only the chosen experts and wins on a CPU; on a GPU it would wait for the host in every layer.
    grouped = options["experts"] == "grouped" or (options["experts"] == "auto" and device.type == "cuda")
    packs = options["pack"] != "false" and can_pack(dtype, device)
    if options["pack"] == "true" and not packs:
        raise Unsupported(f"oneDNN does not pack {spec.dtype} weights on this {device.type}")
    return Plan(dtype, device, packs, grouped)


def _options(given: Mapping[str, str]) -> Dict[str, str]:
    for key, value in given.items():
        if key not in OPTIONS:
            raise InvalidInput(f"unknown option {key!r}; known: {', '.join(OPTIONS)}")
        if value not in OPTIONS[key]:
            raise InvalidInput(f"option {key!r} must be one of {', '.join(OPTIONS[key])}, got {value!r}")
    return {key: given.get(key, values[0]) for key, values in OPTIONS.items()}


def _device(name: str) -> torch.device:
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise Unsupported(f"device must be cpu, cuda or cuda:N, got {name!r}")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise Unsupported(f"no device {name!r}: torch finds {torch.cuda.device_count()} CUDA devices")
    return torch.device(name)


def check_supported(routing: RoutingSpec) -> None:
    if routing.scoring not in ("softmax", "sigmoid") or routing.scoring_dtype != "float32":
        raise Unsupported(f"{routing.scoring} scores in {routing.scoring_dtype}")


def make_router(spec: RoutingSpec, plan: Plan, weight_ED: Tensor, bias_E: Tensor | None, correction_E: Tensor | None) -> Router:
    """Weight and bias in the plan's dtype, the correction in float32, all on the plan's device."""
    dtype = logits_dtype(spec, plan.dtype)
    packed = plan.pack if dtype == plan.dtype else plan.pack and can_pack(dtype, plan.device)
    return Router(linear(weight_ED.to(dtype), None if bias_E is None else bias_E.to(dtype), packed), spec, dtype, correction_E)


class _Builder:
    """Builds the parts of a network out of canonical tensors. At its peak it holds the parts made so far and one canonical tensor."""

    def __init__(self, checkpoint: Checkpoint, plan: Plan):
        self._checkpoint, self._plan, self._config = checkpoint, plan, checkpoint.config

    def network(self, max_length: int) -> Network:
        config, plan = self._config, self._plan
        embed_VD = self._tensor("embed.weight")
        layers = tuple(self._layer(i) for i in range(config.num_hidden_layers))
        head = embed_VD if config.tie_word_embeddings else self._tensor(HEAD)
        rope = Rope(max_length, config.head_dim, config.rope_theta, plan.dtype, plan.device)
        group = config.num_attention_heads // config.num_key_value_heads
        return Network(embed_VD, layers, self._norm("norm"), self._linear(head), rope, config.sliding_window, group)

    def _layer(self, i: int) -> Layer:
        layer = f"layers.{i}"
        ffn = self._moe(f"{layer}.moe") if i in self._config.moe_layers else self._mlp(f"{layer}.mlp")
        return Layer(self._norm(f"{layer}.attention_norm"), self._attention(f"{layer}.attention"), self._norm(f"{layer}.ffn_norm"), ffn)

    def _attention(self, name: str) -> Attention:
        config = self._config
        H, N = config.num_attention_heads, config.num_key_value_heads
        qkv, out = (self._fused(name, parts) for parts in (("q", "k", "v"), ("o",)))
        return Attention(qkv, out, self._qk_norm(name), H, N)

    def _fused(self, name: str, parts: tuple[str, ...]) -> Linear:
        """One linear map whose outputs are those of `parts`, one after the other. A part without a bias has zeros where another has one."""
        weights, biased = [self._tensor(f"{name}.{part}.weight") for part in parts], self._config.attention_bias
        bias = None
        if set(parts) & set(biased):
            bias = torch.cat([self._tensor(f"{name}.{p}.bias") if p in biased else w.new_zeros(len(w)) for p, w in zip(parts, weights)])
        return self._linear(torch.cat(weights), bias)

    def _qk_norm(self, name: str) -> RMSNorm | ProjectionNorm | None:
        """Over heads: q's weight for each query head, k's for each key head, [H + N, P]."""
        if self._config.qk_norm == "none":
            return None
        if self._config.qk_norm == "projection":
            return ProjectionNorm(self._norm(f"{name}.q_norm"), self._norm(f"{name}.k_norm"))
        heads = {"q": self._config.num_attention_heads, "k": self._config.num_key_value_heads}
        weights = [self._tensor(f"{name}.{part}_norm.weight").expand(count, -1) for part, count in heads.items()]
        return RMSNorm(torch.cat(weights), self._config.rms_norm_eps)

    def _moe(self, name: str) -> MoE:
        shared = None if self._config.shared_expert == "none" else self._shared(f"{name}.shared")
        return MoE(self._router(f"{name}.router"), self._experts(f"{name}.gate_up.weight", f"{name}.down.weight"), shared)

    def _router(self, name: str) -> Router:
        spec = self._config.routing
        bias_E = self._tensor(f"{name}.bias") if spec.router_bias else None
        correction_E = self._tensor(f"{name}.correction_bias", torch.float32) if spec.correction_bias else None
        return make_router(spec, self._plan, self._tensor(f"{name}.weight"), bias_E, correction_E)

    def _shared(self, name: str) -> SharedExpert:
        gate = self._linear(self._tensor(f"{name}.gate.weight")) if self._config.shared_expert == "gated" else None
        return SharedExpert(self._mlp(name), gate, self._least_rows(self._config.shared_expert_intermediate_size))

    def _experts(self, gate_up: str, down: str) -> Experts:
        if self._plan.grouped:
            return GroupedExperts(self._tensor(gate_up), self._tensor(down))
        gate_ups = [self._linear(weight) for weight in self._tensor(gate_up)]
        experts = tuple(MLP(g, self._linear(d)) for g, d in zip(gate_ups, self._tensor(down), strict=True))
        return LoopExperts(experts, self._least_rows(self._config.moe_intermediate_size))

    def _least_rows(self, inner: int) -> int:
        plan = self._plan
        return least_rows(plan.dtype, plan.device, plan.pack, self._config.hidden_size, inner)

    def _mlp(self, name: str) -> MLP:
        return MLP(self._linear(self._tensor(f"{name}.gate_up.weight")), self._linear(self._tensor(f"{name}.down.weight")))

    def _norm(self, name: str) -> RMSNorm:
        return RMSNorm(self._tensor(f"{name}.weight"), self._config.rms_norm_eps)

    def _linear(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> Linear:
        """Packed where the plan says so, which copies: a tied head then exists twice, as rows to look up and as a matrix to multiply by."""
        return linear(weight_OI, bias_O, packed=self._plan.pack)

    def _tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A canonical tensor on the device, in the plan's dtype or another, filled region by region."""
        checkpoint = self._checkpoint
        target = torch.empty(checkpoint.shape(name), dtype=dtype or self._plan.dtype, device=self._plan.device)
        for placement in checkpoint.placements(name):
            target[placement.region].copy_(to_torch(checkpoint.source(placement.source)))
        return target


class NativeRouter:
    """`Router` of the contract."""

    def __init__(self, router: Router, hidden_size: int, plan: Plan):
        self._router, self._hidden_size, self._plan = router, hidden_size, plan

    @torch.inference_mode()
    def route(self, x_TD: np.ndarray) -> Routing:
        x = states(x_TD, self._hidden_size, self._plan.dtype, self._plan.device)
        return routing_of([self._router(x)], np.ones(len(x), bool), self._router.spec)


def build(spec: RoutingSpec, weights: RouterWeights, load: LoadSpec) -> NativeRouter:
    """Raises Unsupported for scores that are not computed here, InvalidInput for weights that do not fit the spec or a bad LoadSpec."""
    check_supported(spec)
    plan = make_plan(load)
    E, D = spec.num_experts, weights.weight_ED.shape[-1]
    weight_ED = _tensor("weight", weights.weight_ED, (E, D)).to(plan.device, plan.dtype)
    bias_E = _optional("bias", weights.bias_E, spec.router_bias, E)
    correction_E = _optional("correction_bias", weights.correction_bias_E, spec.correction_bias, E)
    bias_E = None if bias_E is None else bias_E.to(plan.device, plan.dtype)
    correction_E = None if correction_E is None else correction_E.to(plan.device)
    return NativeRouter(make_router(spec, plan, weight_ED, bias_E, correction_E), D, plan)


def _optional(name: str, values_E: np.ndarray | None, wanted: bool, E: int) -> Tensor | None:
    if wanted != (values_E is not None):
        raise InvalidInput(f"router {name} is {'missing' if wanted else 'not part of the RoutingSpec'}")
    return None if values_E is None else _tensor(name, values_E, (E,))


def _tensor(name: str, values: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    if values.shape != shape:
        raise InvalidInput(f"router {name} of shape {values.shape}, {shape} is expected")
    return torch.from_numpy(np.array(values, np.float32))
