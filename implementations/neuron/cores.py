"""How many NeuronCores this process may use: those of the instance that the runtime's variables leave it.

Not yet run on hardware.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess

from moe_harness.implementations.interface import Unsupported

NUMBER, VISIBLE = "NEURON_RT_NUM_CORES", "NEURON_RT_VISIBLE_CORES"
BIN = "/opt/aws/neuron/bin"  # where AWS installs its tools, often not on PATH
PATIENCE_S = 30.0


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
