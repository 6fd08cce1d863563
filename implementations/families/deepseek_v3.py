"""DeepSeek-V3 (deepseek-ai/DeepSeek-V3), its router alone: sigmoid scores, a correction bias that selects but does not weigh, group-limited
top-k, a scaling factor. Source: DeepSeek-V3 technical report (arXiv:2412.19437), section 2.1.2; transformers 5 `models/deepseek_v3`.
"""

from __future__ import annotations

from typing import Any, Mapping

from moe_harness.implementations.families.config import ConfigError, Fields
from moe_harness.implementations.families.family import RoutingFamily
from moe_harness.implementations.interface import RoutingSpec

SELECTION_KEYS = "n_routed_experts n_group topk_group routed_scaling_factor norm_topk_prob topk_method scoring_func moe_layer_freq".split()


def grouped_routing(fields: Fields) -> RoutingSpec:
    """The RoutingSpec of a config in DeepSeek-V3's keys. Raises ConfigError where groups do not divide the experts or cannot hold K."""
    E, K = fields.experts()
    groups, top_groups = fields.integer("n_group", default=1), fields.integer("topk_group", default=1)
    for key, known in (("topk_method", ("noaux_tc",)), ("scoring_func", ("sigmoid", "noaux_tc")), ("moe_layer_freq", (1,))):
        if fields.raw.get(key, known[0]) not in known:
            raise ConfigError(key, f"only {known[0]!r} is supported, got {fields.raw[key]!r}")
    if E % groups or E // groups < 2 or top_groups > groups or top_groups * (E // groups) < K:
        raise ConfigError("n_group", f"{groups} groups, {top_groups} of them used, do not fit {E} experts and top-{K}")
    return RoutingSpec(
        num_experts=E,
        top_k=K,
        scoring="sigmoid",
        normalize_topk=fields.boolean("norm_topk_prob", False),
        correction_bias=True,
        num_groups=groups,
        top_groups=top_groups,
        scaling_factor=fields.positive("routed_scaling_factor", fields.raw.get("routed_scaling_factor", 1.0)),
    )


def parse(raw: Mapping[str, Any]) -> RoutingSpec:
    return grouped_routing(Fields(raw, SELECTION_KEYS))


DEEPSEEK_V3 = {
    "architectures": ["DeepseekV3ForCausalLM"], "n_routed_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4,
    "routed_scaling_factor": 2.5, "norm_topk_prob": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc",
}  # fmt: skip

ROUTING = RoutingFamily(name="deepseek_v3", parse=parse, public={"deepseek-v3": DEEPSEEK_V3})
