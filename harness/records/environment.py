"""The machine a run happens on: host, processor, memory, accelerators, package versions, commit. Standard library only."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

# What can change a verdict or a speed. Absent distributions are left out.
DISTRIBUTIONS = (
    "moe-harness numpy scipy ml-dtypes safetensors torch transformers triton transformer-engine torch-neuronx neuronx-cc "
    "neuronx-distributed-inference optimum-neuron llama-cpp-python gguf candle-nn vllm sglang jax mlx pytest pytest-xdist "
    "pytest-benchmark hypothesis"
).split()
_SECONDS = 10  # a driver that hangs must not hang the run
_NEURON_BIN = "/opt/aws/neuron/bin"  # where AWS installs neuron-ls, often not on PATH


def environment() -> dict[str, Any]:
    """{hostname, os, python, cpu, cores, threads, memory_gib, accelerators, packages, commit, dirty}.

    `cores`: physical cores of the machine (logical ones where the kernel does not tell). `threads`: what this process may use, that is its
    affinity mask capped by OMP_NUM_THREADS. `commit`, `dirty`: of the git checkout that tracks this package, else None.
    """
    commit, dirty = _commit()
    return {
        "hostname": platform.node(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}".strip(),
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": _cores(),
        "threads": threads(),
        "memory_gib": _memory_gib(),
        "accelerators": _nvidia() + _neuron(),
        "packages": _packages(),
        "commit": commit,
        "dirty": dirty,
    }


def _output(command: Sequence[str], cwd: Path | None = None) -> str | None:
    """Standard output, stripped at the end; None if the program is missing, fails or hangs."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook's GIT_DIR is not our checkout
    try:
        done = subprocess.run(command, cwd=cwd, env=variables, capture_output=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").rstrip()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _fields(text: str, name: str) -> list[str]:
    """Values of the `name : value` lines, the layout of /proc/cpuinfo and /proc/meminfo."""
    pairs = (line.partition(":") for line in text.splitlines())
    return [value.strip() for key, _, value in pairs if key.strip() == name]


def _cpu() -> str:
    names = _fields(_read("/proc/cpuinfo"), "model name")
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int | None:
    text = _read("/proc/cpuinfo")
    physical = set(zip(_fields(text, "physical id"), _fields(text, "core id"), strict=False))
    return len(physical) or os.cpu_count()


def threads() -> int | None:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list sets one number per nesting level
    return min(int(first), allowed or int(first)) if first.isdecimal() and int(first) else allowed


def _memory_gib() -> float | None:
    total = _fields(_read("/proc/meminfo"), "MemTotal")
    if total:
        return round(int(total[0].split()[0]) / 2**20, 1)
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _nvidia() -> list[str]:
    """One "name, memory, driver version" per GPU."""
    if not (program := shutil.which("nvidia-smi")):
        return []
    listed = _output([program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"])
    return [line.strip() for line in (listed or "").splitlines() if line.strip()]


def _neuron() -> list[str]:
    """One "Neuron device N, cores, memory" per device. `neuron-ls --json-output` lists {neuron_device, nc_count, memory_size in bytes}."""
    program = shutil.which("neuron-ls") or shutil.which("neuron-ls", path=_NEURON_BIN)
    listed = _output([program, "--json-output"]) if program else None
    try:
        devices = json.loads(listed or "[]")
    except ValueError:
        return []
    return [_neuron_device(device) for device in devices if isinstance(device, dict)] if isinstance(devices, list) else []


def _neuron_device(device: dict[str, Any]) -> str:
    size = device.get("memory_size")
    memory = f"{size / 2**30:.0f} GiB" if isinstance(size, (int, float)) else "memory unknown"
    return f"Neuron device {device.get('neuron_device', '?')}, {device.get('nc_count', '?')} cores, {memory}"


def _packages() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> tuple[str | None, bool | None]:
    """(commit, dirty) of the checkout that tracks this package: a site-packages inside somebody's repository is not one."""
    here = Path(__file__).resolve().parent
    if _output(["git", "ls-files", "--error-unmatch", "__init__.py"], cwd=here) is None:
        return None, None
    commit = _output(["git", "rev-parse", "HEAD"], cwd=here)
    changes = _output(["git", "status", "--porcelain", "--untracked-files=no"], cwd=here)
    return (commit, bool(changes)) if commit and changes is not None else (None, None)
