"""What the Neuron backend uses of neuronx-distributed, by the signatures of 0.18, on a CPU: a traced module is run with each rank's
weights, found by their names, a thread for every rank. It says nothing about NxD itself."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import torch

_own = threading.local()  # rank, and the Exchange of its model


class Exchange:
    """Every rank's tensor, to every rank."""

    def __init__(self, size: int):
        self._slots: list[Any] = [None] * size
        self._barrier = threading.Barrier(size)

    def all(self, rank: int, x: torch.Tensor) -> list[torch.Tensor]:
        self._slots[rank] = x
        self._barrier.wait()
        found = list(self._slots)
        self._barrier.wait()
        return found


def reduce_from_tensor_model_parallel_region(input_, process_group=None):
    return torch.stack(_own.exchange.all(_own.rank, input_)).sum(0)


def gather_from_tensor_model_parallel_region(input_, process_group=None):
    return torch.cat(_own.exchange.all(_own.rank, input_), -1)


class NxDParallelState:
    size = 1

    def __init__(self, world_size=1, rank=0, tensor_model_parallel_size=1, pipeline_model_parallel_size=1):
        assert world_size == tensor_model_parallel_size
        self._size = world_size

    def __enter__(self):
        NxDParallelState.size = self._size

    def __exit__(self, *exc):
        NxDParallelState.size = 1


class NxDModel:
    def __init__(self, world_size: int, module: Any, traces: dict[str, Any]):
        self.world_size, self.module, self.traces = world_size, module, traces
        self.states: list[dict[str, torch.Tensor]] = [{}] * world_size

    def set_weights(self, sharded_checkpoint: list[dict[str, torch.Tensor]]) -> None:
        self._weights = sharded_checkpoint

    def to_neuron(self) -> None:
        self._exchange, self._ranks = Exchange(self.world_size), [copy.deepcopy(self.module) for _ in range(self.world_size)]
        for module, weights in zip(self._ranks, self._weights, strict=True):
            absent, unknown = module.load_state_dict(weights, strict=False)
            assert set(absent) == {f"cache.{name}" for name, _ in module.cache.named_buffers()} and not unknown
        self.states = [{name: each for name, each in module.named_buffers()} for module in self._ranks]

    def forward(self, *args, model_name=None, forward_mode="default", **kwargs):
        graph, shapes = self.traces[model_name]
        assert {name: (each.shape, each.dtype) for name, each in kwargs.items()} == shapes
        with ThreadPoolExecutor(self.world_size) as pool:
            return list(pool.map(lambda rank: self._run(rank, graph, kwargs), range(self.world_size)))[0]

    __call__ = forward

    def _run(self, rank: int, graph: Any, kwargs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        _own.rank, _own.exchange, module = rank, self._exchange, self._ranks[rank]
        module.graph = graph
        found: tuple[torch.Tensor, ...] = module(**kwargs)
        return found

    def write_to_neuron_buffer(self, tensor: torch.Tensor, buffer_key: str, rank: int) -> None:
        self._ranks[rank].get_buffer(buffer_key).copy_(tensor)

    def save(self, path_to_save: str, save_weights: bool = False) -> None:
        torch.save((self.world_size, self.module, self.traces), path_to_save)

    @classmethod
    def load(cls, path_to_model: str, start_rank=None, local_ranks_size=None) -> NxDModel:
        return cls(*torch.load(path_to_model, weights_only=False))


class ModelBuilder:
    compiled = 0  # how often, in all

    def __init__(self, model, weights_to_skip_layout_optimization=None):
        self.model, self.world_size = model, NxDParallelState.size
        self.traces: dict[str, Any] = {}

    def trace(self, args=None, kwargs=None, tag=None, spmd=True):
        self.traces[tag] = (self.model.graph, {name: (each.shape, each.dtype) for name, each in kwargs.items()})
        return self

    def compile(self, priority_model_key=None, compiler_workdir=None, compiler_args=None, max_workers=None):
        ModelBuilder.compiled += 1
        return NxDModel(self.world_size, self.model, self.traces)


def modules() -> dict[str, ModuleType]:
    """By the names that they are imported under."""
    found = {name: ModuleType(name) for name in ("torch_neuronx", "libneuronxla", "neuronx_distributed")}
    vars(found["neuronx_distributed"]).update(ModelBuilder=ModelBuilder, NxDModel=NxDModel, NxDParallelState=NxDParallelState)
    name = "neuronx_distributed.parallel_layers.mappings"
    found[name] = ModuleType(name)
    vars(found[name]).update(
        reduce_from_tensor_model_parallel_region=reduce_from_tensor_model_parallel_region,
        gather_from_tensor_model_parallel_region=gather_from_tensor_model_parallel_region,
    )
    return found
