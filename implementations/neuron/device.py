"""Whether a Neuron device can be used here, and if not, why; for models that AWS's NxD Core compiles (Trn1 and Inf2), whether its libraries
are here and how many NeuronCores.

TorchNeuron registers the device `neuron` when torch is imported; torch itself is asked, and NxD's libraries are imported, since packages
say little: what PyPI has under their names are placeholders, which install and do not import.

Not yet run on hardware.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from functools import lru_cache
from importlib import import_module, metadata

from moe_harness.implementations.interface import Compilation, Unsupported

KIND = "neuron"
INSTALL = "the real one: pip install torch-neuronx --extra-index-url https://pip.repos.neuron.amazonaws.com"
PACKAGES = ("torch-neuronx", "libneuronxla", "neuronx-distributed")  # each needs those before it
NAMES = ("ModelBuilder", "NxDModel", "NxDParallelState")  # since 0.14, Neuron 2.25
NXD_INSTALL = (
    "the real ones, under Python 3.9 to 3.11: pip install neuronx-cc==2.* torch-neuronx==2.9.* neuronx-distributed "
    "--extra-index-url https://pip.repos.neuron.amazonaws.com"
)
NUMBER, VISIBLE = "NEURON_RT_NUM_CORES", "NEURON_RT_VISIBLE_CORES"
BIN = "/opt/aws/neuron/bin"  # where AWS installs its tools, often not on PATH
PATIENCE_S = 30.0


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


def absent(tp: int) -> str:
    """Why a model cannot run on `tp` NeuronCores (0: all that are visible), "" where it can."""
    if why := nxd_missing():
        return f"no NxD: {why}; {NXD_INSTALL}"
    try:
        world(tp)
    except Unsupported as error:
        return str(error)
    return ""


@lru_cache(maxsize=1)
def nxd_missing() -> str:
    """Why there is no NxD, "" where there is."""
    found = next(filter(None, map(unimportable, PACKAGES)), "")
    return found or _lacking(import_module("neuronx_distributed"))


def _lacking(module: object) -> str:
    lacking = [name for name in NAMES if not hasattr(module, name)]
    return f"neuronx-distributed has no {', '.join(lacking)}: a placeholder, or older than 0.14" if lacking else ""


def world(tp: int) -> int:
    """`tp`, or all visible cores where it is 0. Raises Unsupported where there are not as many."""
    there = visible()
    if there == 0:
        raise Unsupported(f"no NeuronCore is visible: neuron-ls lists none, and {NUMBER} and {VISIBLE} are not set")
    if tp > there:
        raise Unsupported(f"tp{tp} takes {tp} NeuronCores, {there} are visible")
    return tp or there


def visible() -> int:
    """The least of what neuron-ls lists and the variables allow; what is not said does not count. Raises Unsupported for a variable without
    sense."""
    number, cores = (os.environ.get(name, "").strip() for name in (NUMBER, VISIBLE))
    said = [_listed(), _number(number) if number else 0, _cores(cores) if cores else 0]
    return min(filter(None, said), default=0)


def _number(text: str) -> int:
    """0 stands for all."""
    if not text.isdecimal():
        raise Unsupported(f"{NUMBER}: a number of cores is expected, got {text!r}")
    return int(text)


def _cores(text: str) -> int:
    """Of 4, 0-3 or 0,2,4-7."""
    try:
        spans = [tuple(map(int, part.split("-"))) for part in text.split(",")]
        found = {core for span in spans for core in range(span[0], span[-1] + 1) if len(span) <= 2}
    except ValueError:
        found = set()
    if not found:
        raise Unsupported(f"{VISIBLE}: cores like 4, 0-3 or 0,2 are expected, got {text!r}")
    return len(found)


def _listed() -> int:
    """By neuron-ls, 0 without it: a list of devices, each with its `nc_count`."""
    program = shutil.which("neuron-ls") or shutil.which("neuron-ls", path=BIN)
    if program is None:
        return 0
    try:
        told = subprocess.run([program, "--json-output"], capture_output=True, timeout=PATIENCE_S, check=True).stdout
        return sum(int(device["nc_count"]) for device in json.loads(told))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return 0
