"""Whether a Neuron device can be used here, and if not, why. TorchNeuron registers the device `neuron` when torch is imported; torch itself
is asked, since a package says little: what PyPI has as `torch-neuronx` is a placeholder that installs and does not import.

Not yet run on hardware.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from importlib import import_module, metadata

from moe_harness.implementations.interface import Compilation

KIND = "neuron"
INSTALL = "the real one: pip install torch-neuronx --extra-index-url https://pip.repos.neuron.amazonaws.com"


@lru_cache(maxsize=1)
def missing() -> str:
    """Why there is no device, "" where there is one. Needs torch."""
    import torch

    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return "" if accelerator is not None and accelerator.type == KIND else _why()


def _why() -> str:
    return unimportable("torch-neuronx") or "torch-neuronx finds no device"


def unimportable(package: str) -> str:
    """Why a package of AWS's cannot be used, "" where its module can be imported."""
    module = package.replace("-", "_")
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        return _not_found(package) if error.name == module else f"{package} cannot be imported: {error}"
    except Exception as error:  # a placeholder, or a library that fails to load
        if "WRONG PACKAGE" in str(error):
            return f"{package} is PyPI's placeholder"
        return f"{package} cannot be imported: {type(error).__name__}: {error}"
    return ""


def _not_found(package: str) -> str:
    """The placeholder of neuronx-distributed has no module of that name."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return f"{package} is not installed"
    return f"{package} is PyPI's placeholder"


def compilation() -> Compilation:
    """Of TorchNeuron in this process, since the last call: graphs whose code was made (after torch.compile came back: that only queues
    them) or found in its cache of NEFFs, and operators of eager mode that it ran on the host."""
    if missing():
        return Compilation()
    torch_neuronx, compiler = import_module("torch_neuronx"), import_module("torch_neuronx.neuron_dynamo_backend")
    microseconds = [graph.torch_neuronx_compile_us for graph in compiler.get_dynamo_metrics()]
    left = Counter(torch_neuronx.get_fallback_ops())
    compiler.reset_dynamo_metrics()
    torch_neuronx.clear_op_tracking()
    return Compilation(compile_s=sum(microseconds) / 1e6, cached=microseconds.count(0), host_operators=dict(left))
