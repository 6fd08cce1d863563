"""The Ray cluster (https://docs.ray.io): connected to, given work by what it needs, asked for what became of it.

Ray is imported here alone, and only when a fleet is asked for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

LOCAL = "local"  # an own cluster on this machine, for the length of the run
REACHED_IN = 10.0  # seconds
RETRIES = 1  # of a share whose machine was lost


class NoCluster(Exception):
    """Ray is not installed, or nothing answers at the address. `str()` says which, and what to do."""


@dataclass(frozen=True)
class Lost:
    """What is left of work that did not come back."""

    reason: str


def needs(device: str) -> dict[str, Any]:
    """Ray's options for work on a device: a core; a GPU for cuda; a NeuronCore (Ray's own name for the resource) for neuron."""
    kind = device.split(":")[0]
    extra: dict[str, dict[str, Any]] = {"cuda": {"num_gpus": 1}, "neuron": {"resources": {"neuron_cores": 1}}}
    return {"num_cpus": 1, "max_retries": RETRIES, **extra.get(kind, {})}


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """The module `ray`, connected; disconnected again unless it was before. Raises NoCluster."""
    ray = _ray()
    if ray.is_initialized():
        yield ray
        return
    try:
        _reach(address)
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except Exception as error:  # ConnectionError, ValueError for an address, RuntimeError for versions that differ
        raise NoCluster(f"no Ray cluster at {address}: {' '.join(str(error).split())}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT: Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=REACHED_IN).close()


def _ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise NoCluster("--ray needs Ray: pip install 'moe-harness[ray]'") from error
    return ray


def done(ray: ModuleType, work: Callable[..., Any], calls: Sequence[tuple[Any, ...]], options: dict[str, Any]) -> Iterator[tuple[int, Any]]:
    """(index of the call, its result or Lost) as they come back."""
    remote = ray.remote(**options)(work)
    waiting = {remote.remote(*call): index for index, call in enumerate(calls)}
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        yield waiting.pop(ready), _result(ray, ready)


def _result(ray: ModuleType, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # the work itself raised: no other machine would do better
        return Lost(f"the share could not be run: {error.cause!r}")
    except ray.exceptions.RayError as error:
        return Lost(f"the machine was lost, and again on the second try: {type(error).__name__}")


def require(ray: ModuleType, options: dict[str, Any]) -> None:
    """Raises NoCluster where no machine has what the options ask for: Ray would wait for one for ever."""
    asked = {"CPU": options.get("num_cpus", 0), "GPU": options.get("num_gpus", 0), **options.get("resources", {})}
    have = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= amount for name, amount in asked.items()) for node in have):
        wanted = ", ".join(f"{name} {amount:g}" for name, amount in asked.items() if amount)
        raise NoCluster(f"no machine of the Ray cluster has {wanted}")
