"""Strict reading of a config.json: every field typed and bounded, every unknown key an error. Used by the families' `parse`."""

from __future__ import annotations

import math
import sys
from typing import Any, Dict, Iterable, Mapping, Optional, Tuple

# Keys that change nothing in inference: bookkeeping, training, generation defaults.
INERT = frozenset(
    "architectures model_type transformers_version _name_or_path attention_dropout initializer_range use_cache output_router_logits "
    "router_aux_loss_coef router_jitter_noise max_window_layers return_dict output_hidden_states output_attentions chunk_size_feed_forward "
    "id2label label2id problem_type is_encoder_decoder _experts_implementation _attn_implementation use_bidirectional_attention".split()
)
SHARED = frozenset(
    "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads head_dim hidden_act "
    "max_position_embeddings rms_norm_eps rope_parameters rope_theta rope_scaling tie_word_embeddings sliding_window num_experts "
    "num_local_experts num_experts_per_tok eos_token_id bos_token_id pad_token_id dtype torch_dtype".split()
)
# Far above any model. A larger count is damage, and the list of its tensors would not fit into memory.
LIMITS = {"num_hidden_layers": 1024, "num_experts": 4096, "num_local_experts": 4096, "n_routed_experts": 4096}


class ConfigError(ValueError):
    """A config that cannot be trusted. Names the field."""

    def __init__(self, key: str, message: str):
        super().__init__(f"config field {key!r}: {message}")


class Fields:
    """A config.json with typed access. `allowed`: the family's own keys on top of SHARED and INERT."""

    def __init__(self, raw: Mapping[str, Any], allowed: Iterable[str] = ()):
        self.raw = raw
        for key in sorted(set(raw) - INERT - SHARED - set(allowed)):
            raise ConfigError(key, f"unknown key (value {raw[key]!r}); it may change the maths, so it is not ignored")

    def integer(self, key: str, minimum: int = 1, default: Optional[int] = None) -> int:
        value = self.raw.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ConfigError(key, f"expected an integer >= {minimum}, got {value!r}" if key in self.raw else "missing")
        if value > LIMITS.get(key, value):
            raise ConfigError(key, f"expected at most {LIMITS[key]}, got {value}")
        return value

    def optional_integer(self, key: str, minimum: int = 0) -> Optional[int]:
        return None if self.raw.get(key) is None else self.integer(key, minimum)

    def positive(self, key: str, value: Any = None) -> float:
        value = self.raw.get(key) if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= sys.float_info.max:
            raise ConfigError(key, f"expected a finite number > 0, got {value!r}")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self.raw.get(key, default)
        if not isinstance(value, bool):
            raise ConfigError(key, f"expected true or false, got {value!r}")
        return value

    def ids(self, key: str) -> Tuple[int, ...]:
        """One id, a list of ids or null."""
        value = self.raw.get(key)
        values = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values):
            raise ConfigError(key, f"expected token ids, got {value!r}")
        return tuple(values)

    def num_experts(self) -> int:
        """`num_local_experts`, `num_experts` or `n_routed_experts`: transformers 5 writes the first for all, older versions any."""
        found = {key: self.integer(key) for key in ("num_local_experts", "num_experts", "n_routed_experts") if key in self.raw}
        if len(set(found.values())) > 1:
            raise ConfigError("num_experts", f"contradictory: {found}")
        return next(iter(found.values())) if found else self.integer("num_local_experts")

    def full_attention(self) -> None:
        """For families whose windows alternate between layers, which is not supported: no layer has one."""
        kinds = self.raw.get("layer_types")
        if kinds is not None and (not isinstance(kinds, list) or set(kinds) != {"full_attention"}):
            raise ConfigError("layer_types", f"only full attention is supported in every layer, got {kinds!r}")

    def bias(self, key: str, parts: str, default: bool) -> Tuple[str, ...]:
        """`attention_bias` of a ModelConfig: `parts` if the flag is set."""
        return tuple(parts) if self.boolean(key, default) else ()

    def rope_theta(self) -> float:
        """From `rope_parameters` (transformers 5) or flat `rope_theta` (before). Only the default RoPE is supported."""
        nested = self.raw.get("rope_parameters")
        if self.raw.get("rope_scaling") is not None:
            raise ConfigError("rope_scaling", f"only the default RoPE is supported, got {self.raw['rope_scaling']!r}")
        if nested is None:
            return self.positive("rope_theta")
        if not isinstance(nested, dict):
            raise ConfigError("rope_parameters", f"expected an object, got {nested!r}")
        extra = set(nested) - {"rope_type", "rope_theta", "type"}
        if extra or nested.get("rope_type", nested.get("type", "default")) != "default":
            raise ConfigError("rope_parameters", f"only the default RoPE is supported, got {nested!r}")
        theta = self.positive("rope_parameters.rope_theta", nested.get("rope_theta", math.nan))
        if self.raw.get("rope_theta", theta) != theta:
            raise ConfigError("rope_theta", f"contradicts rope_parameters: {self.raw['rope_theta']!r} against {theta!r}")
        return theta

    def dtype(self) -> str:
        value = self.raw.get("dtype", self.raw.get("torch_dtype"))
        if self.raw.get("torch_dtype", value) != value:
            raise ConfigError("dtype", f"contradictory: {value!r} and torch_dtype {self.raw['torch_dtype']!r}")
        if value not in ("float32", "bfloat16", "float16"):
            raise ConfigError("dtype", f"expected float32, bfloat16 or float16, got {value!r}")
        return value

    def activation(self) -> None:
        if self.raw.get("hidden_act", "silu") != "silu":
            raise ConfigError("hidden_act", f"only silu is supported, got {self.raw['hidden_act']!r}")

    def attention(self) -> Dict[str, int]:
        """Head counts, checked against each other. `head_dim` defaults to hidden_size / num_attention_heads."""
        hidden, heads, kv_heads = (self.integer(k) for k in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
        head_dim = self.optional_integer("head_dim", 2) or hidden // heads
        if heads % kv_heads:
            raise ConfigError("num_key_value_heads", f"{heads} attention heads are not a multiple of {kv_heads}")
        if self.raw.get("head_dim") is None and hidden % heads:
            raise ConfigError("num_attention_heads", f"hidden_size {hidden} is not a multiple of {heads} and head_dim is not given")
        if head_dim % 2:
            raise ConfigError("head_dim", f"RoPE needs an even head size, got {head_dim}")
        return {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim}

    def experts(self) -> Tuple[int, int]:
        """(E, K), K <= E."""
        E, K = self.num_experts(), self.integer("num_experts_per_tok")
        if K > E:
            raise ConfigError("num_experts_per_tok", f"{K} of {E} experts")
        return E, K

    def common(self) -> Dict[str, Any]:
        """The ModelConfig fields that every family reads alike."""
        self.activation()
        bos, pad = self.optional_integer("bos_token_id"), self.optional_integer("pad_token_id")
        return dict(
            self.attention(),
            architecture=self.raw["architectures"][0],
            vocab_size=self.integer("vocab_size"),
            intermediate_size=self.integer("intermediate_size"),
            num_hidden_layers=self.integer("num_hidden_layers"),
            max_position_embeddings=self.integer("max_position_embeddings"),
            rms_norm_eps=self.positive("rms_norm_eps"),
            rope_theta=self.rope_theta(),
            tie_word_embeddings=self.boolean("tie_word_embeddings", False),
            eos_token_ids=self.ids("eos_token_id"),
            bos_token_id=bos,
            pad_token_id=pad,
            dtype=self.dtype(),
        )
