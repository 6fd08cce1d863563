"""An engine of several processes of this machine, as Neuron runs them: one for each part of the model, connected by torch.distributed."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from implementations.interface import GraphProof, ModelConfig, Unsupported
from implementations.neuron.engine import Call, Result
from implementations.neuron.loading import Plan
from implementations.neuron.rank import serve
from implementations.neuron.routed import Pins, Routed

Serve = Callable[[int, str, str, Plan, Connection], None]
FAREWELL_S = 5.0  # before a process that was asked to end is ended


class Lost(RuntimeError):
    """A process of the mesh ended by itself. `str()` says which, and with what."""


class Processes:
    """`Engine`. Raises in `__init__` what a process raised while it loaded. `alive`: whether all of them are there. `serve`: what a process
    does."""

    def __init__(self, path: str, plan: Plan, serve: Serve = serve):
        self._directory = tempfile.mkdtemp(prefix="moe-harness-neuron-")
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        try:
            for rank in range(plan.variant.tp * plan.variant.ep):
                self._start(serve, rank, path, plan)
            self.config: ModelConfig = self._answers()
        except BaseException:
            self.close()
            raise

    def _start(self, serve: Serve, rank: int, path: str, plan: Plan) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["implementations.neuron.rank"])  # torch is imported once
        near, far = context.Pipe()
        process = context.Process(target=serve, args=(rank, f"file://{self._directory}/rendezvous", path, plan, far), daemon=True)
        process.start()
        far.close()
        self._pipes.append(near)
        self._processes.append(process)

    @property
    def alive(self) -> bool:
        return bool(self._processes) and all(process.is_alive() for process in self._processes)

    def run(self, call: Call) -> Result:
        found: Result = self._ask("run", call)
        return found

    def route(self, layer: int, x_TD: np.ndarray) -> Routed:
        found: Routed = self._ask("route", layer, x_TD)
        return found

    def block(self, layer: int, x_TD: np.ndarray, pins: Pins | None) -> np.ndarray:
        found: np.ndarray = self._ask("block", layer, x_TD, pins)
        return found

    def prove(self, call: Call) -> GraphProof:
        raise Unsupported("graphs of several processes are not exported yet")

    def clear(self) -> None:
        self._ask("clear")

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(FAREWELL_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._pipes, self._processes = [], []
        shutil.rmtree(self._directory, ignore_errors=True)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Of all processes; process 0's answer."""
        try:
            for pipe in self._pipes:
                pipe.send((method, arguments))
        except BrokenPipeError as error:
            raise self._lost() from error
        return self._answers()

    def _answers(self) -> Any:
        """One from each. What one raised is raised here, after all have answered."""
        waiting, found = dict(enumerate(self._pipes)), {}
        while waiting:
            for pipe in wait(list(waiting.values())):
                rank = self._pipes.index(pipe)  # type: ignore[arg-type]
                try:
                    found[rank] = waiting.pop(rank).recv()
                except (EOFError, ConnectionResetError) as error:
                    raise self._lost() from error
        for raised, _ in found.values():
            if raised is not None:
                raise raised
        return found[0][1]

    def _lost(self) -> Lost:
        for process in self._processes:
            process.join(0.5)
        gone = [f"process {rank} ended with {p.exitcode}" for rank, p in enumerate(self._processes) if not p.is_alive()]
        return Lost("; ".join(gone) or "a process closed its pipe")
