"""The subject's model written down once more, token by token and head by head in float64: slow, and without grouping, cache or batch."""

from __future__ import annotations

import numpy as np

from moe_harness.emulator.subject import SubjectModel
from moe_harness.implementations.interface import RoutingSpec


def naive_moe(model: SubjectModel, layer: int, x_D: np.ndarray) -> np.ndarray:
    """One token in float64. Mixtral of Experts (2024), section 2.1; DeepSeek-V3 technical report, section 2.1.2 (sigmoid, correction,
    groups, scaling); without normalisation as Qwen3-MoE's norm_topk_prob says; the shared expert of Qwen1.5-MoE and DeepSeek-V3."""
    tensors, spec, prefix = model.network.tensors, model.config.routing, f"layers.{layer}.moe"
    logits = tensors[f"{prefix}.router.weight"] @ x_D
    scores = np.exp(logits) / np.exp(logits).sum() if spec.scoring == "softmax" else 1 / (1 + np.exp(-logits))
    chosen = naive_selection(scores + tensors.get(f"{prefix}.router.correction_bias", 0), spec)
    total = sum(scores[e] for e in chosen) if spec.normalize_topk else 1.0
    experts = ((e, tensors[f"{prefix}.gate_up.weight"][e], tensors[f"{prefix}.down.weight"][e]) for e in chosen)
    routed_D = sum(spec.scaling_factor * scores[e] / total * naive_mlp(gate_up, down, x_D) for e, gate_up, down in experts)
    return routed_D + naive_shared(model, f"{prefix}.shared", x_D)


def naive_selection(ranks: np.ndarray, spec: RoutingSpec) -> list[int]:
    size = spec.num_experts // spec.num_groups
    groups = [list(range(start, start + size)) for start in range(0, spec.num_experts, size)]
    best = sorted(groups, key=lambda group: -sum(sorted(ranks[group])[-2:]))[: spec.top_groups]
    return sorted((e for group in best for e in group), key=lambda e: -ranks[e])[: spec.top_k]


def naive_shared(model: SubjectModel, prefix: str, x_D: np.ndarray) -> np.ndarray | float:
    tensors = model.network.tensors
    if f"{prefix}.down.weight" not in tensors:
        return 0.0
    y_D = naive_mlp(tensors[f"{prefix}.gate_up.weight"], tensors[f"{prefix}.down.weight"], x_D)
    gate = tensors.get(f"{prefix}.gate.weight")
    return y_D if gate is None else y_D / (1 + np.exp(-(gate @ x_D)))


def naive_mlp(gate_up: np.ndarray, down: np.ndarray, x_D: np.ndarray) -> np.ndarray:
    gate, up = np.split(gate_up @ x_D, 2)
    return down @ (gate / (1 + np.exp(-gate)) * up)


def naive_logits(model: SubjectModel, ids_S: np.ndarray) -> np.ndarray:
    """The whole model token by token and head by head in float64, RoPE as a product of complex numbers (Su et al. 2021)."""
    config, tensors = model.config, model.network.tensors
    hidden_SD = tensors["embed.weight"][ids_S].astype(np.float64)
    for layer in range(config.num_hidden_layers):
        prefix = f"layers.{layer}."
        hidden_SD += naive_attention(model, prefix + "attention.", naive_norm(model, hidden_SD, prefix + "attention_norm.weight"))
        for x_D, hidden_D in zip(naive_norm(model, hidden_SD, prefix + "ffn_norm.weight"), hidden_SD, strict=True):
            if layer in config.moe_layers:
                hidden_D += naive_moe(model, layer, x_D)
            else:
                hidden_D += naive_mlp(tensors[prefix + "mlp.gate_up.weight"], tensors[prefix + "mlp.down.weight"], x_D)
    return naive_norm(model, hidden_SD, "norm.weight") @ tensors["embed.weight" if config.tie_word_embeddings else "lm_head.weight"].T


def naive_norm(model: SubjectModel, x: np.ndarray, name: str) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + model.config.rms_norm_eps) * model.network.tensors[name]


def naive_attention(model: SubjectModel, prefix: str, x_SD: np.ndarray) -> np.ndarray:
    config, tensors, S = model.config, model.network.tensors, len(x_SD)
    half, window = config.head_dim // 2, config.sliding_window or S

    def project(part: str, x: np.ndarray) -> np.ndarray:
        return x @ tensors[f"{prefix}{part}.weight"].T + tensors.get(f"{prefix}{part}.bias", 0)

    def turned(part: str, head: int) -> np.ndarray:
        x = project(part, x_SD)
        x = naive_norm(model, x, f"{prefix}{part}_norm.weight") if config.qk_norm == "projection" else x
        x_SP = x[:, head * 2 * half : (head + 1) * 2 * half]
        x_SP = naive_norm(model, x_SP, f"{prefix}{part}_norm.weight") if config.qk_norm == "head" else x_SP
        angles = np.arange(S)[:, None] * config.rope_theta ** (-np.arange(half) / half)
        z = (x_SP[:, :half] + 1j * x_SP[:, half:]) * np.exp(1j * angles)
        return np.concatenate([z.real, z.imag], axis=1)

    context = []
    for head in range(config.num_attention_heads):
        shared = head * config.num_key_value_heads // config.num_attention_heads
        q_SP, k_SP, v_SP = turned("q", head), turned("k", shared), project("v", x_SD)[:, shared * 2 * half : (shared + 1) * 2 * half]
        seen = [slice(max(0, s - window + 1), s + 1) for s in range(S)]
        weights = [np.exp(k_SP[seen[s]] @ q_SP[s] / np.sqrt(2 * half)) for s in range(S)]
        context.append(np.stack([w @ v_SP[seen[s]] / w.sum() for s, w in enumerate(weights)]))
    return project("o", np.concatenate(context, axis=1))
