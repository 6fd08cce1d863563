"""What rounding typically does to one checkpoint in one dtype: the errors of one honest implementation, the numpy subject, on ordinary
input. Weights amplify rounding by factors that no table can know (a random peaked Qwen3-MoE 3.5 times as much as a trained one): floors are
ratios to a profile, and so carry over. Legend: L MoE layers, T tokens, S sequence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from harness.cases import Case
from harness.dtypes import round_to
from harness.faults.declared import FAMILIES
from harness.faults.subject import SubjectBackend, SubjectModel
from harness.judge.block import block_errors
from harness.judge.distance import kl_divergence
from harness.judge.logits import logit_errors, router_errors
from harness.oracle.routing import combine_weights
from implementations.interface import LoadSpec, Request
from implementations.weights import parameter_counts

LARGEST = 50_000_000  # parameters; of a larger checkpoint the table's typical profile is taken
ROWS = 2  # prompts
SITES = {
    "block_error": "block",
    "worst_expert_error": "block",
    "worst_token_error": "block",
    "logit_error": "logits",
    "worst_position_error": "logits",
    "router_logit_error": "router",
    "worst_router_logit_error": "router",
    "mean_kl_nats": "kl",
}


@dataclass(frozen=True)
class Profile:
    """Relative RMS errors: of every MoE block, of logits with the routing pinned, of the router logits of the worst layer; mean KL (nats) of
    free-running distributions."""

    block_L: tuple[float, ...]
    logits: float
    router: float
    kl: float

    def site(self, metric: str, layer: int = 0) -> float:
        name = SITES[metric]
        return self.block_L[layer] if name == "block" else getattr(self, name)


def can_profile(case: Case) -> bool:
    return parameter_counts(case.config)[0] <= LARGEST and case.config.family in FAMILIES


@lru_cache(maxsize=256)
def profile(case: Case, dtype: str) -> Profile:
    """Of the case's first prompts; cached by the checkpoint's path."""
    prompts_BS = case.prompts_BS[:ROWS]
    model = SubjectBackend().load(str(case.checkpoint), LoadSpec(dtype, max_length=prompts_BS.shape[1], max_batch=ROWS))
    blocks = tuple(_block(case, model, layer, dtype) for layer in range(len(case.config.moe_layers)))
    return Profile(blocks, *_passes(case, model, prompts_BS))


def _block(case: Case, model: SubjectModel, layer: int, dtype: str) -> float:
    x_TD = round_to(np.concatenate([case.free_run(row).x_LSD[layer] for row in range(min(ROWS, len(case.prompts_BS)))]), dtype)
    ids_TK = model.route(layer, x_TD).topk_ids_LTK[0]
    weights_TK = combine_weights(case.oracle.route(layer, x_TD)[0], ids_TK, case.config.routing)
    return block_errors(model.moe_block(layer, x_TD), case.oracle.combine(layer, x_TD, ids_TK, weights_TK), ids_TK)["block_error"]


def _passes(case: Case, model: SubjectModel, prompts_BS: np.ndarray) -> tuple[float, float, float]:
    """(logits, router, kl), each the quadratic mean over the prompts, KL the mean."""
    B, S = prompts_BS.shape
    out = model.prefill(prompts_BS, np.full(B, S), Request(logits="all", routing=True))
    assert out.logits_BSV is not None and out.routing is not None and out.routing.router_logits_LTE is not None
    errors = []
    for b, ids_LSK in enumerate(np.split(out.routing.topk_ids_LTK, B, axis=1)):
        pinned = case.oracle.forward(prompts_BS[b], ids_LSK)
        router_LSE = out.routing.router_logits_LTE[:, b * S : (b + 1) * S]
        logits = logit_errors(out.logits_BSV[b], pinned.logits_SV)["logit_error"]
        router = router_errors(router_LSE, pinned.router_logits_LSE)["router_logit_error"]
        errors.append((logits**2, router**2, float(kl_divergence(case.free_run(b).logits_SV, out.logits_BSV[b]).mean())))
    logits, router, kl = np.mean(errors, axis=0)
    return float(np.sqrt(logits)), float(np.sqrt(router)), float(kl)
