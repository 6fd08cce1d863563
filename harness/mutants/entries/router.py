"""Faults of the router: which experts are selected, with which weights, and from what."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from moe_harness.emulator.numerics import Array
from moe_harness.emulator.routing import pinned_layer
from moe_harness.emulator.seams import Seams, changed
from moe_harness.implementations.interface import ModelConfig, PinnedRouting
from moe_harness.mutants.entries import routers
from moe_harness.mutants.entry import GITHUB, Fault, Needs, change, routing, where

SEVERAL: Needs = where(lambda config: config.routing.top_k > 1, routing(top_k=2))
NOT_ALL: Needs = where(lambda config: config.routing.top_k < config.routing.num_experts, routing(top_k=1))
TWO_OF_MORE: Needs = where(lambda config: 1 < config.routing.top_k < config.routing.num_experts, routing(top_k=2))
RAW, TOP_1_RAW = routing(normalize_topk=False), routing(top_k=1, normalize_topk=False)
SIGMOID = ("dots1", "deepseek_v3")
QWEN = ("qwen3_moe",)  # the only family whose config can say normalize_topk=False


def normalized_not_all(config: ModelConfig) -> ModelConfig:
    return NOT_ALL(routing(normalize_topk=True)(config))


def raw_not_all(config: ModelConfig) -> ModelConfig:
    return NOT_ALL(RAW(config))


def two_moe_layers(config: ModelConfig) -> ModelConfig:
    return config if len(config.moe_layers) > 1 else replace(config, num_hidden_layers=2, moe_layers=(0, 1))


def jitter(seams: Seams) -> Seams:
    """One generator per backend: two calls on the same input differ, as they do in training."""
    rng = np.random.default_rng(0)

    def noisy(normed_TD: Array, residual_TD: Array) -> Array:
        return normed_TD * rng.uniform(0.95, 1.05, normed_TD.shape).astype(np.float32)

    return changed(seams, router_input=noisy)


SELECTION: tuple[Fault, ...] = (
    Fault("slime-822-pad-same-expert", "The last token of a call is taken for padding and routed k times to expert 0.",
          f"{GITHUB}/THUDM/slime/issues/822", change(select=routers.last_row_is_padding), ("ROUTE-01",), needs=SEVERAL),
    Fault("last-expert-id-out-of-range", "An off-by-one in the range of local experts: the last expert is reported as id E, and skipped.",
          None, change(select=routers.last_expert_is_elsewhere, weights=routers.weights_of_clipped_ids), ("ROUTE-01",),
          trigger="a token that selects the last expert"),
    Fault("mole-7-hardcoded-topk", "The number of experts per token is a literal 2; num_experts_per_tok is ignored.",
          f"{GITHUB}/JieShibo/MoLE/issues/7", change(select=routers.select_two), ("ROUTE-09", "ROUTE-10"),
          needs=where(lambda config: config.routing.top_k != 2, routing(top_k=1))),
    Fault("rank-off-by-one", "Ranks 2..k+1 are selected instead of 1..k.",
          None, change(select=routers.select_ranks_from_second), ("ROUTE-04", "PARITY-03"), needs=NOT_ALL),
    Fault("selection-bias-of-one-expert", "A left-over correction bias: expert 0 is selected as if its score were 30 % higher.",
          None, change(select=routers.select_with_bias), ("ROUTE-04",), dtypes=("float32", "float16"), needs=NOT_ALL,
          trigger="expert 0 within 30 % below the last selected score"),
    Fault("sglang-8125-unsorted-topk-replace", "The last of k+1 candidates is dropped as the smallest, but they are in id order.",
          f"{GITHUB}/sgl-project/sglang/pull/8125", change(select=routers.select_from_unsorted), ("ROUTE-04",), needs=NOT_ALL),
    Fault("flashinfer-2822-all-negative-logits",
          "The running top-k starts from (0, expert 0) instead of -inf, so no negative logit enters it.",
          f"{GITHUB}/flashinfer-ai/flashinfer/issues/2822", change(select=routers.select_with_zero_buffer), ("ROUTE-07",),
          trigger="fewer than k logits of a token above zero"),
    Fault("expert-table-padded-with-zeros",
          "The expert table is padded with zeros, which beat experts with negative logits; ids beyond E come out.",
          None, change(select=routers.select_with_padded_experts, weights=routers.weights_of_clipped_ids), ("ROUTE-07",),
          trigger="fewer than k logits of a token above zero"),
    Fault("group-mask-zero-negative-bias",
          "Slots that pad the expert table score zero, which beats experts whose correction makes them negative.",
          f"{GITHUB}/flashinfer-ai/flashinfer/issues/2168",
          change(select=routers.select_with_padded_ranking), ("ROUTE-13",),
          families=("deepseek_v3",), trigger="fewer than k corrected scores of a token above zero"),
    Fault("topk-masks-with-zero",
          "Top-k by repeated argmax over logits overwrites the winner with 0, not -inf: it wins again among negatives.",
          None, change(select=routers.select_masking_with_zero), ("ROUTE-07",), needs=SEVERAL,
          trigger="fewer than k logits of a token above zero"),
    Fault("relu-before-softmax", "Router logits pass a ReLU: negative ones become equal.",
          None, change(scores=routers.relu_scores), ("ROUTE-07",), trigger="a negative logit among the k highest"),
    Fault("ids-found-by-value", "Ids are found again by comparing scores with the top-k values: at an exact tie the same id twice.",
          None, change(select=routers.select_by_value), ("ROUTE-08",), needs=SEVERAL, trigger="two equal scores among the k highest"),
    Fault("ids-found-by-threshold", "The first k ids with a score >= the k-th are taken: at a tie on the boundary a better expert is lost.",
          None, change(select=routers.select_by_threshold), ("ROUTE-08",), needs=TWO_OF_MORE,
          trigger="ranks k and k+1 tie, and a tied id is lower than a better one"),
    Fault("topk-stops-before-last-expert", "The selection loop runs to E-1: at k = E the last slot keeps its initial id 0.",
          None, change(select=routers.select_at_most_all_but_one), ("ROUTE-10",), needs=routing(top_k="E")),
    Fault("nan-row-keeps-sentinel-id", "Comparisons with NaN are false, so a NaN row keeps the initial id -1.",
          None, change(select=routers.select_sentinel_for_nan), ("ROUTE-11",), trigger="a row with NaN"),
)  # fmt: skip

WEIGHTS: tuple[Fault, ...] = (
    Fault("sglang-35160-raw-logits-weights", "Softmax happens in the renormalising branch only; without it the raw logits become weights.",
          f"{GITHUB}/sgl-project/sglang/pull/35160", change(weights=routers.raw_logits_unless_normalized), ("ROUTE-02", "ROUTE-03"),
          families=QWEN, needs=RAW),
    Fault("l1-of-logits", "L1 normalisation is applied to the logits of the selected experts, not to their scores: negative weights.",
          None, change(weights=routers.l1_of_logits), ("ROUTE-02",), trigger="a selected expert with a negative logit"),
    Fault("torchtitan-1448-no-renorm", "The selected scores are not divided by their sum.",
          f"{GITHUB}/pytorch/torchtitan/issues/1448", change(weights=routers.never_normalized), ("ROUTE-03",),
          families=(*SIGMOID, "mixtral", "qwen3_moe"), needs=normalized_not_all),
    Fault("neuron-norm-topk-prob-ignored",
          "Weights are always renormalised, whatever norm_topk_prob says; also what softmax after top-k does.",
          f"{GITHUB}/huggingface/optimum-neuron/blob/213224e/optimum/neuron/models/inference/backend/modules/moe.py",
          change(weights=routers.always_normalized), ("ROUTE-03", "ROUTE-05"), families=QWEN, needs=raw_not_all),
    Fault("weights-in-score-order", "Ids are sorted for dispatch, weights stay in score order: each expert gets another one's weight.",
          None, change(select=routers.select_in_id_order, weights=routers.weights_in_score_order), ("ROUTE-05",), needs=SEVERAL),
    Fault("uniform-weights", "Every selected expert gets the mean weight.",
          None, change(weights=routers.uniform_weights), ("ROUTE-05",), needs=SEVERAL),
    Fault("sigmoid-scores", "Another family's sigmoid instead of softmax: same order, other weights, and a shift of the logits matters.",
          None, change(scores=routers.sigmoid_scores), ("ROUTE-05", "ROUTE-06"), needs=SEVERAL),
    Fault("softmax-in-half-without-max", "exp in half precision without subtracting the maximum: overflow above 11.09, coarse below.",
          None, change(scores=routers.softmax_in_half), ("ROUTE-06",), dtypes=("float32",), trigger="logits shifted beyond about +-8"),
    Fault("router-in-bfloat16", "A float32 model casts router weights, input and logits to bfloat16.",
          f"{GITHUB}/huggingface/optimum-neuron/blob/213224e/optimum/neuron/models/inference/backend/modules/moe.py",
          change(router_logits=routers.logits_in_bfloat16), ("ROUTE-05",), dtypes=("float32",), needs=SEVERAL),
    Fault("softmax-maximum-of-batch", "Softmax subtracts the maximum of the whole batch: one NaN row makes every row NaN.",
          None, change(scores=routers.softmax_of_batch), ("ROUTE-11",), trigger="a row with NaN"),
    Fault("bigmoe-113-top1-layout", "At k = 1 the weight tensor's layout is misread: every token uses the first token's weight.",
          f"{GITHUB}/Helldez/BigMoeOnEdge/pull/113", change(weights=routers.first_token_weight_at_top_1), ("ROUTE-09",),
          families=QWEN, needs=TOP_1_RAW, trigger="two tokens"),
    Fault("megablocks-87-top1-norm-dim", "At k = 1 the scores are normalised over the tokens of the batch instead of over experts.",
          f"{GITHUB}/databricks/megablocks/pull/87", change(weights=routers.normalized_over_tokens_at_top_1), ("ROUTE-09",),
          needs=routing(top_k=1, normalize_topk=True), trigger="two tokens"),
    Fault("megatron-894-top1-postsoftmax", "Softmax after top-k: at k = 1 the weight is 1 for every token, whatever the router says.",
          f"{GITHUB}/NVIDIA/Megatron-LM/issues/894", change(weights=routers.one_at_top_1), ("ROUTE-09",), families=QWEN, needs=TOP_1_RAW),
)  # fmt: skip


def nothing_pinned(pinned: PinnedRouting | None, index: int) -> PinnedRouting | None:
    return None


def weights_not_pinned(pinned: PinnedRouting | None, index: int) -> PinnedRouting | None:
    found = pinned_layer(pinned, index)
    return None if found is None else PinnedRouting(found.topk_ids_LTK)


WIRING: tuple[Fault, ...] = (
    Fault("tf-45120-double-softmax", "The router keeps its probabilities in the variable of the logits and hands them out as such.",
          f"{GITHUB}/huggingface/transformers/issues/45120", change(shown_logits=lambda logits_TE, scores_TE: scores_TE), ("PARITY-03",)),
    Fault("pinned-routing-ignored", "The probe replays a routing, the model's own pass does not.",
          None, change(pinned_layer=nothing_pinned), ("PARITY-07",)),
    Fault("pinned-weights-ignored", "The model's own pass replays the experts and computes the weights anew.",
          None, change(pinned_layer=weights_not_pinned), ("PARITY-07",)),
    Fault("router-before-norm", "In the model the router reads the residual stream instead of the normalised hidden state.",
          None, change(router_input=lambda normed_TD, residual_TD: residual_TD), ("PARITY-03",)),
    Fault("router-of-last-layer", "A closure over the loop variable: in the model every layer routes with the last layer's router.",
          None, change(router_layer=lambda layer, num_moe_layers: num_moe_layers - 1), ("PARITY-03",), needs=two_moe_layers),
    Fault("router-jitter-in-inference", "The training noise of 5 % on the router's input is left on.",
          None, jitter, ("PARITY-03", "CACHE-02"), dtypes=("float32",)),
)  # fmt: skip

FAULTS = SELECTION + WEIGHTS + WIRING
