"""From a checkpoint to a model: in this process, in one for each part, or compiled by NxD."""

from __future__ import annotations

from dataclasses import replace

from moe_harness.implementations.interface import LoadSpec, ModelConfig, Unsupported
from moe_harness.implementations.neuron.cores import world
from moe_harness.implementations.neuron.crew import Crew, crew_of
from moe_harness.implementations.neuron.device import KIND
from moe_harness.implementations.neuron.engine import Engine, Local
from moe_harness.implementations.neuron.loading import Plan, build, make_plan
from moe_harness.implementations.neuron.mesh import Degrees, Mesh
from moe_harness.implementations.neuron.model import NeuronModel, Shape
from moe_harness.implementations.neuron.processes import Processes
from moe_harness.implementations.neuron.settings import Variant
from moe_harness.implementations.neuron.vendor import absent


def start(path: str, variant: Variant, spec: LoadSpec) -> NeuronModel:
    if variant.nxd:
        return built(path, variant, spec)
    return alone(path, variant, spec) if variant.size == 1 else together(path, variant, spec)


def alone(path: str, variant: Variant, spec: LoadSpec) -> NeuronModel:
    return part(path, make_plan(variant, spec), Mesh())


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
