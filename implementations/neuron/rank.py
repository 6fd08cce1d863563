"""One process of a mesh: joins the others, builds its part of every model, and answers what the parent of all asks."""

from __future__ import annotations

from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from moe_harness.implementations.interface import Compilation, ModelConfig
from moe_harness.implementations.neuron import device
from moe_harness.implementations.neuron.compiled import COSTS, one_after_the_other
from moe_harness.implementations.neuron.engine import Local
from moe_harness.implementations.neuron.layers import connected
from moe_harness.implementations.neuron.loading import Plan, build
from moe_harness.implementations.neuron.mesh import Degrees, Mesh

BACKENDS = {"cpu": "gloo", "neuron": "neuron"}  # of torch.distributed
FROM_ALL = ("prove", "compilation")
PATIENCE = timedelta(seconds=120)  # for a process that does not come, or has gone


def serve(rank: int, rendezvous: str, degrees: Degrees, pipe: Connection) -> None:
    """Until the pipe closes. Every answer is (None, value) or (exception, None); values come from process 0, those of FROM_ALL from all.
    `rendezvous`: a URL that torch.distributed understands."""
    torch.set_num_threads(1)
    try:
        if degrees.device != "cpu":
            torch.accelerator.set_device_index(rank)
        dist.init_process_group(BACKENDS[degrees.device], init_method=rendezvous, rank=rank, world_size=degrees.size, timeout=PATIENCE)
        engines = Engines(connected(degrees.tp, degrees.ep))
        pipe.send((None, None))
        while True:
            number, method, arguments = pipe.recv()
            pipe.send(_answer(engines, number, method, arguments, rank))
    except (EOFError, KeyboardInterrupt, ConnectionError):  # nobody asks any more
        pass
    except Exception as error:  # the parent raises it
        pipe.send((error, None))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class Engines:
    """This process's part of every model, by number."""

    def __init__(self, mesh: Mesh):
        self._mesh, self._held = mesh, dict[int, Local]()

    def load(self, number: int, path: str, plan: Plan) -> ModelConfig:
        config, decoder, cache = build(path, plan, self._mesh)
        self._held[number] = Local(decoder, cache, config.sliding_window, plan.max_length, plan.settings.compile)
        return config

    def unload(self, number: int) -> None:
        self._held.pop(number, None)

    def compilation(self, number: int) -> Compilation:
        """Of all models."""
        return one_after_the_other(COSTS.take(), device.compilation())

    def ask(self, number: int, method: str, arguments: tuple[Any, ...]) -> Any:
        if method in ("load", "unload", "compilation"):
            return getattr(self, method)(number, *arguments)
        return getattr(self._held[number], method)(*arguments)


def _answer(engines: Engines, number: int, method: str, arguments: tuple[Any, ...], rank: int) -> tuple[Exception | None, Any]:
    try:
        found = engines.ask(number, method, arguments)
        return None, found if rank == 0 or method in FROM_ALL else None
    except Exception as error:
        return error, None
