"""Honest kinds: attention in one kernel, in blocks, over split keys; RoPE's tables.

Each stands on matmuls that sum in an order drawn by the seed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from moe_harness.emulator import attention
from moe_harness.emulator.numerics import MASKED, Array, Rounding, softmax
from moe_harness.emulator.seams import Seams, changed
from moe_harness.emulator.sums import drawn_cuts, order_of
from moe_harness.emulator.values import Tables
from moe_harness.implementations.interface import ModelConfig
from moe_harness.mutants.entries.honest_sums import on_drawn_order
from moe_harness.mutants.entry import GITHUB, Change, Honest, Seeded, change

EXACT = Rounding("float32")


def in_float32(q_BHQP: Array, k_BHMP: Array, v_BHMP: Array, mask_BQM: Array, scale: float, rounding: Rounding) -> Array:
    """As a fused kernel does: neither scores nor probabilities are rounded."""
    return rounding(attention.attend(q_BHQP, k_BHMP, v_BHMP, mask_BQM, scale, EXACT))


def q_scaled_first(q_BHQP: Array, k_BHMP: Array, v_BHMP: Array, mask_BQM: Array, scale: float, rounding: Rounding) -> Array:
    return attention.attend(rounding(q_BHQP * np.float32(scale)), k_BHMP, v_BHMP, mask_BQM, 1.0, rounding)


def scores_not_rounded(q_BHQP: Array, k_BHMP: Array, v_BHMP: Array, mask_BQM: Array, scale: float, rounding: Rounding) -> Array:
    """Scores and softmax in one kernel, the product with the values in another."""
    scores = np.where(mask_BQM[:, None], q_BHQP @ k_BHMP.swapaxes(-1, -2) * np.float32(scale), MASKED)
    return rounding(rounding(softmax(scores)) @ v_BHMP)


def keys_in_drawn_order(seed: int) -> Change:
    order = order_of(seed)

    def attend(q_BHQP: Array, k_BHMP: Array, v_BHMP: Array, mask_BQM: Array, scale: float, rounding: Rounding) -> Array:
        keys = order(k_BHMP.shape[2])
        return attention.attend(q_BHQP, k_BHMP[:, :, keys], v_BHMP[:, :, keys], mask_BQM[..., keys], scale, rounding)

    return change(attend=attend)


def weighted_values(
    q_BHQP: Array, k_BHMP: Array, v_BHMP: Array, mask_BQM: Array, scale: float, inner: Rounding
) -> tuple[Array, Array, Array]:
    """(maximum of the scores, sum of their exponentials, values weighted by these) over some keys, float32. The weights are rounded by
    `inner` for their matmul, not for their sum."""
    scores = np.where(mask_BQM[:, None], q_BHQP @ k_BHMP.swapaxes(-1, -2) * np.float32(scale), MASKED)
    highest = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - highest)
    return highest, weights.sum(axis=-1, keepdims=True), inner(weights) @ v_BHMP


def over_runs(cuts_of: Callable[[int], Array], rounded: bool) -> Change:
    """Online softmax over runs of keys (Milakov and Gimelshein 2018), float32 inside. `rounded`: the operand of the second matmul is in
    the model's dtype, as on tensor cores it must be."""

    def attend(q_BHQP: Array, k_BHMP: Array, v_BHMP: Array, mask_BQM: Array, scale: float, rounding: Rounding) -> Array:
        highest, total, context = MASKED, np.float32(0), np.zeros_like(q_BHQP)
        cuts = cuts_of(k_BHMP.shape[2])
        for keys in (slice(a, b) for a, b in zip(cuts[:-1], cuts[1:], strict=True)):
            run = (k_BHMP[:, :, keys], v_BHMP[:, :, keys], mask_BQM[..., keys], scale, rounding if rounded else EXACT)
            high, added, values = weighted_values(q_BHQP, *run)
            raised = np.maximum(highest, high)
            shrink, weight = np.exp(highest - raised), np.exp(high - raised)
            highest, total, context = raised, total * shrink + added * weight, context * shrink + values * weight
        return rounding(context / total)

    return change(attend=attend)


def blocks(seed: int) -> Callable[[int], Array]:
    """Blocks of 4, 8, 16 or 32 keys."""
    size = int(np.random.default_rng(seed).choice([4, 8, 16, 32]))
    return lambda keys: np.append(np.arange(0, keys, size), keys)


def runs(seed: int) -> Callable[[int], Array]:
    """2 to 6 runs of drawn lengths."""
    return lambda keys: drawn_cuts(seed, keys, 6)


def rotate_rounded_once(x_BSHP: Array, tables: Tables, rounding: Rounding) -> Array:
    return rounding(attention.rotate(x_BSHP, tables, EXACT))


def tables_in_float32(positions_BS: Array, config: ModelConfig, rounding: Rounding) -> Tables:
    return attention.rope_tables(positions_BS, config, EXACT)


def _tables(positions_BS: Array, inverse: Array, rounding: Rounding) -> Tables:
    angles = positions_BS[..., None].astype(inverse.dtype) * inverse
    return rounding(np.cos(angles)), rounding(np.sin(angles))


def tables_in_float64(positions_BS: Array, config: ModelConfig, rounding: Rounding) -> Tables:
    return _tables(positions_BS, config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim), rounding)


def tables_by_exp(positions_BS: Array, config: ModelConfig, rounding: Rounding) -> Tables:
    """Frequencies as exp(-i log(theta) / P)."""
    steps = np.arange(0, config.head_dim, 2, dtype=np.float32) * np.float32(-np.log(config.rope_theta) / config.head_dim)
    return _tables(positions_BS, np.exp(steps), rounding)


def tables_by_running_product(positions_BS: Array, config: ModelConfig, rounding: Rounding) -> Tables:
    """Each angle is the one before times theta**(-2/P), in float32."""
    angles = np.full((*positions_BS.shape, config.head_dim // 2), config.rope_theta ** (-2 / config.head_dim), np.float32)
    angles[..., 0] = positions_BS
    np.cumprod(angles, axis=-1, out=angles)
    return rounding(np.cos(angles)), rounding(np.sin(angles))


def positions_from_one(seams: Seams) -> Seams:
    """RoPE is relative: a constant offset changes rounding only."""
    return changed(
        seams,
        prefill_positions=lambda valid_BS, start_B, used: 1 + seams.attention.prefill_positions(valid_BS, start_B, used),
        decode_positions=lambda start_B, used: 1 + seams.attention.decode_positions(start_B, used),
    )


FLASH = f"{GITHUB}/Dao-AILab/flash-attention"
GGML = f"{GITHUB}/ggml-org/llama.cpp/blob/b6700/ggml/src/ggml-cpu/ops.cpp"

KINDS: tuple[Honest, ...] = (
    Honest("attention-in-float32", "Scores and probabilities are not rounded.", None, on_drawn_order(change(attend=in_float32))),
    Honest("attention-scores-not-rounded", "Scores and softmax are one kernel.", None, on_drawn_order(change(attend=scores_not_rounded))),
    Honest("attention-q-scaled", "Queries are scaled and rounded before the product.", None, on_drawn_order(change(attend=q_scaled_first))),
    Honest("attention-in-blocks", "Online softmax over blocks of 4 to 32 keys.",
           None, on_drawn_order(Seeded(lambda seed: over_runs(blocks(seed), rounded=False)))),
    Honest("attention-as-flash", "The same, with probabilities rounded for their matmul, as in FlashAttention.",
           FLASH, on_drawn_order(Seeded(lambda seed: over_runs(blocks(seed), rounded=True)))),
    Honest("attention-over-runs", "Keys are split in 2 to 6 runs at any place, and the results are merged.",
           None, on_drawn_order(Seeded(lambda seed: over_runs(runs(seed), rounded=False)))),
    Honest("keys-in-drawn-order", "Attention sums over keys in any order.", None, on_drawn_order(Seeded(keys_in_drawn_order))),
    Honest("rope-rounded-once", "The rotation is one kernel.", None, on_drawn_order(change(rotate=rotate_rounded_once))),
    Honest("rope-in-float32", "Tables are float32, the rotation is one kernel.",
           None, on_drawn_order(change(rope_tables=tables_in_float32, rotate=rotate_rounded_once))),
    Honest("rope-in-float64", "Angles are float64.", None, on_drawn_order(change(rope_tables=tables_in_float64))),
    Honest("rope-by-exp", "Frequencies by exp and log.", None, on_drawn_order(change(rope_tables=tables_by_exp))),
    Honest("rope-by-running-product", "Each angle is made from the one before, as in llama.cpp.",
           GGML, on_drawn_order(change(rope_tables=tables_by_running_product))),
    Honest("positions-from-one", "The first position is 1.", None, on_drawn_order(positions_from_one)),
)  # fmt: skip
