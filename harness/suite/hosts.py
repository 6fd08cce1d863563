"""Where each backend of a run lives: in this process, or in a worker, under an interpreter of its own (`--python NAME=PATH`)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from moe_harness.implementations import registry
from moe_harness.implementations.interface import Backend, Capabilities, Compilation, Compiler
from moe_harness.implementations.worker import DEFAULT_TIMEOUT, RemoteError, WorkerBackend, WorkerCrashed
from moe_harness.suite.options import spec_of

if TYPE_CHECKING:
    from moe_harness.suite.subject import Subject, Workshop


class Hosts:
    """`pythons`: backend name -> interpreter. `timeout`: seconds a call to a worker."""

    def __init__(self, pythons: Mapping[str, str], timeout: float = DEFAULT_TIMEOUT):
        self._workers = {name: WorkerBackend(name, python, timeout) for name, python in pythons.items()}

    def backend(self, name: str) -> Backend:
        """Raises what `registry.backend` raises; of a worker, only its first call does."""
        return self._workers[name] if name in self._workers else registry.backend(name)

    def check(self, name: str) -> None:
        """Raises what `registry.backend` raises. What a worker dies of at its start, its checks will say."""
        if name in self._workers:
            with suppress(WorkerCrashed, RemoteError):
                self._workers[name].connect()
        else:
            registry.backend(name)

    def declared(self, name: str) -> Capabilities:
        """The backend's capabilities; a worker that died before it told them is not started again for it: raises WorkerCrashed."""
        if name not in self._workers:
            return registry.backend(name).capabilities()
        found = self._workers[name].declared
        if found is None:
            raise WorkerCrashed(f"the worker of {name} has not told its capabilities")
        return found

    def compilation(self, name: str) -> Compilation:
        """What the backend tells since the last call; nothing of one that has no such method, or whose worker is not running."""
        if name in self._workers and not self._workers[name].alive:
            return Compilation()
        found = self.backend(name)
        return found.compilation() if isinstance(found, Compiler) else Compilation()

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()


def parse(given: Iterable[str], asked: Iterable[str]) -> dict[str, str]:
    """NAME=PATH words -> {name: interpreter}; an empty path means the harness's own. Raises ValueError for another form, a name given twice
    or not among the backends `asked`."""
    pythons: dict[str, str] = {}
    known = list(asked)
    for word in given:
        name, equals, path = word.partition("=")
        if not name or not equals:
            raise ValueError(f"--python {word}: expected NAME=PATH")
        if name not in known:
            raise ValueError(f"--python {word}: no backend {name!r} in this run (it has: {', '.join(known)}); add --backend {name}")
        if name in pythons:
            raise ValueError(f"--python {word}: {name} has an interpreter already")
        pythons[name] = path
    return pythons


_HOSTS = pytest.StashKey[Hosts]()


def hosts(config: pytest.Config) -> Hosts:
    """Those of this process, made once. Raises ValueError for options that make no sense, BadInterpreter being one."""
    if _HOSTS not in config.stash:
        spec = spec_of(config)
        pythons = parse(spec.python or (), spec.pair or spec.backend or registry.names())
        config.stash[_HOSTS] = Hosts(pythons, _timeout(spec.timeout, bool(pythons)))
    return config.stash[_HOSTS]


def available(config: pytest.Config, param: tuple[str, Any, str], workshop: Workshop) -> Subject:
    """The subject of (backend name, case, dtype). Raises Unavailable where it cannot run or a device is required and missing."""
    from moe_harness.suite.subject import Subject, Unavailable

    name, case, dtype = param
    chosen = Subject(hosts(config).backend(name), case, dtype, workshop)
    if reason := chosen.capabilities.unavailable:
        raise Unavailable(reason)
    execution = runs_as(chosen.capabilities, workshop.device)
    if spec_of(config).require == "device" and execution != "device":
        raise Unavailable(f"--require device: {name} runs as {execution} here")
    return chosen


def runs_as(capabilities: Capabilities, device: str) -> str:
    """device | cpu | emulated: where models are that are loaded onto `device`."""
    return "cpu" if device == "cpu" and "cpu" in capabilities.devices else capabilities.execution


def _timeout(given: float | None, workers: bool) -> float:
    if given is None:
        return DEFAULT_TIMEOUT
    if not workers:
        raise ValueError("a timeout of calls needs a backend in a worker: --python NAME=PATH")
    if not 0 < given < math.inf:
        raise ValueError(f"a timeout of calls must be positive, got {given:g}")
    return given


def close(config: pytest.Config) -> None:
    """Ends the workers, if any were started."""
    if _HOSTS in config.stash:
        config.stash[_HOSTS].close()
