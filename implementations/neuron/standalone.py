"""A router by itself: `Router` of the contract."""

from __future__ import annotations

import numpy as np
import torch

from moe_harness.implementations.common.torch.values import check_states, on_device
from moe_harness.implementations.interface import InvalidInput, LoadSpec, RouterWeights, Routing, RoutingSpec
from moe_harness.implementations.neuron.engine import alone
from moe_harness.implementations.neuron.loading import check_routable, make_plan
from moe_harness.implementations.neuron.router import Router
from moe_harness.implementations.neuron.settings import Variant


class StandaloneRouter:
    """In the dtype that the model's router would have."""

    def __init__(self, spec: RoutingSpec, weights: RouterWeights, load: LoadSpec):
        plan = make_plan(Variant(), load)
        check_routable(spec)
        given = (weights.bias_E is not None, weights.correction_bias_E is not None)
        if given != (spec.router_bias, spec.correction_bias) or len(weights.weight_ED) != spec.num_experts:
            raise InvalidInput(f"tensors for {len(weights.weight_ED)} experts, (bias, correction) {given}, do not fit {spec}")
        self._plan, self._hidden_size = plan, weights.weight_ED.shape[1]
        weight_ED, bias_E, correction_E = (
            None if part is None else on_device(part, plan.device)
            for part in (weights.weight_ED, weights.bias_E, weights.correction_bias_E)
        )
        assert weight_ED is not None
        rounded = (None if part is None else part.to(plan.dtype).to(plan.router_dtype) for part in (weight_ED, bias_E))
        weight_ED, bias_E = rounded
        assert weight_ED is not None
        self._router = Router(spec, weight_ED, correction_E, bias_E)

    @torch.inference_mode()
    def route(self, x_TD: np.ndarray) -> Routing:
        """See the contract."""
        x_TD = check_states(x_TD, self._hidden_size)
        found = alone(self._router, on_device(x_TD, self._plan.device).to(self._plan.dtype))
        return Routing(found.ids_LTK, found.weights_LTK, found.logits_LTE, None, np.ones(len(x_TD), bool))
