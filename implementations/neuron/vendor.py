"""Whether AWS's NxD Core (neuronx-distributed), which compiles for Trn1 and Inf2, can be used here, and if not, why. Its libraries are
imported to find out: PyPI has placeholders of the same names.

Not yet run on hardware.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

from moe_harness.implementations.interface import Unsupported
from moe_harness.implementations.neuron.cores import world
from moe_harness.implementations.neuron.device import unimportable

PACKAGES = ("torch-neuronx", "libneuronxla", "neuronx-distributed")  # each needs those before it
NAMES = ("ModelBuilder", "NxDModel", "NxDParallelState")  # since 0.14, Neuron 2.25
INSTALL = (
    "the real ones, under Python 3.9 to 3.11: pip install neuronx-cc==2.* torch-neuronx==2.9.* neuronx-distributed "
    "--extra-index-url https://pip.repos.neuron.amazonaws.com"
)


def absent(tp: int) -> str:
    """Why a model cannot run on `tp` NeuronCores (0: all that are visible), "" where it can."""
    if why := missing():
        return f"no NxD: {why}; {INSTALL}"
    try:
        world(tp)
    except Unsupported as error:
        return str(error)
    return ""


@lru_cache(maxsize=1)
def missing() -> str:
    """Why there is no NxD, "" where there is."""
    found = next(filter(None, map(unimportable, PACKAGES)), "")
    return found or _lacking(import_module("neuronx_distributed"))


def _lacking(module: object) -> str:
    lacking = [name for name in NAMES if not hasattr(module, name)]
    return f"neuronx-distributed has no {', '.join(lacking)}: a placeholder, or older than 0.14" if lacking else ""
