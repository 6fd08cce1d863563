"""From a checkpoint to a model: in this process, in one for each part, or compiled by NxD; and from weights to a router by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from moe_harness.implementations.common.torch.values import check_states, on_device
from moe_harness.implementations.interface import InvalidInput, LoadSpec, ModelConfig, RouterWeights, Routing, RoutingSpec, Unsupported
from moe_harness.implementations.neuron.crew import Crew, crew_of
from moe_harness.implementations.neuron.device import KIND, absent, world
from moe_harness.implementations.neuron.engine import Engine, Local, alone
from moe_harness.implementations.neuron.loading import Plan, build, check_routable, make_plan
from moe_harness.implementations.neuron.mesh import Degrees, Mesh
from moe_harness.implementations.neuron.model import NeuronModel, Shape
from moe_harness.implementations.neuron.moe import Router
from moe_harness.implementations.neuron.processes import Processes
from moe_harness.implementations.neuron.settings import Variant


def start(path: str, variant: Variant, spec: LoadSpec) -> NeuronModel:
    if variant.nxd:
        return built(path, variant, spec)
    return part(path, make_plan(variant, spec), Mesh()) if variant.size == 1 else together(path, variant, spec)


def part(path: str, plan: Plan, mesh: Mesh) -> NeuronModel:
    """Of a model whose other parts run the same calls in other processes."""
    config, decoder, cache = build(path, plan, mesh)
    return _model(config, Local(decoder, cache, config.sliding_window, plan.max_length, plan.settings.compile), plan)


def together(path: str, variant: Variant, spec: LoadSpec, crew: Crew | None = None) -> NeuronModel:
    """`crew`: of the variant's size; None: the one that all models share."""
    plan = make_plan(variant, spec)
    engine = Processes(path, plan, crew or crew_of(Degrees(variant.tp, variant.ep, plan.device.type)))
    return _model(engine.config, engine, plan)


def built(path: str, variant: Variant, spec: LoadSpec) -> NeuronModel:
    """Made ready on the CPU, run on NeuronCores. Raises Unsupported where NxD or the cores are missing."""
    plan = make_plan(variant, replace(spec, device="cpu") if spec.device == KIND else spec)
    if why := absent(variant.tp):
        raise Unsupported(why)
    from moe_harness.implementations.neuron import builder

    plan = replace(plan, variant=replace(variant, tp=world(variant.tp)))
    config, engine = builder.start(path, plan)
    return _model(config, engine, plan)


def _model(config: ModelConfig, engine: Engine, plan: Plan) -> NeuronModel:
    settings = plan.settings
    return NeuronModel(config, engine, Shape(plan.max_batch, plan.max_length, settings.continuous_batching, settings.on_device_sampling))


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
