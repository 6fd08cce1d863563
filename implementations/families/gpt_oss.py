"""gpt-oss (openai/gpt-oss-20b, -120b), its router alone: a bias on the logits, softmax over the selected ones (the same as over
all, divided by their sum). Source: transformers 5 `models/gpt_oss`."""

from __future__ import annotations

from typing import Any, Mapping

from moe_harness.implementations.families.config import Fields
from moe_harness.implementations.families.family import RoutingFamily
from moe_harness.implementations.interface import RoutingSpec


def parse(raw: Mapping[str, Any]) -> RoutingSpec:
    E, K = Fields(raw).experts()
    return RoutingSpec(num_experts=E, top_k=K, normalize_topk=True, router_bias=True)


GPT_OSS_20B = {"architectures": ["GptOssForCausalLM"], "num_local_experts": 32, "num_experts_per_tok": 4}
GPT_OSS_120B = {"architectures": ["GptOssForCausalLM"], "num_local_experts": 128, "num_experts_per_tok": 4}

ROUTING = RoutingFamily(name="gpt_oss", parse=parse, public={"gpt-oss-20b": GPT_OSS_20B, "gpt-oss-120b": GPT_OSS_120B})
