"""What a family is: HF config <-> ModelConfig, and HF tensor names <-> canonical tensors. Shared by every `families/<family>.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

from moe_harness.implementations.families.weights import Placement, canonical_shapes
from moe_harness.implementations.interface import ModelConfig, RoutingSpec

ATTENTION_NAMES = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
ROUTER_NAMES = {
    "moe.router.weight": "gate.weight",
    "moe.router.bias": "gate.bias",
    "moe.router.correction_bias": "gate.e_score_correction_bias",
}


@dataclass(frozen=True)
class Family:
    """`parse`: HF config.json -> ModelConfig, raising ConfigError. `to_hf`: the inverse, which transformers 5 reads. `block`: the MoE
    block's name inside a layer on disk; `expert_parts`: its names for gate, up, down; `shared`: its name for the shared expert. `public`:
    config.json of well-known models. `traits`: ModelConfig fields that all its models have alike, those of RoutingSpec under `routing`.
    `free`: what its config.json can say besides the fields common to all: head_dim (other than hidden_size / num_attention_heads),
    moe_intermediate_size (other than intermediate_size), normalize_topk, dense_layers (any), leading_dense_layers, sliding_window,
    attention_bias (of `bias_parts`, all or none), groups, scaling_factor."""

    name: str
    architecture: str
    parse: Callable[[Mapping[str, Any]], ModelConfig]
    to_hf: Callable[[ModelConfig], Dict[str, Any]]
    block: str
    expert_parts: Tuple[str, str, str]
    public: Mapping[str, Dict[str, Any]]
    traits: Mapping[str, Any] = field(default_factory=dict)
    free: Tuple[str, ...] = ()
    shared: str = "shared_expert"
    bias_parts: Tuple[str, ...] = ("q", "k", "v", "o")

    def layout(self, config: ModelConfig, stored_head: bool) -> List[Placement]:
        """Every HF tensor on disk, per-expert, and its place in the canonical tensors."""
        return list(self._placements(config, stored_head))

    def _placements(self, config: ModelConfig, stored_head: bool) -> Iterator[Placement]:
        for name, shape in canonical_shapes(config, stored_head).items():
            if ".moe." in name or ".mlp.gate_up" in name:
                yield from self._expert_placements(name, shape)
            else:
                yield Placement(hf_name(name), name, (), shape)

    def _expert_placements(self, name: str, shape: Tuple[int, ...]) -> Iterator[Placement]:
        layer, part = name.split(".")[1], name.split(".", 2)[2]
        gate, up, down = self.expert_parts
        if part == "mlp.gate_up.weight":
            yield from _halves(f"model.layers.{layer}.mlp.{{part}}.weight", ("gate_proj", "up_proj"), name, shape)
            return
        block = f"model.layers.{layer}.{self.block}"
        if part in ROUTER_NAMES:
            yield Placement(f"{block}.{ROUTER_NAMES[part]}", name, (), shape)
            return
        if part.startswith("moe.shared."):
            yield from self._shared_placements(block, part, name, shape)
            return
        for e in range(shape[0]):
            expert = f"{block}.experts.{e}.{{part}}.weight"
            if part == "moe.down.weight":
                yield Placement(expert.format(part=down), name, (e,), shape[1:])
            else:
                yield from _halves(expert, (gate, up), name, shape[1:], (e,))

    def _shared_placements(self, block: str, part: str, name: str, shape: Tuple[int, ...]) -> Iterator[Placement]:
        if part == "moe.shared.gate.weight":
            yield Placement(f"{block}.{self.shared}_gate.weight", name, (), shape)
        elif part == "moe.shared.down.weight":
            yield Placement(f"{block}.{self.shared}.down_proj.weight", name, (), shape)
        else:
            yield from _halves(f"{block}.{self.shared}.{{part}}.weight", ("gate_proj", "up_proj"), name, shape)


@dataclass(frozen=True)
class RoutingFamily:
    """A family of which only the router is described: it is judged through `RouterBuilder`, without a model. `parse` reads the routing keys
    of a config.json and raises ConfigError."""

    name: str
    parse: Callable[[Mapping[str, Any]], RoutingSpec]
    public: Mapping[str, Dict[str, Any]]


def _halves(pattern: str, parts: Tuple[str, str], name: str, shape: Tuple[int, ...], prefix: Tuple = ()) -> Iterator[Placement]:
    """gate fills the first half of the rows, up the second."""
    rows = shape[0] // 2
    for k, part in enumerate(parts):
        yield Placement(pattern.format(part=part), name, prefix + (slice(k * rows, (k + 1) * rows),), (rows,) + tuple(shape[1:]))


def hf_name(name: str) -> str:
    """HF's name of a canonical tensor outside the expert blocks (one for one, the same in every family so far)."""
    if name == "lm_head.weight":
        return name
    if not name.startswith("layers."):
        return "model." + name.replace("embed.", "embed_tokens.")
    _, layer, *rest = name.split(".")
    if rest[0] == "attention":
        rest = ["self_attn", rest[1] if rest[1].endswith("_norm") else rest[1] + "_proj", *rest[2:]]
    elif rest[0] == "mlp":
        rest = ["mlp", "down_proj", "weight"]
    else:
        rest = [ATTENTION_NAMES[rest[0]], *rest[1:]]
    return ".".join(["model.layers", layer, *rest])


def common_to_hf(config: ModelConfig) -> Dict[str, Any]:
    """The config.json fields that every family writes alike."""
    eos = list(config.eos_token_ids)
    return {
        "architectures": [config.architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "num_experts_per_tok": config.routing.top_k,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
        "pad_token_id": config.pad_token_id,
        "dtype": config.dtype,
    }
