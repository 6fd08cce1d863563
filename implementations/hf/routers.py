"""transformers' own router modules, without their models."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from moe_harness.implementations.hf.routing import RouterTap
from moe_harness.implementations.hf.tensors import hidden_states
from moe_harness.implementations.interface import InvalidInput, LoadSpec, RouterWeights, Routing, RoutingSpec, Unsupported

PLAIN = dict(correction_bias=False, num_groups=1, top_groups=1, scaling_factor=1.0)  # what a softmax router of transformers can say


class HFRouter:
    """See `Router` in interface.py."""

    def __init__(self, module: nn.Module, spec: RoutingSpec):
        self._module, self._spec = module, spec

    def route(self, x_TD: np.ndarray) -> Routing:
        weight_ED = self._module.get_parameter("weight")
        x = hidden_states(x_TD, weight_ED.shape[1], weight_ED.dtype, weight_ED.device)
        with torch.inference_mode(), RouterTap([self._module], self._spec) as tap:
            self._module(x)
        return tap.routing(np.ones(len(x), dtype=bool))


def router(spec: RoutingSpec, weights: RouterWeights, load: LoadSpec, device: torch.device) -> HFRouter:
    """Raises Unsupported where transformers has no such router, InvalidInput for weights that do not fit."""
    module = _module_class(spec)(_config(spec, weights.weight_ED.shape[-1]))
    for name, values_E in _tensors(spec, weights).items():
        with torch.no_grad():
            getattr(module, name).copy_(torch.from_numpy(np.ascontiguousarray(values_E, dtype=np.float32)))
    for parameter in module.parameters():  # buffers, the correction bias, stay in float32, as transformers loads them
        parameter.data = parameter.data.to(getattr(torch, load.dtype))
    return HFRouter(module.to(device).eval(), spec)


def _module_class(spec: RoutingSpec) -> type[nn.Module]:
    if spec.scoring_dtype == "float32" and spec.scoring == "sigmoid" and not spec.router_bias:
        return DeepseekV3TopkRouter
    plain = spec.scoring_dtype == "float32" and spec.scoring == "softmax" and all(getattr(spec, k) == v for k, v in PLAIN.items())
    if plain and not spec.router_bias:
        return Qwen3MoeTopKRouter
    if plain and spec.normalize_topk:
        return GptOssTopKRouter
    raise Unsupported(f"transformers has no router for {spec}")


def _config(spec: RoutingSpec, hidden_size: int) -> SimpleNamespace:
    return SimpleNamespace(
        hidden_size=hidden_size,
        num_experts=spec.num_experts,
        num_local_experts=spec.num_experts,
        num_experts_per_tok=spec.top_k,
        norm_topk_prob=spec.normalize_topk,
        n_group=spec.num_groups,
        topk_group=spec.top_groups,
        routed_scaling_factor=spec.scaling_factor,
    )


def _tensors(spec: RoutingSpec, weights: RouterWeights) -> dict[str, np.ndarray]:
    """By transformers' names, checked."""
    E = spec.num_experts
    if weights.weight_ED.ndim != 2 or len(weights.weight_ED) != E:
        raise InvalidInput(f"router weight of shape {weights.weight_ED.shape} for {E} experts")
    found = {"weight": weights.weight_ED}
    optional = {"bias": (spec.router_bias, weights.bias_E), "e_score_correction_bias": (spec.correction_bias, weights.correction_bias_E)}
    for name, (wanted, values_E) in optional.items():
        if wanted != (values_E is not None) or (values_E is not None and values_E.shape != (E,)):
            given = "none" if values_E is None else f"shape {values_E.shape}"
            raise InvalidInput(f"router {name}: {f'({E},)' if wanted else 'none'} is expected, {given} given")
        if values_E is not None:
            found[name] = values_E
    return found
