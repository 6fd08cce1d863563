"""The processes of this machine that models are split over, as Neuron runs them: one for each part, connected by torch.distributed.

Starting them costs seconds, so all models of one mesh share a crew, which ends with this process or when one of its members is lost.
"""

from __future__ import annotations

import atexit
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from moe_harness.implementations.interface import Compilation
from moe_harness.implementations.neuron.compiled import side_by_side
from moe_harness.implementations.neuron.mesh import Degrees
from moe_harness.implementations.neuron.rank import serve
from moe_harness.implementations.worker.bond import end_with_parent, ending

Serve = Callable[[int, str, Degrees, Connection], None]
NO_MODEL = -1
FAREWELL_S = 5.0  # before a process that was asked to end is ended


def _bound(serve: Serve, rank: int, rendezvous: str, degrees: Degrees, pipe: Connection) -> None:
    """What a process does, and no longer than its parent lives, even in a collective that the others have left."""
    end_with_parent()
    serve(rank, rendezvous, degrees, pipe)


class Lost(RuntimeError):
    """A process of the mesh ended by itself. `str()` says which, and with what."""


class Crew:
    """Raises in `__init__` what a process raised while it started. `alive`: whether all of them are there. `serve`: what a process does."""

    def __init__(self, degrees: Degrees, serve: Serve = serve):
        self._directory = tempfile.mkdtemp(prefix="moe-harness-neuron-")
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        try:
            for rank in range(degrees.size):
                self._start(serve, rank, degrees)
            self._answers()
        except BaseException:
            self.close()
            raise
        finally:  # once they have met
            shutil.rmtree(self._directory, ignore_errors=True)

    def _start(self, serve: Serve, rank: int, degrees: Degrees) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["moe_harness.implementations.neuron.rank"])  # torch is imported once
        near, far = context.Pipe()
        process = context.Process(target=_bound, args=(serve, rank, f"file://{self._directory}/rendezvous", degrees, far), daemon=True)
        process.start()
        far.close()
        self._pipes.append(near)
        self._processes.append(process)

    @property
    def alive(self) -> bool:
        return bool(self._processes) and all(process.is_alive() for process in self._processes)

    def ask(self, model: int, method: str, *arguments: Any) -> list[Any]:
        """The answers of all processes, of most of which process 0's alone is not None. What one raised is raised here, after all have
        answered."""
        try:
            for pipe in self._pipes:
                pipe.send((model, method, arguments))
        except BrokenPipeError as error:
            raise self._lost() from error
        return self._answers()

    def close(self) -> None:
        for pipe in self._pipes:
            pipe.close()
        for process in self._processes:
            process.join(FAREWELL_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._pipes, self._processes = [], []

    def _answers(self) -> list[Any]:
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
        return [found[rank][1] for rank in sorted(found)]

    def _lost(self) -> Lost:
        for process in self._processes:
            process.join(0.5)
        gone = [f"process {rank} {ending(p.exitcode or 0)}" for rank, p in enumerate(self._processes) if not p.is_alive()]
        return Lost("; ".join(gone) or "a process closed its pipe")


_crews: dict[Degrees, Crew] = {}


def _dismiss() -> None:
    """Ends all processes, in their own time: ended by force they leave semaphores behind."""
    while _crews:
        _crews.popitem()[1].close()


def crew_of(degrees: Degrees) -> Crew:
    """The one of this program, started where there is none or one of its members is gone. It ends with the program."""
    if not _crews:
        atexit.register(_dismiss)
    crew = _crews.get(degrees)
    if crew is None or not crew.alive:
        if crew is not None:
            crew.close()
        crew = _crews[degrees] = Crew(degrees)
    return crew


def compilation() -> list[Compilation]:
    """Of each mesh, since the last call."""
    return [side_by_side(crew.ask(NO_MODEL, "compilation")) for crew in _crews.values() if crew.alive]
