"""An engine that NxD Core's ModelBuilder compiles, for Trn1 and Inf2: one program for all NeuronCores, run from one process. Written
against neuronx-distributed 0.14 to 0.18 (Neuron 2.25 to 2.29), whose ModelBuilder traces one module under several tags.

Not yet run on hardware.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from importlib import import_module, metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Sequence

import numpy as np
import torch

from moe_harness.implementations.interface import Compilation, GraphProof, ModelConfig, Unsupported
from moe_harness.implementations.neuron.compiled import COSTS
from moe_harness.implementations.neuron.engine import Call, Pins, Result, Routed
from moe_harness.implementations.neuron.layers import Region
from moe_harness.implementations.neuron.loading import Plan, build
from moe_harness.implementations.neuron.mesh import Mesh
from moe_harness.implementations.neuron.seats import buckets
from moe_harness.implementations.neuron.traced import Graph, Traced, graph_of, graphs, inputs, result

ARGUMENTS = "--auto-cast=none --model-type=transformer -O1"  # of neuronx-cc; NxD's own defaults turn infinities into numbers


class Built:
    """`Engine`. `model`: an NxDModel on its cores. `longest`: the largest bucket."""

    def __init__(self, model: Any, longest: int):
        self._model, self._longest = model, longest

    def run(self, call: Call) -> Result:
        if call.pins is not None:
            raise Unsupported("no graph that NxD compiles takes pinned experts")
        found = self._model(model_name=graph_of(call, self._longest).tag, **inputs(call))
        return result(call, (found,) if isinstance(found, torch.Tensor) else found)

    def route(self, layer: int, x_TD: np.ndarray) -> Routed:
        raise Unsupported("NxD compiles whole models, no router alone")

    def block(self, layer: int, x_TD: np.ndarray, pins: Pins | None) -> np.ndarray:
        raise Unsupported("NxD compiles whole models, no block alone")

    def prove(self, call: Call) -> GraphProof:
        raise Unsupported("graphs that NxD traces are not exported")

    def clear(self) -> None:
        for rank, states in enumerate(self._model.states):
            for name, held in states.items():
                self._model.write_to_neuron_buffer(torch.zeros(held.shape, dtype=held.dtype), name, rank)

    def close(self) -> None:
        self._model = None


def start(path: str, plan: Plan) -> tuple[ModelConfig, Built]:
    """Compiles, or takes a model that was kept, and puts it on the cores. Raises as `build` does."""
    config, parts = _parts(path, plan)
    weights, states = [part.weights() for part in parts], len(list(parts[0].cache.buffers()))  # before a trace moves them
    wanted = graphs(1 if plan.settings.continuous_batching else plan.max_batch, plan.max_batch, buckets(plan.max_length))
    kept = _file(plan, config, parts[0], wanted)
    model = _read(kept) if kept else None
    if model is None:
        model = compiled(parts[0], wanted, plan.variant.tp)
    else:
        COSTS.add(Compilation(compiled=len(wanted), cached=len(wanted)))
    if kept and not kept.exists():
        _keep(model, kept)
    on_cores(model, weights, states)
    return config, Built(model, buckets(plan.max_length)[-1])


def compiled(part: Traced, wanted: Sequence[Graph], tp: int) -> Any:
    """An NxDModel without weights. The first process's part stands for all: they differ in weights alone."""
    nxd = import_module("neuronx_distributed")
    with nxd.NxDParallelState(world_size=tp, tensor_model_parallel_size=tp), TemporaryDirectory() as scratch:
        builder = nxd.ModelBuilder(part)
        for graph in wanted:
            part.graph = graph
            with COSTS.exporting():
                builder.trace(kwargs=graph.example(), tag=graph.tag)
        with COSTS.compiling(len(wanted)):
            return builder.compile(compiler_workdir=scratch, compiler_args=ARGUMENTS)


def on_cores(model: Any, weights: list[dict[str, torch.Tensor]], states: int) -> None:
    """Raises RuntimeError where NxD has not found every tensor of the cache to be a state: what is cached would be lost."""
    model.set_weights(weights)
    model.to_neuron()
    if len(model.states[0]) != states:
        raise RuntimeError(f"NxD holds {len(model.states[0])} states, the cache has {states} tensors")


def _parts(path: str, plan: Plan) -> tuple[ModelConfig, list[Traced]]:
    """Of every process."""
    tp, region, parts = plan.variant.tp, _region(), []
    for rank in range(tp):
        config, decoder, cache = build(path, plan, Mesh(tp, 1, rank, region))
        parts.append(Traced(decoder, cache, config.sliding_window, plan.max_length))
    return config, parts


def _region() -> Region:
    mappings = import_module("neuronx_distributed.parallel_layers.mappings")
    return Region(mappings.reduce_from_tensor_model_parallel_region, mappings.gather_from_tensor_model_parallel_region)


def _file(plan: Plan, config: ModelConfig, part: Traced, wanted: Sequence[Graph]) -> Path | None:
    """Named after all that a compiled model depends on, our own code included; None where none is kept."""
    directory = plan.settings.compiled
    if not directory:
        return None
    versions = [metadata.version(name) for name in ("neuronx-cc", "torch-neuronx", "neuronx-distributed")]
    rules = [moe.rule for moe in part.decoder.moes]
    asked = replace(plan, settings=replace(plan.settings, compiled=""))
    digest = hashlib.sha256(repr((config, asked, rules, wanted, ARGUMENTS, versions)).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return Path(directory) / f"nxd-{digest.hexdigest()[:16]}.pt"


def _read(kept: Path) -> Any:
    """None where there is none, or where NxD gives back less than what it was given."""
    nxd = import_module("neuronx_distributed")
    model = nxd.NxDModel.load(str(kept)) if kept.exists() else None
    return model if isinstance(model, nxd.NxDModel) else None


def _keep(model: Any, kept: Path) -> None:
    """Whole or not at all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    scratch = kept.with_suffix(f".{os.getpid()}")
    model.save(str(scratch))
    os.replace(scratch, kept)
