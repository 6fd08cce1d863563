"""Whether a Neuron device can be used here, and if not, why. TorchNeuron registers the device `neuron` when torch is imported; torch itself
is asked, since a package says little: what PyPI has as `torch-neuronx` is a placeholder that installs and does not import.

Not yet run on hardware.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module, metadata

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
