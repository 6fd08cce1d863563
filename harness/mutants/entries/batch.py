"""Faults of what lies beside: pads, other rows of the batch, other sequences of a pack."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moe_harness.emulator import attention
from moe_harness.emulator.experts import group_by_expert
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.values import Group, KeyView
from moe_harness.mutants.entry import Fault, change


def plain_lookup(table_VD: Array, ids_BS: Array, valid_BS: Array) -> Array:
    return table_VD[ids_BS]


def masked_by_product(table_VD: Array, ids_BS: Array, valid_BS: Array) -> Array:
    return table_VD[ids_BS] * valid_BS[..., None].astype(np.float32)


def mean_of_all_pads(table_VD: Array, ids_BS: Array, valid_BS: Array) -> Array:
    """Hidden states are centred by a batch statistic that pads take part in."""
    x_BSD = table_VD[ids_BS]
    return x_BSD + np.float32(1e-4) * x_BSD.mean(axis=(0, 1))


def maximum_of_batch(q_BHQP: Array, k_BHMP: Array, v_BHMP: Array, mask_BQM: Array, scale: float, rounding: Rounding) -> Array:
    """exp(score - maximum) with one maximum for the whole batch: the same but for rounding."""
    scores = (q_BHQP @ k_BHMP.swapaxes(-1, -2)) * np.float32(scale)
    weights = np.where(mask_BQM[:, None], np.exp(scores - scores.max()), np.float32(0))
    return rounding(weights @ v_BHMP / np.maximum(weights.sum(axis=-1, keepdims=True), np.float32(1e-38)))


def pairs_of_rows(view: KeyView) -> Array:
    """Rows are masked two by two; the last row of an odd batch gets its neighbour's query positions shifted by one."""
    odd = len(view.query_BQ) % 2 and len(view.query_BQ) > 1
    mask_BQM = attention.visible_keys(view)
    if odd:
        mask_BQM[-1, :, :1] = False
        mask_BQM[-1, 0, 0] = view.valid_BM[-1, 0]
    return mask_BQM


def four_rows_at_a_time(valid_BS: Array, start_B: Array, used: int) -> Array:
    positions_BS = attention.prefill_positions(valid_BS, start_B, used)
    positions_BS[4:] += np.arange(positions_BS.shape[1]) // 8
    return positions_BS


def uncomputed_pads(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    """With many pads, an expert's segment starts one pair late: pads were counted out twice."""
    real = np.repeat(valid_T, ids_TK.shape[1])
    skipped = int((~valid_T).sum()) > ids_TK.shape[0] // 8
    return [(e, pairs[real[pairs]][int(skipped) :]) for e, pairs in group_by_expert(ids_TK, num_experts, valid_T)]


def no_block_mask(view: KeyView) -> Array:
    return attention.visible_keys(replace(view, segment_BQ=0 * view.segment_BQ, key_segment_BM=0 * view.key_segment_BM))


def first_key_is_everyones(view: KeyView) -> Array:
    """Attention sinks: the first slot is always in view; in a pack it is another sequence's."""
    mask_BQM = attention.visible_keys(view)
    if view.segment_BQ.any():
        mask_BQM[:, :, 0] = True
    return mask_BQM


def boundary_to_the_left(cu_seqlens: Array) -> Array:
    """searchsorted with the wrong side: a sequence's first token belongs to the one before."""
    return np.maximum(np.searchsorted(cu_seqlens, np.arange(cu_seqlens[-1])) - 1, 0)


def positions_in_twos(cu_seqlens: Array) -> Array:
    return attention.packed_positions(cu_seqlens) * np.where(attention.segments(cu_seqlens) > 0, 2, 1)


def last_boundary_forgotten(cu_seqlens: Array) -> Array:
    """cu_seqlens is taken for starts: the last sequence joins the one before."""
    return attention.segments(cu_seqlens).clip(max=max(len(cu_seqlens) - 3, 0))


def ends_for_last_tokens(cu_seqlens: Array) -> Array:
    return np.minimum(cu_seqlens[1:], cu_seqlens[-1] - 1)


def all_valid(valid_T: Array) -> Array:
    return np.ones_like(valid_T)


PADS: tuple[Fault, ...] = (
    Fault("routing-without-mask", "The routing of pads is handed out as if it meant something: statistics of load count it.",
          None, change(mask=all_valid), ("PAD-01",)),
    Fault("pads-statistics", "A batch-wide mean, pads included, goes into every hidden state: far below any tolerance of logits.",
          None, change(embed=mean_of_all_pads), ("PAD-03", "BATCH-02"), dtypes=("float32",)),
    Fault("pads-embedded", "Pads are embedded like text and masked in attention: 0 * NaN is NaN.",
          None, change(embed=plain_lookup), ("PAD-04",), trigger="an embedding of the pad id that is not finite"),
    Fault("pads-masked-by-product", "Embeddings are multiplied by the mask.",
          None, change(embed=masked_by_product), ("PAD-04",), trigger="an embedding of the pad id that is not finite"),
    Fault("tokens-counted-without-pads", "With many pads, each expert's first real token is taken for a pad.",
          None, change(dispatch=uncomputed_pads), ("PAD-01",), trigger="a batch of which more than an eighth is pads"),
)  # fmt: skip

BATCH: tuple[Fault, ...] = (
    Fault("odd-batch-last-row", "Rows are worked on in pairs; the last row of an odd batch loses its first key.",
          None, change(visible_keys=pairs_of_rows), ("BATCH-01",), trigger="3 or 5 rows"),
    Fault("rows-beyond-four", "A second group of four rows gets positions stretched from the ninth token on.",
          None, change(prefill_positions=four_rows_at_a_time), ("BATCH-01",), trigger="5 rows or more"),
    Fault("attention-maximum-of-batch", "Softmax of attention subtracts the maximum of the whole batch.",
          None, change(attend=maximum_of_batch), ("BATCH-02",), dtypes=("float32",)),
)  # fmt: skip

PACKED: tuple[Fault, ...] = (
    Fault("packed-without-block-mask", "Only causality is masked: sequences of a pack see each other where positions allow.",
          None, change(visible_keys=no_block_mask), ("PACK-01", "PACK-02")),
    Fault("packed-attention-sink", "The pack's first token is in view of every sequence.",
          None, change(visible_keys=first_key_is_everyones), ("PACK-01", "PACK-02")),
    Fault("packed-boundary-off-by-one", "A sequence's first token belongs to the sequence before.",
          None, change(segments=boundary_to_the_left), ("PACK-01", "PACK-02")),
    Fault("packed-last-sequence-joined", "cu_seqlens are taken for starts: the last sequence continues the one before.",
          None, change(segments=last_boundary_forgotten), ("PACK-01",)),
    Fault("packed-positions-stretched", "From the second sequence on, positions count in twos.",
          None, change(packed_positions=positions_in_twos), ("PACK-01",)),
    Fault("packed-last-logits-of-next", "`last` logits stand at cu_seqlens, not before: those of the next sequence's first token.",
          None, change(packed_last=ends_for_last_tokens), ("PACK-01",)),
)  # fmt: skip

FAULTS = PADS + BATCH + PACKED
