"""Honest variants that are no matter of rounding: what a good engineer may do, and what has been reported as a bug but is none. No check
may fail on them. The kinds whose arithmetic differs: `honest_*.py`."""

from __future__ import annotations

import numpy as np

from moe_harness.emulator import cache, experts, inputs, outputs, routing
from moe_harness.emulator.cache import Cache
from moe_harness.emulator.numerics import Array
from moe_harness.emulator.seams import Seams
from moe_harness.emulator.values import ExpertJob, Group
from moe_harness.implementations.interface import RoutingSpec
from moe_harness.mutants.entry import GITHUB, Honest, change


def select_ascending(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    return np.sort(routing.select_top_k(scores_TE, logits_TE, spec), axis=1)


def select_higher_of_ties(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    return spec.num_experts - 1 - routing.select_top_k(scores_TE[:, ::-1], logits_TE, spec)


def masked_loop(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    groups = ((e, np.flatnonzero(ids_TK.ravel() == e)) for e in range(num_experts))
    return [(e, pairs) for e, pairs in groups if pairs.size]


def without_pads(ids_TK: Array, num_experts: int, valid_T: Array) -> list[Group]:
    real = np.repeat(valid_T, ids_TK.shape[1])
    return [(e, pairs[real[pairs]]) for e, pairs in experts.group_by_expert(ids_TK, num_experts, valid_T)]


def replicated_tokens(job: ExpertJob, seams: Seams) -> Array:
    """Tokens repeated k times, sorted by expert, computed, put back: `view(T, k, D)` is right."""
    flat = job.ids_TK.ravel()
    order = np.argsort(flat, kind="stable")
    sorted_PD, y_PD, start = (
        np.repeat(job.x_TD, job.ids_TK.shape[1], axis=0)[order],
        np.zeros((flat.size, job.x_TD.shape[1]), np.float32),
        0,
    )
    for e, count in enumerate(np.bincount(flat, minlength=job.num_experts)):
        span = slice(start, start + count)
        y_PD[order[span]] = experts.run_expert(sorted_PD[span], job.gate_up_E2FD[e], job.down_EDF[e], job.rounding, seams)
        start += count
    return y_PD.reshape(*job.ids_TK.shape, job.x_TD.shape[1])


def every_expert_on_every_token(job: ExpertJob, seams: Seams) -> Array:
    y_TKD = np.zeros((*job.ids_TK.shape, job.x_TD.shape[1]), np.float32)
    for e in range(job.num_experts):
        y_TD = experts.run_expert(job.x_TD, job.gate_up_E2FD[e], job.down_EDF[e], job.rounding, seams)
        y_TKD = np.where((job.ids_TK == e)[:, :, None], y_TD[:, None, :], y_TKD)
    return y_TKD


def groups_gathered(ranking_TE: Array, spec: RoutingSpec) -> Array:
    """Copies the best groups into an empty table instead of masking the others."""
    if spec.num_groups == 1:
        return ranking_TE
    size = spec.num_experts // spec.num_groups
    ranked_TGX = -np.sort(-ranking_TE.reshape(-1, spec.num_groups, size), axis=-1)
    best_TG = np.argsort(-(ranked_TGX[..., 0] + ranked_TGX[..., 1]), axis=-1, kind="stable")[:, : spec.top_groups]
    columns = (best_TG[..., None] * size + np.arange(size)).reshape(len(ranking_TE), spec.top_groups * size)
    gathered_TE = np.full_like(ranking_TE, -np.inf)
    np.put_along_axis(gathered_TE, columns, np.take_along_axis(ranking_TE, columns, axis=1), axis=1)
    return gathered_TE


def outputs_into_empty(job: ExpertJob, seams: Seams) -> Array:
    """No zeros needed where every row is written."""
    K, D = job.ids_TK.shape[1], job.x_TD.shape[1]
    y_PD = np.empty((job.ids_TK.size, D), np.float32)
    for e, pairs in seams.experts.dispatch(job.ids_TK, job.num_experts, job.valid_T):
        y_PD[pairs] = experts.run_expert(job.x_TD[pairs // K], job.gate_up_E2FD[e], job.down_EDF[e], job.rounding, seams)
    return y_PD.reshape(*job.ids_TK.shape, D)


def pads_as_text(table_VD: Array, ids_BS: Array, valid_BS: Array) -> Array:
    return table_VD[ids_BS]


def without_nan_pads() -> tuple[str, ...]:
    return tuple(name for name in inputs.declared_features() if name != "nan_pads")


def reset_to_zeros(where: Cache) -> None:
    cache.reset(where)
    where.keys[:], where.values[:], where.position_BM[:] = 0, 0, 0


def packed_positions_go_on(cu_seqlens: Array) -> Array:
    return np.arange(cu_seqlens[-1])


def loss_in_float64(logits_BSV: Array, targets_BS: Array, valid_BS: Array) -> float:
    return outputs.mean_loss(logits_BSV.astype(np.float64), targets_BS, valid_BS)


def gumbel_maximum(probabilities_BV: Array, rng: np.random.Generator) -> Array:
    """argmax(log p + Gumbel noise) is distributed like p (Gumbel 1954)."""
    with np.errstate(divide="ignore"):
        return np.argmax(np.log(probabilities_BV) + rng.gumbel(size=probabilities_BV.shape), axis=-1)


HONEST_VARIANTS: tuple[Honest, ...] = (
    Honest("benign-sorted-dispatch", "A masked loop over experts instead of a sort.",
           f"{GITHUB}/jingyaogong/minimind/pull/837", change(dispatch=masked_loop)),
    Honest("benign-static-vs-hit-loop", "Every expert computes every token, and the selected results are kept.",
           f"{GITHUB}/huggingface/transformers/pull/46929", change(run_experts=every_expert_on_every_token),
           bypasses=("dispatch",)),
    Honest("benign-ds-780-misread", "Tokens are replicated k times and sorted by expert.",
           f"{GITHUB}/deepseek-ai/DeepSeek-V3/issues/780", change(run_experts=replicated_tokens), bypasses=("dispatch",)),
    Honest("ids-ascending", "Ids come in rising order, with their weights.", None, change(select=select_ascending)),
    Honest("ties-to-the-higher-id", "At an exact tie the higher id wins.", None, change(select=select_higher_of_ties)),
    Honest("pads-not-computed", "Experts skip pads.", None, change(dispatch=without_pads)),
    Honest("groups-gathered", "The best groups are copied out instead of the others masked.", None,
           change(limit_groups=groups_gathered), ("ROUTE-13",), ("dots1",)),
    Honest("outputs-into-empty", "Experts write into an array that np.empty made, every row.",
           None, change(run_experts=outputs_into_empty), ("MEM-01", "BLOCK-08")),
    Honest("pads-as-text", "Pads are embedded like text, and nan_pads is not declared.",
           None, change(embed=pads_as_text, features=without_nan_pads), ("PAD-03", "CAP-03")),
    Honest("reset-to-zeros", "Reset overwrites the whole cache with zeros.", None,
           change(reset=reset_to_zeros), ("CACHE-02", "DET-02")),
    Honest("packed-positions-go-on", "Positions run on through a pack: RoPE is relative.",
           None, change(packed_positions=packed_positions_go_on), ("PACK-02",)),
    Honest("loss-in-float64", "The loss is computed in float64.", None, change(mean_loss=loss_in_float64), ("LOSS-01", "LOSS-02")),
    Honest("gumbel-maximum", "Samples are the maximum of logits with Gumbel noise.", None,
           change(draw=gumbel_maximum), ("GEN-04", "GEN-05")),
)  # fmt: skip
