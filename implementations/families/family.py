"""What a family is: HF config <-> ModelConfig, and HF tensor names <-> canonical tensors. Shared by every `families/<family>.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, Tuple

from implementations.interface import ModelConfig
from implementations.weights import Placement, canonical_shapes

ATTENTION_NAMES = {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}


@dataclass(frozen=True)
class Family:
    """`parse`: HF config.json -> ModelConfig, raising ConfigError. `to_hf`: the inverse, which transformers 5 reads. `block`: the MoE
    block's name inside a layer on disk; `expert_parts`: its names for gate, up, down. `public`: config.json of well-known models."""

    name: str
    architecture: str
    parse: Callable[[Mapping[str, Any]], ModelConfig]
    to_hf: Callable[[ModelConfig], Dict[str, Any]]
    block: str
    expert_parts: Tuple[str, str, str]
    public: Mapping[str, Dict[str, Any]]

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
        if part == "moe.router.weight":
            yield Placement(f"{block}.gate.weight", name, (), shape)
            return
        for e in range(shape[0]):
            expert = f"{block}.experts.{e}.{{part}}.weight"
            if part == "moe.down.weight":
                yield Placement(expert.format(part=down), name, (e,), shape[1:])
            else:
                yield from _halves(expert, (gate, up), name, shape[1:], (e,))


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
