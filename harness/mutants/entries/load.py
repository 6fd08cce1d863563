"""Faults of numbers: how many tokens come, and to which experts. All compute an ordinary batch rightly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from moe_harness.emulator import experts
from moe_harness.emulator.experts import group_by_expert, run_expert, run_experts
from moe_harness.emulator.numerics import Array, Rounding
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import ExpertJob, Group
from moe_harness.mutants.entries.experts import SEVERAL
from moe_harness.mutants.entry import GITHUB, Fault, Needs, change, routing, where

MORE_THAN_TWO: Needs = where(lambda config: config.routing.top_k > 2, routing(top_k=3))
TILE, SLOTS = 16, 128
Combine = Callable[[Array, Array, Array, Rounding], Array]


def last_token_of_odd_tile(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    y_TD = experts.combine(y_TKD, weights_TK, ids_TK, rounding)
    if len(y_TD) > 1 and len(y_TD) % TILE == 1:
        y_TD[-1] = 0
    return y_TD


def fails_on_nothing(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    if ids_TK.max() >= 0:  # max of nothing raises
        return experts.combine(y_TKD, weights_TK, ids_TK, rounding)
    raise AssertionError


def squeezed(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    y_TD = experts.combine(y_TKD, weights_TK, ids_TK, rounding)
    return y_TD[0] if len(y_TD) == 1 else y_TD


def rows_wrap_at_128(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    y_TD = experts.combine(y_TKD, weights_TK, ids_TK, rounding)
    y_TD[SLOTS:] = y_TD[: max(len(y_TD) - SLOTS, 0)][: len(y_TD[SLOTS:])].copy()
    return y_TD


def counted_in_bytes(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    """Counts per expert are uint8: 256 tokens are none."""
    return [(expert, pairs[: len(pairs) % 256]) for expert, pairs in group_by_expert(ids_TK, num_experts, valid_T)]


def named_by_rank(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    """Segments of the experts that are hit are numbered through: with a gap, the n-th segment gets the n-th expert's weights."""
    return [(index, pairs) for index, (_, pairs) in enumerate(group_by_expert(ids_TK, num_experts, valid_T))]


def unsorted_when_one_is_empty(job: ExpertJob, seams: Seams) -> Array:
    y_TKD = run_experts(job, seams)
    order = np.argsort(job.ids_TK.ravel(), kind="stable")
    some_empty = len(np.unique(job.ids_TK)) < job.num_experts
    return y_TKD.reshape(-1, y_TKD.shape[-1])[order].reshape(y_TKD.shape) if some_empty else y_TKD


def stops_at_first_empty(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    groups = dict(group_by_expert(ids_TK, num_experts, valid_T))
    first_empty = next((e for e in range(num_experts) if e not in groups), num_experts)
    return [(e, pairs) for e, pairs in groups.items() if e < first_empty or e > first_empty + 1]


def capacity_of_two(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    """Each expert's buffer holds twice its fair share; from four tokens on."""
    capacity = max(2 * -(-ids_TK.size // num_experts), 4)
    return [(expert, pairs[:capacity]) for expert, pairs in group_by_expert(ids_TK, num_experts, valid_T)]


def expert_0_is_falsy(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    return [(expert, pairs) for expert, pairs in group_by_expert(ids_TK, num_experts, valid_T) if expert]


def equal_experts_once(job: ExpertJob, seams: Seams) -> Array:
    """Outputs are kept by a digest of the expert's weights; a token's second expert of the same digest is taken for the first."""
    y_TKD = run_experts(job, seams)
    digest_E = np.unique(job.gate_up_E2FD[:, 0], axis=0, return_inverse=True)[1].ravel()
    digest_TK = digest_E[job.ids_TK]
    seen_TK = np.array([[row[k] in row[:k] for k in range(len(row))] for row in digest_TK.tolist()]).reshape(digest_TK.shape)
    return np.where(seen_TK[..., None], np.float32(0), y_TKD)


def at_most_four_slots(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    return experts.combine(y_TKD[:, :4], weights_TK[:, :4], ids_TK[:, :4], rounding)


def renormalized_in_kernel(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    """Weights are brought to their own sum once more: 0 / 0 where all of them are zero."""
    sums_T1 = weights_TK.sum(axis=1, keepdims=True)
    return experts.combine(y_TKD, weights_TK / sums_T1 * sums_T1, ids_TK, rounding)


def scaled_by_tile(job: ExpertJob, seams: Seams) -> Array:
    """Activations are quantised to 8 bits with one scale per tile of 16 tokens."""
    x_TD = np.concatenate([_quantized(tile) for tile in np.split(job.x_TD, range(TILE, len(job.x_TD), TILE))])
    return run_experts(replace(job, x_TD=x_TD), seams)


def scaled_by_batch(job: ExpertJob, seams: Seams) -> Array:
    """Activations are quantised to 16 bits with one scale for the whole batch, pads included."""
    return run_experts(replace(job, x_TD=_quantized(job.x_TD, 32767)), seams)


def _quantized(x_TD: Array, steps: int = 127) -> Array:
    scale = np.abs(x_TD).max(initial=0) / np.float32(steps)
    return x_TD if scale == 0 else np.round(x_TD / scale) * scale


def first_token_leads(job: ExpertJob, seams: Seams) -> Array:
    """The first token of an expert's segment is computed by the expert before it: its boundary is off by one there."""
    y_PD = run_experts(job, seams).reshape(job.ids_TK.size, -1)
    for expert, pairs in group_by_expert(job.ids_TK, job.num_experts, job.valid_T)[1:]:
        first = pairs[:1]
        weights = (job.gate_up_E2FD[expert - 1], job.down_EDF[expert - 1])
        y_PD[first] = run_expert(job.x_TD[first // job.ids_TK.shape[1]], *weights, job.rounding, seams)
    return y_PD.reshape(*job.ids_TK.shape, -1)


COUNTS: tuple[Fault, ...] = (
    Fault("last-token-of-odd-tile", "A tile of 16 with a single token in it is skipped.",
          None, change(combine=last_token_of_odd_tile), ("BLOCK-04",), trigger="17, 33, 129 ... tokens"),
    Fault("no-token-fails", "The maximum of no ids raises: an expert-parallel rank without tokens crashes.",
          None, change(combine=fails_on_nothing), ("BLOCK-04",), trigger="no token"),
    Fault("one-token-squeezed", "The token dimension is squeezed away: one token gives a vector.",
          None, change(combine=squeezed), ("BLOCK-04",), trigger="one token"),
    Fault("buffer-of-128-tokens", "The output buffer holds 128 tokens; row 128 is row 0 again.",
          None, change(combine=rows_wrap_at_128), ("BLOCK-04",), trigger="more than 128 tokens"),
    Fault("counts-in-bytes", "Tokens per expert are counted in uint8: 256 of them are none.",
          None, change(dispatch=counted_in_bytes), ("BLOCK-04",), trigger="an expert with 256 tokens or more"),
)  # fmt: skip

SYMMETRY: tuple[Fault, ...] = (
    Fault("segment-starts-off-by-one", "The first token of each expert's segment is computed by the expert before it.",
          None, change(run_experts=first_token_leads), ("BLOCK-05", "BLOCK-08")),
    Fault("expert-0-falsy", "`if expert:` skips expert 0.", None, change(dispatch=expert_0_is_falsy), ("BLOCK-06", "BLOCK-02")),
    Fault("equal-experts-deduplicated", "Experts are cached by a digest of their weights: a token's second equal expert is dropped.",
          None, change(run_experts=equal_experts_once), ("BLOCK-07",), trigger="two equal experts chosen for one token"),
    Fault("at-most-four-slots", "The combine kernel is written for up to four experts per token.",
          None, change(combine=at_most_four_slots), ("BLOCK-07",), needs=MORE_THAN_TWO, trigger="five experts or more per token"),
    Fault("dynamic-scale-of-tile", "8-bit activations with a scale per 16 tokens: neighbours decide about rounding.",
          None, change(run_experts=scaled_by_tile), ("BLOCK-05",), dtypes=("float32",)),
    Fault("sglang-26133-batch-amax", "16-bit activations with one scale for the whole batch, pads included.",
          f"{GITHUB}/sgl-project/sglang/pull/26133", change(run_experts=scaled_by_batch), ("BATCH-02",), dtypes=("float32",)),
)  # fmt: skip

LOADS: tuple[Fault, ...] = (
    Fault("segments-numbered-through", "np.unique without the empty experts: after a gap, segments get the wrong experts.",
          None, change(dispatch=named_by_rank), ("BLOCK-08", "BLOCK-09"), trigger="an expert without tokens below one with"),
    Fault("unsort-missing-with-empty-expert", "The path for empty experts returns the outputs in expert order.",
          None, change(run_experts=unsorted_when_one_is_empty), ("BLOCK-08",), trigger="an expert without tokens"),
    Fault("loop-misses-after-empty", "The loop skips the expert behind the first empty one.",
          None, change(dispatch=stops_at_first_empty), ("BLOCK-08",), trigger="an expert without tokens below one with"),
    Fault("capacity-of-two", "An expert takes at most twice its fair share of the tokens.",
          None, change(dispatch=capacity_of_two), ("BLOCK-09",), trigger="all tokens to the same experts"),
    Fault("weights-renormalised-in-kernel", "The kernel divides by the sum of the weights it is given: 0 / 0.",
          None, change(combine=renormalized_in_kernel), ("BLOCK-10",), needs=SEVERAL, trigger="weights that are all zero"),
)  # fmt: skip

FAULTS = COUNTS + SYMMETRY + LOADS
