"""Honest variants: what a good engineer may do, and what has been reported as a bug but is none. No check may fail on them."""

from __future__ import annotations

import numpy as np

from harness.faults import attention, cache, declared, experts, loss, numerics, routing
from harness.faults.cache import Cache
from harness.faults.entry import GITHUB, Honest, change
from harness.faults.experts import ExpertJob, Group
from harness.faults.numerics import MASKED, Array, Rounding, silu, softmax
from harness.faults.seams import Seams, changed
from harness.faults.shared import SharedSum
from implementations.interface import RoutingSpec


def select_by_logits(ranking_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    """Equal to the honest selection only where nothing was added to the scores and no group was masked; left alone otherwise."""
    ranks_alike = not spec.correction_bias and spec.num_groups == 1
    return routing.select_top_k(logits_TE if ranks_alike else ranking_TE, logits_TE, spec)


def softmax_of_selected(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    """Equal to the honest weights only when these are renormalised softmax scores; left alone otherwise."""
    if not spec.normalize_topk or spec.scoring != "softmax":
        return routing.combine_weights(scores_TE, logits_TE, ids_TK, spec)
    return softmax(np.take_along_axis(logits_TE, ids_TK, axis=1))


def scores_by_log_sum(logits_TE: Array, spec: RoutingSpec) -> Array:
    if spec.scoring != "softmax":
        return routing.scores(logits_TE, spec)
    highest = logits_TE.max(axis=1, keepdims=True)
    return np.exp(logits_TE - (highest + np.log(np.exp(logits_TE - highest).sum(axis=1, keepdims=True))))


def normalized_twice(scores_TE: Array, logits_TE: Array, ids_TK: Array, spec: RoutingSpec) -> Array:
    weights_TK = routing.combine_weights(scores_TE, logits_TE, ids_TK, spec)
    return weights_TK / weights_TK.sum(axis=1, keepdims=True) if spec.normalize_topk else weights_TK


def select_ascending(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    return np.sort(routing.select_top_k(scores_TE, logits_TE, spec), axis=1)


def select_higher_of_ties(scores_TE: Array, logits_TE: Array, spec: RoutingSpec) -> Array:
    return spec.num_experts - 1 - routing.select_top_k(scores_TE[:, ::-1], logits_TE, spec)


def weights_in_model_dtype(weights_TK: Array, spec: RoutingSpec, rounding: Rounding) -> Array:
    return rounding(weights_TK)


def weights_in_float32(weights_TK: Array, spec: RoutingSpec, rounding: Rounding) -> Array:
    return weights_TK


def rounded_then_normalized(weights_TK: Array, spec: RoutingSpec, rounding: Rounding) -> Array:
    rounded_TK = rounding(weights_TK)
    if not spec.normalize_topk:
        return rounded_TK
    return rounding(np.float32(spec.scaling_factor) * rounded_TK / rounding(rounded_TK.sum(axis=1, keepdims=True)))


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
    return y_PD.reshape(*job.ids_TK.shape, -1)


def every_expert_on_every_token(job: ExpertJob, seams: Seams) -> Array:
    y_TKD = np.zeros((*job.ids_TK.shape, job.x_TD.shape[1]), np.float32)
    for e in range(job.num_experts):
        y_TD = experts.run_expert(job.x_TD, job.gate_up_E2FD[e], job.down_EDF[e], job.rounding, seams)
        y_TKD = np.where((job.ids_TK == e)[:, :, None], y_TD[:, None, :], y_TKD)
    return y_TKD


def weighted_before_down(job: ExpertJob, seams: Seams) -> Array:
    """The combine weight scales the activation: the down projection is linear."""
    K = job.ids_TK.shape[1]
    weights_P, y_PD = job.weights_TK.ravel(), np.zeros((job.ids_TK.size, job.x_TD.shape[1]), np.float32)
    for e, pairs in seams.experts.dispatch(job.ids_TK, job.num_experts, job.valid_T):
        gate, up = seams.experts.split_gate_up(seams.network.linear(job.x_TD[pairs // K], job.gate_up_E2FD[e], None, job.rounding))
        act = job.rounding(seams.experts.activate(gate, up, job.rounding) * weights_P[pairs, None])
        y_PD[pairs] = seams.network.linear(act, job.down_EDF[e], None, job.rounding)
    return y_PD.reshape(*job.ids_TK.shape, -1)


def unweighted_sum(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    return experts.combine(y_TKD, np.ones_like(weights_TK), ids_TK, rounding)


def sum_in_float32(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    return rounding((y_TKD * weights_TK[:, :, None]).sum(axis=1))


def sum_from_highest_id(y_TKD: Array, weights_TK: Array, ids_TK: Array, rounding: Rounding) -> Array:
    return experts.combine(y_TKD, weights_TK, -ids_TK, rounding)


def activation_rounded_once(gate: Array, up: Array, rounding: Rounding) -> Array:
    return rounding(silu(gate) * up)


def split_k(x: Array, weight_OI: Array, bias_O: Array | None, rounding: Rounding) -> Array:
    half = weight_OI.shape[1] // 2
    y = x[..., half:] @ weight_OI[:, half:].T + x[..., :half] @ weight_OI[:, :half].T
    return rounding(y if bias_O is None else y + bias_O)


def summed_backwards(x: Array, weight_OI: Array, bias_O: Array | None, rounding: Rounding) -> Array:
    return numerics.linear(np.ascontiguousarray(x[..., ::-1]), np.ascontiguousarray(weight_OI[:, ::-1]), bias_O, rounding)


def one_row_at_a_time(x: Array, weight_OI: Array, bias_O: Array | None, rounding: Rounding) -> Array:
    return numerics.linear(x[..., None, :], weight_OI, bias_O, rounding)[..., 0, :]


def summed_in_float64(x: Array, weight_OI: Array, bias_O: Array | None, rounding: Rounding) -> Array:
    y = x.astype(np.float64) @ weight_OI.T.astype(np.float64)
    return rounding((y if bias_O is None else y + bias_O).astype(np.float32))


def attend_in_float32(q_BHQP: Array, k_BHMP: Array, v_BHMP: Array, mask_BQM: Array, scale: float, rounding: Rounding) -> Array:
    """As a fused kernel does: neither scores nor probabilities are rounded."""
    return rounding(attention.attend(q_BHQP, k_BHMP, v_BHMP, mask_BQM, scale, Rounding("float32")))


def attend_in_blocks(q_BHQP: Array, k_BHMP: Array, v_BHMP: Array, mask_BQM: Array, scale: float, rounding: Rounding) -> Array:
    """Online softmax over blocks of 16 keys (Milakov and Gimelshein 2018), unrounded inside."""
    highest = np.full((*q_BHQP.shape[:3], 1), MASKED)
    total, context = np.zeros_like(highest), np.zeros_like(q_BHQP)
    for start in range(0, k_BHMP.shape[2], 16):
        block = slice(start, start + 16)
        scores = np.where(mask_BQM[:, None, :, block], q_BHQP @ k_BHMP[:, :, block].swapaxes(-1, -2) * np.float32(scale), MASKED)
        raised = np.maximum(highest, scores.max(axis=-1, keepdims=True))
        shrink, weights = np.exp(highest - raised), np.exp(scores - raised)
        total, context = total * shrink + weights.sum(axis=-1, keepdims=True), context * shrink + weights @ v_BHMP[:, :, block]
        highest = raised
    return rounding(context / total)


def keys_backwards(q_BHQP: Array, k_BHMP: Array, v_BHMP: Array, mask_BQM: Array, scale: float, rounding: Rounding) -> Array:
    return attention.attend(q_BHQP, k_BHMP[:, :, ::-1], v_BHMP[:, :, ::-1], mask_BQM[..., ::-1], scale, rounding)


def positions_from_one(seams: Seams) -> Seams:
    """RoPE is relative: a constant offset changes rounding only."""
    return changed(
        seams,
        prefill_positions=lambda valid_BS, start_B, used: 1 + seams.attention.prefill_positions(valid_BS, start_B, used),
        decode_positions=lambda start_B, used: 1 + seams.attention.decode_positions(start_B, used),
    )


def sigmoid_in_two_branches(logits_TE: Array, spec: RoutingSpec) -> Array:
    if spec.scoring != "sigmoid":
        return routing.scores(logits_TE, spec)
    small = np.exp(-np.abs(logits_TE))
    return np.where(logits_TE < 0, small, np.float32(1)) / (np.float32(1) + small)


def gate_by_tanh(x_TD: Array, gate_1D: Array, rounding: Rounding, seams: Seams) -> Array:
    x_T1 = seams.network.linear(x_TD, gate_1D, None, rounding)
    return rounding(np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * x_T1))


def shared_in_float32(parts: SharedSum) -> Array:
    return parts.rounding(parts.routed_TD + (parts.shared_TD if parts.gate_T1 is None else parts.shared_TD * parts.gate_T1))


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
    return tuple(name for name in declared.features() if name != "nan_pads")


def reset_to_zeros(where: Cache) -> None:
    cache.reset(where)
    where.keys[:], where.values[:], where.position_BM[:] = 0, 0, 0


def packed_positions_go_on(cu_seqlens: Array) -> Array:
    return np.arange(cu_seqlens[-1])


def loss_in_float64(logits_BSV: Array, targets_BS: Array, valid_BS: Array) -> float:
    return loss.mean_loss(logits_BSV.astype(np.float64), targets_BS, valid_BS)


def gumbel_maximum(probabilities_BV: Array, rng: np.random.Generator) -> Array:
    """argmax(log p + Gumbel noise) is distributed like p (Gumbel 1954)."""
    with np.errstate(divide="ignore"):
        return np.argmax(np.log(probabilities_BV) + rng.gumbel(size=probabilities_BV.shape), axis=-1)


NXD = f"{GITHUB}/aws-neuron/neuronx-distributed/blob/fbac349/src/neuronx_distributed/modules/moe/expert_mlps_v2.py"

HONEST_VARIANTS: tuple[Honest, ...] = (
    Honest("benign-megatron-955", "Top-k of the logits, then softmax over them: equal where weights are renormalised, and used only there.",
           f"{GITHUB}/NVIDIA/Megatron-LM/issues/955", change(select=select_by_logits, weights=softmax_of_selected)),
    Honest("benign-litgpt-2014", "Softmax written as exp(l - logsumexp(l)).",
           f"{GITHUB}/Lightning-AI/litgpt/pull/2014", change(scores=scores_by_log_sum)),
    Honest("benign-trtllm-2752", "Weights are renormalised once more.",
           f"{GITHUB}/NVIDIA/TensorRT-LLM/pull/2752", change(weights=normalized_twice)),
    Honest("benign-sorted-dispatch", "A masked loop over experts instead of a sort.",
           f"{GITHUB}/jingyaogong/minimind/pull/837", change(dispatch=masked_loop)),
    Honest("benign-static-vs-hit-loop", "Every expert computes every token, and the selected results are kept.",
           f"{GITHUB}/huggingface/transformers/pull/46929", change(run_experts=every_expert_on_every_token)),
    Honest("benign-ds-780-misread", "Tokens are replicated k times and sorted by expert.",
           f"{GITHUB}/deepseek-ai/DeepSeek-V3/issues/780", change(run_experts=replicated_tokens)),
    Honest("benign-bf16-expert-flip", "Every matmul is split over K: near ties select other experts.",
           f"{GITHUB}/TransformerLensOrg/TransformerLens/pull/521", change(linear=split_k)),
    Honest("ids-ascending", "Ids come in rising order, with their weights.", None, change(select=select_ascending)),
    Honest("ties-to-the-higher-id", "At an exact tie the higher id wins.", None, change(select=select_higher_of_ties)),
    Honest("weights-in-model-dtype", "Weights are cast to the model's dtype in every family.",
           None, change(round_weights=weights_in_model_dtype)),
    Honest("weights-in-float32", "Weights stay float32 in every family.", None, change(round_weights=weights_in_float32)),
    Honest("neuron-affinity-dtype", "Scores are cast to the model's dtype before they are divided by their sum.",
           NXD, change(round_weights=rounded_then_normalized)),
    Honest("pads-not-computed", "Experts skip pads.", None, change(dispatch=without_pads)),
    Honest("weighted-before-down", "The weight scales the activation before the down projection.",
           None, change(run_experts=weighted_before_down, combine=unweighted_sum)),
    Honest("combine-in-float32", "The weighted sum is rounded once.", None, change(combine=sum_in_float32)),
    Honest("combine-from-highest-id", "Experts are added in falling order of id.", None, change(combine=sum_from_highest_id)),
    Honest("activation-rounded-once", "silu(gate) * up is fused.", None, change(activate=activation_rounded_once)),
    Honest("summed-backwards", "Every matmul sums in reverse.", None, change(linear=summed_backwards)),
    Honest("summed-in-float64", "Every matmul accumulates in float64.", None, change(linear=summed_in_float64)),
    Honest("one-row-at-a-time",
           "Every matmul is done row by row: the only variant whose rows do not depend on their neighbours in any bit.",
           None, change(linear=one_row_at_a_time)),
    Honest("attention-in-float32", "Scores and probabilities are not rounded.", None, change(attend=attend_in_float32)),
    Honest("attention-in-blocks", "Online softmax.", None, change(attend=attend_in_blocks)),
    Honest("keys-backwards", "Attention sums from the newest key.", None, change(attend=keys_backwards)),
    Honest("positions-from-one", "The first position is 1.", None, positions_from_one),
    Honest("sigmoid-in-two-branches", "Sigmoid scores without overflow: exp of negative numbers only.",
           None, change(scores=sigmoid_in_two_branches), families=("dots1",)),
    Honest("gate-by-tanh", "The shared expert's gate as (1 + tanh(x / 2)) / 2.", None,
           change(shared_gate=gate_by_tanh), ("BLOCK-10",), ("qwen2_moe",)),
    Honest("shared-sum-in-float32", "The shared expert is gated and added with one rounding.", None,
           change(add_shared=shared_in_float32), ("BLOCK-10",), ("qwen2_moe", "dots1")),
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
