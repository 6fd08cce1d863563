"""transformers' routers, watched and overruled through forward hooks, and by themselves, without their models."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from moe_harness.implementations.interface import (
    InvalidInput,
    LoadSpec,
    ModelConfig,
    PinnedRouting,
    RouterWeights,
    Routing,
    RoutingSpec,
    Unsupported,
)

RouterOutput = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # logits_TE, weights_TK, ids_TK: every router of transformers 5 so far
PLAIN = dict(correction_bias=False, num_groups=1, top_groups=1, scaling_factor=1.0)  # what a softmax router of transformers can say


def hidden_states(x_TD: np.ndarray, hidden_size: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A probe's input in the model's dtype. Raises InvalidInput: not float32 (T, D), or not exactly representable."""
    x_TD = np.asarray(x_TD)
    if x_TD.ndim != 2 or x_TD.shape[1] != hidden_size or x_TD.dtype != np.float32:
        raise InvalidInput(f"x_TD has shape {x_TD.shape} and dtype {x_TD.dtype}; float32 (T, {hidden_size}) is expected")
    x = torch.from_numpy(np.ascontiguousarray(x_TD))
    rounded = x.to(dtype)
    if not torch.allclose(rounded.float(), x, rtol=0, atol=0, equal_nan=True):
        raise InvalidInput(f"x_TD is not exactly representable in {str(dtype).removeprefix('torch.')}")
    return rounded.to(device)


def moe_blocks(module: Any, config: ModelConfig) -> list[nn.Module]:
    """The MoE block of every MoE layer, in order: the part of a layer that owns `gate` (the router) and `experts`. Raises Unsupported."""
    return [_block(module.get_decoder().layers[i], i) for i in config.moe_layers]


def _block(layer: nn.Module, index: int) -> nn.Module:
    found = [child for child in layer.children() if hasattr(child, "gate") and hasattr(child, "experts")]
    if len(found) != 1:
        raise Unsupported(f"layer {index} ({type(layer).__name__}) has {len(found)} parts with a gate and experts; one is expected")
    return found[0]


class RouterTap:
    """While entered, records what each router returns and, with `pinned`, replaces its choice first. Index 0 is the first router given."""

    def __init__(self, routers: list[nn.Module], spec: RoutingSpec, pinned: PinnedRouting | None = None):
        self._routers, self._spec, self._pinned = routers, spec, pinned
        self._seen: dict[int, RouterOutput] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> RouterTap:
        self._handles = [router.register_forward_hook(partial(self._hook, i)) for i, router in enumerate(self._routers)]
        return self

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _hook(self, index: int, router: nn.Module, args: Any, output: RouterOutput) -> RouterOutput:
        logits_TE, weights_TK, ids_TK = output
        if self._pinned is not None:
            ids_TK = torch.from_numpy(self._pinned.topk_ids_LTK[index]).to(ids_TK.device)
            weights_TK = self._pinned_weights(index, logits_TE, ids_TK).to(weights_TK.device, weights_TK.dtype)
        self._seen[index] = (logits_TE, weights_TK, ids_TK)
        return self._seen[index]

    def _pinned_weights(self, index: int, logits_TE: torch.Tensor, ids_TK: torch.Tensor) -> torch.Tensor:
        assert self._pinned is not None
        if self._pinned.topk_weights_LTK is not None:
            return torch.from_numpy(self._pinned.topk_weights_LTK[index])
        return own_weights(logits_TE, ids_TK, self._spec)

    def seen(self) -> list[RouterOutput]:
        """What the last call's routers returned, in order."""
        return [self._seen[i] for i in range(len(self._routers))]

    def routing(self, mask_T: np.ndarray) -> Routing:
        """What was seen, for tokens of which `mask_T` are valid. L may be 0."""
        seen = self.seen()
        E, K, T = self._spec.num_experts, self._spec.top_k, len(mask_T)
        return Routing(
            topk_ids_LTK=_stack([ids for _, _, ids in seen], (0, T, K), np.int64),
            topk_weights_LTK=_stack([weights.float() for _, weights, _ in seen], (0, T, K), np.float32),
            router_logits_LTE=_stack([logits.float() for logits, _, _ in seen], (0, T, E), np.float32),
            mask_T=mask_T,
        )


def own_weights(logits_TE: torch.Tensor, ids_TK: torch.Tensor, spec: RoutingSpec) -> torch.Tensor:
    """Combine weights that the router would give these experts, in float32 like transformers' routers: scores of all experts, gathered,
    divided by their sum if `normalize_topk`, times the scaling factor. Groups and correction bias only select."""
    scores_TE = logits_TE.float().sigmoid() if spec.scoring == "sigmoid" else torch.softmax(logits_TE, dim=-1, dtype=torch.float32)
    weights_TK = scores_TE.gather(1, ids_TK)
    if spec.normalize_topk:
        weights_TK = weights_TK / (weights_TK.sum(dim=-1, keepdim=True) + (1e-20 if spec.scoring == "sigmoid" else 0.0))
    return weights_TK * spec.scaling_factor


def _stack(parts: list[torch.Tensor], empty: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.stack([part.cpu().numpy() for part in parts]).astype(dtype, copy=False) if parts else np.zeros(empty, dtype)


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
