"""Routers by themselves, of families whose models are not here."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from moe_harness.implementations.common.torch.values import routing_of, states
from moe_harness.implementations.interface import InvalidInput, LoadSpec, RouterWeights, Routing, RoutingSpec
from moe_harness.implementations.native.loading import Plan, check_supported, make_plan, make_router
from moe_harness.implementations.native.router import Router


class NativeRouter:
    """`Router` of the contract."""

    def __init__(self, router: Router, hidden_size: int, plan: Plan):
        self._router, self._hidden_size, self._plan = router, hidden_size, plan

    @torch.inference_mode()
    def route(self, x_TD: np.ndarray) -> Routing:
        x = states(x_TD, self._hidden_size, self._plan.dtype, self._plan.device)
        return routing_of([self._router(x)], np.ones(len(x), bool), self._router.spec)


def build(spec: RoutingSpec, weights: RouterWeights, load: LoadSpec) -> NativeRouter:
    """Raises Unsupported for scores that are not computed here, InvalidInput for weights that do not fit the spec or a bad LoadSpec."""
    check_supported(spec)
    plan = make_plan(load)
    E, D = spec.num_experts, weights.weight_ED.shape[-1]
    weight_ED = _tensor("weight", weights.weight_ED, (E, D)).to(plan.device, plan.dtype)
    bias_E = _optional("bias", weights.bias_E, spec.router_bias, E)
    correction_E = _optional("correction_bias", weights.correction_bias_E, spec.correction_bias, E)
    bias_E = None if bias_E is None else bias_E.to(plan.device, plan.dtype)
    correction_E = None if correction_E is None else correction_E.to(plan.device)
    return NativeRouter(make_router(spec, plan, weight_ED, bias_E, correction_E), D, plan)


def _optional(name: str, values_E: np.ndarray | None, wanted: bool, E: int) -> Tensor | None:
    if wanted != (values_E is not None):
        raise InvalidInput(f"router {name} is {'missing' if wanted else 'not part of the RoutingSpec'}")
    return None if values_E is None else _tensor(name, values_E, (E,))


def _tensor(name: str, values: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    if values.shape != shape:
        raise InvalidInput(f"router {name} of shape {values.shape}, {shape} is expected")
    return torch.from_numpy(np.array(values, np.float32))
