"""The honest subject: the function at every seam. Those that do nothing, or next to nothing, stand here; the others with their part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moe_harness.emulator import attention, cache, capacity, experts, inputs, numerics, outputs, routing
from moe_harness.emulator.numerics import Array
from moe_harness.emulator.seams import (
    AttentionSeams,
    CacheSeams,
    CallSeams,
    CapacitySeams,
    ExpertSeams,
    NetworkSeams,
    RouterSeams,
    SamplingSeams,
    Seams,
    StorageSeams,
    Tensors,
)
from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.interface import ModelCapabilities, ModelConfig


def keep_tensor(name: str, tensor: Array, config: ModelConfig) -> Array:
    return tensor


def as_valid(valid_T: Array) -> Array:
    return valid_T


def as_given(path: str) -> str:
    return path


def keep_config(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    return raw


def keep_stored_head(config: ModelConfig, stored: bool) -> bool:
    return stored


def keep_tensors(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
    return tensors


def nothing_unread(source: Checkpoint) -> frozenset[str]:
    return frozenset()


def widen(stored: Array) -> Array:
    return np.ascontiguousarray(stored, dtype=np.float32)


def leave_cache(cache: cache.Cache | None) -> None:
    """A probe neither reads nor writes it."""


def given_lengths(lengths_B: Array, length: int) -> Array:
    return lengths_B


def same_layer(layer: int, num_moe_layers: int) -> int:
    return layer


def norm(x: Array, weight: Array, eps: float, rounding: numerics.Rounding) -> Array:
    return numerics.rms_norm(x, weight, eps, rounding)


def epsilon(config: ModelConfig) -> float:
    return config.rms_norm_eps


def head(normed: Array, table_VD: Array, rounding: numerics.Rounding, seams: Seams) -> Array:
    """Logits (..., V), or those of the embedding's rows where it is tied."""
    return seams.network.linear(normed, table_VD, None, rounding)


def add_residual(hidden_BSD: Array, update_BSD: Array, rounding: numerics.Rounding) -> Array:
    return rounding(hidden_BSD + update_BSD)


def embed(table_VD: Array, ids_BS: Array, valid_BS: Array) -> Array:
    """Zeros at pads: whatever a pad's row of the table holds, it is never read, let alone multiplied."""
    return np.where(valid_BS[..., None], table_VD[ids_BS], np.float32(0))


HONEST = Seams(
    network=NetworkSeams(
        linear=numerics.linear,
        embed=embed,
        epsilon=epsilon,
        norm=norm,
        final_norm=norm,
        add_residual=add_residual,
        head=head,
    ),
    router=RouterSeams(
        router_input=routing.router_input,
        router_layer=same_layer,
        pinned_layer=routing.pinned_layer,
        router_logits=routing.router_logits,
        add_bias=routing.add_bias,
        scores=routing.scores,
        correct=routing.correct,
        limit_groups=routing.limit_groups,
        select=routing.select_top_k,
        weight_source=routing.weight_source,
        weights=routing.combine_weights,
        scale=routing.scale_weights,
        round_weights=routing.round_weights,
        shown_logits=routing.shown_logits,
    ),
    experts=ExpertSeams(
        dispatch=experts.group_by_expert,
        run_experts=experts.run_experts,
        split_gate_up=experts.split_halves,
        activate=experts.swiglu,
        combine=experts.combine,
        dense_mlp=experts.dense_mlp,
        shared_input=experts.shared_input,
        shared_gate=experts.shared_gate,
        shared_mlp=experts.run_expert,
        add_shared=experts.add_shared,
    ),
    capacity=CapacitySeams(
        has_capacity=capacity.is_prefill,
        places=capacity.places,
        counted=capacity.counted,
        too_late=capacity.too_late,
        reweigh=capacity.reweigh,
        hand_back=capacity.hand_back,
    ),
    attention=AttentionSeams(
        prefill_positions=attention.prefill_positions,
        decode_positions=attention.decode_positions,
        rope_tables=attention.rope_tables,
        qk_norm=attention.qk_norm,
        rotate=attention.rotate,
        position_heads=attention.position_heads,
        visible_keys=attention.visible_keys,
        attention_scale=attention.attention_scale,
        repeat_kv=attention.repeat_kv,
        attend=attention.attend,
    ),
    cache=CacheSeams(
        append=cache.append,
        reset=cache.reset,
        admit_slots=cache.admit_slots,
        seat=cache.seat,
        begin=cache.begin,
    ),
    calls=CallSeams(
        tokens=inputs.tokens,
        lengths=inputs.lengths,
        started=inputs.started,
        room=inputs.room,
        admit=inputs.admit,
        mask=as_valid,
        last_token=outputs.last_valid,
        boundaries=inputs.boundaries,
        segments=attention.segments,
        packed_positions=attention.packed_positions,
        packed_last=attention.packed_last,
        kept_labels=outputs.kept_labels,
        targets=outputs.targets,
        mean_loss=outputs.mean_loss,
        probed=leave_cache,
        features=inputs.declared_features,
        shown=inputs.declared_logits,
        top=outputs.top_log_probs,
        describe=ModelCapabilities.of,
        compiled_experts=experts.all_experts,
    ),
    storage=StorageSeams(
        admitted=as_given,
        pack=keep_tensor,
        unpack=keep_tensor,
        pack_config=keep_config,
        stored_head=keep_stored_head,
        unread=nothing_unread,
        widen=widen,
        loaded=keep_tensors,
    ),
    sampling=SamplingSeams(
        prompt_lengths=given_lengths,
        steps=outputs.steps,
        generator=outputs.generator,
        keep_likely=outputs.keep_likely,
        draw=outputs.draw,
        sample=outputs.sample,
        stop_ids=outputs.stop_ids,
        ended=outputs.ended,
    ),
)
