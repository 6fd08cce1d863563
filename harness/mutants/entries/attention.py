"""Faults of attention, positions, cache and padding, and of the end of the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moe_harness.emulator import attention, cache, numerics
from moe_harness.emulator.cache import Cache
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.seams import Seams, Tensors
from moe_harness.emulator.values import KeyView, Tables
from moe_harness.implementations.interface import ModelConfig
from moe_harness.mutants.entry import GITHUB, Fault, Needs, change, setting, where

CANDLE = f"{GITHUB}/huggingface/candle/blob/2a13b0f3/candle-transformers/src/models/mixtral.rs"
QWEN = ("qwen3_moe",)
WINDOW: Needs = where(lambda config: config.sliding_window is not None, setting(sliding_window=8))


def base_10000(positions_BS: Array, config: ModelConfig, rounding: Rounding) -> Tables:
    return attention.rope_tables(positions_BS, replace(config, rope_theta=10000.0), rounding)


def positions_in_model_dtype(positions_BS: Array, config: ModelConfig, rounding: Rounding) -> Tables:
    return attention.rope_tables(rounding(positions_BS), config, rounding)


def norm_across_heads(x_BSHP: Array, weight_P: Array, eps: float, rounding: Rounding) -> Array:
    flat = x_BSHP.reshape(*x_BSHP.shape[:2], -1)
    return numerics.rms_norm(flat, np.tile(weight_P, x_BSHP.shape[2]), eps, rounding).reshape(x_BSHP.shape)


def norm_after_rope(x_BSHP: Array, norm_P: Array | None, eps: float, tables: Tables, rounding: Rounding, seams: Seams) -> Array:
    turned = seams.attention.rotate(x_BSHP, tables, rounding)
    return turned if norm_P is None else seams.attention.qk_norm(turned, norm_P, eps, rounding)


def rotate_neighbours(x_BSHP: Array, tables: Tables, rounding: Rounding) -> Array:
    halves = np.concatenate([x_BSHP[..., ::2], x_BSHP[..., 1::2]], axis=-1)
    turned = attention.rotate(halves, tables, rounding)
    return np.stack(np.split(turned, 2, axis=-1), axis=-1).reshape(x_BSHP.shape)


def without_bias(tensors: Tensors, config: ModelConfig, converted: bool) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not name.endswith(".bias") or ".attention." not in name}


def tile_kv(x_BNMP: Array, groups: int) -> Array:
    return np.tile(x_BNMP, (1, groups, 1, 1))


def scale_of_hidden_size(config: ModelConfig) -> float:
    return float(config.hidden_size / config.num_attention_heads) ** -0.5


def restart_positions(valid_BS: Array, start_B: Array, used: int) -> Array:
    return attention.prefill_positions(valid_BS, 0 * start_B, used)


def one_position_late(start_B: Array, used: int) -> Array:
    return attention.decode_positions(start_B, used) + 1


def slots_as_positions(start_B: Array, used: int) -> Array:
    return np.full((len(start_B), 1), used)


def without_window(view: KeyView) -> Array:
    return attention.visible_keys(replace(view, window=None))


def without_window_in_decode(view: KeyView) -> Array:
    return attention.visible_keys(replace(view, window=None) if view.decoding else view)


def window_plus_one(view: KeyView) -> Array:
    return attention.visible_keys(view if view.window is None else replace(view, window=view.window + 1))


def window_rolled_early(view: KeyView) -> Array:
    mask_BQM = attention.visible_keys(view)
    if view.window is None or not view.decoding:
        return mask_BQM
    oldest_BQM = view.query_BQ[:, :, None] - view.key_BM[:, None, :] == view.window - 1
    return mask_BQM & ~oldest_BQM


def pads_visible(view: KeyView) -> Array:
    return attention.visible_keys(replace(view, valid_BM=np.ones_like(view.valid_BM)))


def mask_of_first_row(view: KeyView) -> Array:
    mask_BQM = attention.visible_keys(view)
    return np.broadcast_to(mask_BQM[:1], mask_BQM.shape)


def overwrite_last(where_to: Cache, layer: int, keys_BNSP: Array, values_BNSP: Array) -> None:
    behind = 1 if keys_BNSP.shape[2] == 1 and where_to.used > 1 else 0
    cache.append(replace(where_to, used=where_to.used - behind), layer, keys_BNSP, values_BNSP)


def keep_everything(where_to: Cache) -> None:
    """No way to clear the cache."""


def keep_positions(where_to: Cache) -> None:
    where_to.used = 0
    where_to.valid_BM[:] = False


def last_column(valid_BS: Array) -> Array:
    return np.full(len(valid_BS), valid_BS.shape[1] - 1)


def no_norm(x: Array, weight: Array, eps: float, rounding: Rounding) -> Array:
    return x


def grouped(config: ModelConfig) -> ModelConfig:
    """1 < N < H, so that repeating and tiling heads differ."""
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    return config if 1 < kv_heads < heads else replace(config, num_attention_heads=8, num_key_value_heads=4)


ATTENTION: tuple[Fault, ...] = (
    Fault("megatron-ds-351-theta", "The RoPE base is 10000, whatever rope_theta says: errors grow with the position.",
          f"{GITHUB}/deepspeedai/Megatron-DeepSpeed/pull/351", change(rope_tables=base_10000), ("PARITY-01", "PARITY-02"),
          needs=where(lambda config: config.rope_theta != 10000.0, setting(rope_theta=1e6))),
    Fault("candle-rope-positions-in-model-dtype", "Positions are cast to bfloat16 before RoPE: 257 becomes 256.",
          CANDLE, change(rope_tables=positions_in_model_dtype), ("PARITY-05",), dtypes=("bfloat16",), trigger="positions from 257 on"),
    Fault("rope-of-neighbours", "RoPE turns the pairs (2i, 2i+1) of the original layout instead of (i, i + P/2).",
          None, change(rotate=rotate_neighbours), ("PARITY-01", "PARITY-02")),
    Fault("vllm-16311-qknorm-across-heads", "QK norm runs over all heads together instead of over each.",
          f"{GITHUB}/vllm-project/vllm/pull/16311", change(qk_norm=norm_across_heads), ("PARITY-01", "PARITY-02"), families=QWEN),
    Fault("qk-norm-after-rope", "QK norm follows RoPE; its weight then falls on other pairs.",
          None, change(position_heads=norm_after_rope), ("PARITY-01",), families=QWEN),
    Fault("attention-bias-dropped", "attention_bias is ignored.", None, change(loaded=without_bias), ("CONV-02",), families=QWEN,
          needs=where(lambda config: bool(config.attention_bias), setting(attention_bias=tuple("qkvo")))),
    Fault("kv-heads-tiled", "Key/value heads are tiled (n, n+N, ...) instead of repeated in groups.",
          None, change(repeat_kv=tile_kv), ("PARITY-01", "PARITY-04"), needs=grouped),
    Fault("scale-of-hidden-size", "Scores are scaled by hidden_size / heads although head_dim is given.",
          None, change(attention_scale=scale_of_hidden_size), ("PARITY-01", "PARITY-02"), families=QWEN,
          needs=where(lambda config: config.head_dim * config.num_attention_heads != config.hidden_size, setting(head_dim=32))),
    Fault("final-norm-missing", "The head reads the hidden state without the final norm.",
          None, change(final_norm=no_norm), ("PARITY-01", "PARITY-04")),
)  # fmt: skip

CACHE: tuple[Fault, ...] = (
    Fault("decode-position-off-by-one", "Decode places the first new token one position too late.",
          None, change(decode_positions=one_position_late), ("CACHE-01",)),
    Fault("decode-overwrites-last-slot", "The write index is advanced after the write: a new key replaces the one before it.",
          None, change(append=overwrite_last), ("CACHE-01",)),
    Fault("chunk-positions-restart", "A second prefill counts positions from 0 again.",
          None, change(prefill_positions=restart_positions), ("CACHE-03",), trigger="a prompt in two chunks"),
    Fault("candle-no-cache-reset", "Nothing clears the cache: the next prompt is appended to the old one.",
          CANDLE, change(reset=keep_everything), ("CACHE-02",), trigger="the same batch size before and after the reset"),
    Fault("reset-keeps-positions", "Reset empties the slots but not the position counter: equal but for rounding, since RoPE is relative.",
          None, change(reset=keep_positions), ("CACHE-02",), trigger="the same batch size before and after the reset, compared bit by bit"),
    Fault("tf-37574-swa-roll", "The window's cache is rolled one step early: at decode the oldest key of a full window is lost.",
          f"{GITHUB}/huggingface/transformers/issues/37574", change(visible_keys=window_rolled_early), ("WINDOW-01",), needs=WINDOW,
          trigger="decode at or past the window"),
    Fault("candle-window-plus-one", "The sliding window keeps W + 1 tokens.",
          CANDLE, change(visible_keys=window_plus_one), ("WINDOW-01",), needs=WINDOW,
          trigger="a prompt longer than the window"),
    Fault("candle-window-ignored-in-decode", "Cached positions are not masked by the window.",
          CANDLE, change(visible_keys=without_window_in_decode), ("WINDOW-01",), needs=WINDOW, trigger="decode past the window"),
    Fault("window-ignored", "sliding_window is not implemented and not refused.",
          None, change(visible_keys=without_window), ("WINDOW-01",), needs=WINDOW,
          trigger="a prompt longer than the window"),
)  # fmt: skip

PADDING: tuple[Fault, ...] = (
    Fault("pads-not-masked", "Keys of pads are attended.",
          None, change(visible_keys=pads_visible), ("PAD-01",), trigger="a row with left pads"),
    Fault("mask-of-row-0", "The mask is built for the first row and broadcast over the batch.",
          None, change(visible_keys=mask_of_first_row), ("PAD-01",), dtypes=("float32",), trigger="rows of different lengths"),
    Fault("pads-counted-in-decode-position", "Decode takes the number of filled slots, pads included, for the position.",
          None, change(decode_positions=slots_as_positions), ("PAD-01",), dtypes=("float32",), trigger="decode after a ragged prefill"),
    Fault("last-column-logits", "The last logits are those of the last column, a pad in the shorter rows of a right-padded batch.",
          None, change(last_token=last_column), ("PAD-02",), trigger="a ragged batch padded on the right, logits `last`"),
)  # fmt: skip

FAULTS = ATTENTION + CACHE + PADDING
