"""Checkpoint -> the modules of one process. Tensors are read one at a time, in part where a process needs only a part."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from moe_harness.implementations.checkpoint.checkpoint import Checkpoint, hf_layout
from moe_harness.implementations.common.torch.values import to_torch
from moe_harness.implementations.interface import DTYPES, InvalidInput, LoadSpec, ModelConfig, RoutingSpec, Unsupported
from moe_harness.implementations.neuron.attention import Attention, KVCache
from moe_harness.implementations.neuron.decoder import Decoder, Layer
from moe_harness.implementations.neuron.device import INSTALL, KIND, missing
from moe_harness.implementations.neuron.directory import Directory, is_neuron
from moe_harness.implementations.neuron.layers import ColumnParallelLinear, ParallelEmbedding, RMSNorm, Rope, RowParallelLinear
from moe_harness.implementations.neuron.layout import HEAD, assemble, heads_of, layout, local_name
from moe_harness.implementations.neuron.mesh import Mesh
from moe_harness.implementations.neuron.moe import MLP, Experts, MoE, Router, SharedExpert
from moe_harness.implementations.neuron.settings import Rule, Settings, Variant

Read = Callable[[str], np.ndarray]  # name of a process's tensor -> as stored


@dataclass(frozen=True)
class Plan:
    """What a LoadSpec and a variant come down to."""

    variant: Variant
    settings: Settings
    dtype: torch.dtype
    device: torch.device
    max_batch: int
    max_length: int

    @property
    def router_dtype(self) -> torch.dtype:
        return self.dtype if self.settings.router_dtype == "model" else torch.float32

    def limited(self, capacity_factor: float) -> Plan:
        return replace(self, settings=replace(self.settings, capacity_factor=capacity_factor))


def make_plan(variant: Variant, spec: LoadSpec) -> Plan:
    """Raises InvalidInput for a spec without sense, Unsupported for a device that this machine does not have."""
    if spec.dtype not in DTYPES:
        raise InvalidInput(f"dtype must be one of {', '.join(DTYPES)}, got {spec.dtype!r}")
    if spec.max_batch < 1 or spec.max_length < 1:
        raise InvalidInput(f"max_batch and max_length must be at least 1, got {spec.max_batch} and {spec.max_length}")
    if spec.device not in ("cpu", KIND):
        raise Unsupported(f"device must be cpu or {KIND}, got {spec.device!r}")
    if spec.device == KIND and (absent := missing()):
        raise Unsupported(f"no Neuron device: {absent}; {INSTALL}")
    settings = Settings.parse({**variant.options, **spec.options})
    if settings.compile == "device":
        settings = replace(settings, compile=KIND if spec.device == KIND else "aot_eager")
    if variant.nxd and settings.compile != "none":
        raise InvalidInput("option 'compile' is a backend of torch.compile; the variant nxd has a compiler of its own")
    if variant.nxd and settings.on_device_sampling:
        raise InvalidInput("option 'on_device_sampling': with the variant nxd tokens are chosen on the host")
    if settings.compiled and not variant.nxd:
        raise InvalidInput("option 'compiled' is for the variant nxd")
    return Plan(variant, settings, getattr(torch, spec.dtype), torch.device(spec.device), spec.max_batch, spec.max_length)


def build(path: str, plan: Plan, mesh: Mesh) -> tuple[ModelConfig, Decoder, KVCache]:
    """The part of `mesh`'s process, from an HF or a Neuron directory. Raises CheckpointError, Unsupported for what is not built here, does
    not divide, or was converted for other processes."""
    with _open(path, mesh) as (config, read, capacity_factor):
        check_supported(config)
        plan = plan if capacity_factor is None or plan.settings.capacity_factor else plan.limited(capacity_factor)
        decoder = _Builder(config, plan, mesh, read).decoder()
    shape = (plan.max_batch, len(heads_of(config, mesh).kv), plan.max_length, config.head_dim)
    return config, decoder, KVCache(config.num_hidden_layers, shape, plan.dtype, plan.device)


@contextmanager
def _open(path: str, mesh: Mesh) -> Iterator[tuple[ModelConfig, Read, float | None]]:
    """Config, tensors, and the capacity factor that neuron_config.json asks for: an option says otherwise."""
    if is_neuron(path):
        with Directory(path) as directory:
            if (directory.mesh.tp, directory.mesh.ep) != (mesh.tp, mesh.ep):
                raise Unsupported(
                    f"{path} was converted for tp {directory.mesh.tp} and ep {directory.mesh.ep}, not {mesh.tp} and {mesh.ep}"
                )
            yield directory.config, lambda name: directory.fused(mesh.rank, name), directory.neuron.capacity_factor
    else:
        with Checkpoint(path, hf_layout) as checkpoint:
            locals_ = layout(checkpoint.family, checkpoint.config, checkpoint.stored_head, mesh)
            yield checkpoint.config, lambda name: assemble(locals_[name], checkpoint.source), None


def check_supported(config: ModelConfig) -> None:
    """Raises Unsupported."""
    if config.qk_norm == "projection":
        raise Unsupported("query and key norms over all heads together: every process would need all of them")
    if config.routing.router_bias:
        raise Unsupported("a model whose routers have biases")
    check_routable(config.routing)


def check_routable(spec: RoutingSpec) -> None:
    """Raises Unsupported."""
    if spec.scoring not in ("softmax", "sigmoid"):
        raise Unsupported(f"a router with {spec.scoring} scores")


class _Builder:
    def __init__(self, config: ModelConfig, plan: Plan, mesh: Mesh, read: Read):
        self._config, self._plan, self._mesh, self._read = config, plan, mesh, read
        self._heads = heads_of(config, mesh)

    def decoder(self) -> Decoder:
        config, plan = self._config, self._plan
        layers = [self._layer(i) for i in range(config.num_hidden_layers)]
        head = ColumnParallelLinear(self._tensor(HEAD), None, self._mesh, gather=True)
        rope = Rope(plan.max_length + 1, config.head_dim, config.rope_theta, plan.dtype, plan.device)
        return Decoder(ParallelEmbedding(self._tensor("embed.weight"), self._mesh), layers, self._norm("norm"), head, rope).eval()

    def _layer(self, i: int) -> Layer:
        name = f"layers.{i}"
        ffn = self._moe(f"{name}.moe") if i in self._config.moe_layers else self._mlp(f"{name}.mlp", self._mesh)
        return Layer(self._norm(f"{name}.attention_norm"), self._attention(f"{name}.attention"), self._norm(f"{name}.ffn_norm"), ffn)

    def _attention(self, name: str) -> Attention:
        bias = self._config.attention_bias
        qkv = ColumnParallelLinear(
            self._tensor(f"{name}.q.weight"), self._tensor(f"{name}.q.bias") if set(bias) & set("qkv") else None, self._mesh
        )
        out = RowParallelLinear(self._tensor(f"{name}.o.weight"), self._tensor(f"{name}.o.bias") if "o" in bias else None, self._mesh)
        norms = None if self._config.qk_norm == "none" else (self._norm(f"{name}.q_norm"), self._norm(f"{name}.k_norm"))
        return Attention(qkv, out, norms, len(self._heads.q), len(self._heads.kv))

    def _moe(self, name: str) -> MoE:
        plan, routing = self._plan, self._config.routing
        rule = Rule(routing.num_experts, routing.top_k, plan.settings.capacity_factor, plan.variant.path, plan.settings.block)
        gate_up, down = self._tensor(f"{name}.gate_up.weight"), self._tensor(f"{name}.down.weight")
        experts = Experts(gate_up, down, self._mesh.ep_rank * len(gate_up), rule.block)
        adds_shared = self._config.shared_expert != "none" and self._mesh.ep_rank == 0
        shared = self._shared(f"{name}.shared") if adds_shared else None
        return MoE(self._router(f"{name}.router"), experts, shared, rule, self._mesh, plan.settings.mask_padding)

    def _router(self, name: str) -> Router:
        correction_E = self._tensor(f"{name}.correction_bias", torch.float32) if self._config.routing.correction_bias else None
        return Router(self._config.routing, self._tensor(f"{name}.weight", self._plan.router_dtype), correction_E)

    def _shared(self, name: str) -> SharedExpert:
        """The block adds its part up together with the experts'."""
        gate = self._tensor(f"{name}.gate.weight") if self._config.shared_expert == "gated" else None
        return SharedExpert(self._mlp(name, Mesh()), gate)

    def _mlp(self, name: str, mesh: Mesh) -> MLP:
        gate_up = ColumnParallelLinear(self._tensor(f"{name}.gate_up.weight"), None, mesh)
        return MLP(gate_up, RowParallelLinear(self._tensor(f"{name}.down.weight"), None, mesh))

    def _norm(self, name: str) -> RMSNorm:
        return RMSNorm(self._tensor(f"{name}.weight"), self._config.rms_norm_eps)

    def _tensor(self, canonical: str, dtype: torch.dtype | None = None) -> Tensor:
        return to_torch(np.ascontiguousarray(self._read(local_name(canonical)))).to(self._plan.device, dtype or self._plan.dtype, copy=True)
