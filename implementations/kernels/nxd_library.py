"""neuronx-distributed's MoE package, imported on a CPU where its source is on PYTHONPATH. Nothing of it is part of this project."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec, module_from_spec
from typing import Any

import torch.distributed as dist

from moe_harness.implementations.interface import Unsupported
from moe_harness.implementations.kernels.stand_ins import StandIns

PACKAGE = "neuronx_distributed"
MODULES = ("expert_mlps_v2", "moe_configs", "routing")
WHERE = "put the src folder of github.com/aws-neuron/neuronx-distributed on PYTHONPATH"
VENDOR = ("torch_xla", "torch_neuronx", "libneuronxla", "neuronxcc", "nki", "nkilib")
ANSWERS = {"torch_neuronx.utils.get_platform_target": "trn2"}  # asked while process groups are made


@dataclass(frozen=True)
class Library:
    """Its modules that an adapter needs."""

    experts: Any
    configs: Any
    routing: Any
    stand_ins: StandIns


@lru_cache(maxsize=1)
def library() -> Library:
    """Imports it and makes it a world of one process. Raises Unsupported where it is not there or cannot be imported."""
    place = _place()
    os.environ["NXD_CPU_MODE"] = "1"
    os.environ.setdefault("NXD_LOG_LEVEL", "error")
    stand_ins = StandIns(VENDOR, ANSWERS)
    try:
        with stand_ins:
            experts, configs, routing = (importlib.import_module(f"{PACKAGE}.modules.moe.{name}") for name in MODULES)
            state = importlib.import_module(f"{PACKAGE}.parallel_layers.parallel_state")
    except Exception as error:  # importing foreign code may raise anything
        _forget()
        raise Unsupported(_reason(error, place)) from error
    _start(state)
    return Library(experts, configs, routing, stand_ins)


def _place() -> str:
    """Where the package lies. Its `__init__` is left out: it imports tracing, pipelines and trainers, which need what is not here."""
    spec = find_spec(PACKAGE)
    if spec is None:
        raise Unsupported(f"{_absence()}; {WHERE}")
    sys.modules.setdefault(PACKAGE, module_from_spec(spec))
    return ", ".join(spec.submodule_search_locations or [str(spec.origin)])


def _absence() -> str:
    """PyPI's placeholder installs well and holds no module of this name."""
    try:
        return f"neuronx-distributed {version('neuronx-distributed')} is installed and cannot be imported: PyPI's is a placeholder"
    except PackageNotFoundError:
        return f"{PACKAGE} is not installed"


def _reason(error: Exception, place: str) -> str:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith(PACKAGE):
        return f"{PACKAGE} in {place} has no {error.name}: another package, or one too old or too new; {WHERE}"
    return f"{PACKAGE} in {place} cannot be imported: {type(error).__name__}: {error}"


def _forget() -> None:
    """Half an import would be taken for a whole one."""
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def _start(state: Any) -> None:
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if not state.model_parallel_is_initialized():
        state.initialize_model_parallel()
