"""transformers' routers, watched and overruled through forward hooks."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from moe_harness.implementations.interface import ModelConfig, PinnedRouting, Routing, RoutingSpec, Unsupported

RouterOutput = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # logits_TE, weights_TK, ids_TK: every router of transformers 5 so far


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
