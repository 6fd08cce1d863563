"""One process of a mesh: joins the others, builds its part, and answers what the first process's parent asks of all."""

from __future__ import annotations

from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from implementations.neuron.collectives import connected
from implementations.neuron.engine import Local
from implementations.neuron.loading import Plan, build

BACKENDS = {"cpu": "gloo", "neuron": "neuron"}  # of torch.distributed
PATIENCE = timedelta(seconds=120)  # for a process that does not come, or has gone


def serve(rank: int, rendezvous: str, path: str, plan: Plan, pipe: Connection) -> None:
    """Until the pipe closes. Every answer is (None, value) or (exception, None); values come from process 0 alone. `rendezvous`: a URL that
    torch.distributed understands."""
    torch.set_num_threads(1)
    size = plan.variant.tp * plan.variant.ep
    try:
        if plan.device.type != "cpu":
            torch.accelerator.set_device_index(rank)
        dist.init_process_group(BACKENDS[plan.device.type], init_method=rendezvous, rank=rank, world_size=size, timeout=PATIENCE)
        config, decoder, cache = build(path, plan, connected(plan.variant.tp, plan.variant.ep))
        engine = Local(decoder, cache, config.sliding_window, plan.max_length, plan.settings.compile)
        pipe.send((None, config))
        while True:
            method, arguments = pipe.recv()
            pipe.send(_answer(engine, method, arguments, rank))
    except (EOFError, KeyboardInterrupt, ConnectionError):  # nobody asks any more
        pass
    except Exception as error:  # the parent raises it
        pipe.send((error, None))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _answer(engine: Local, method: str, arguments: tuple[Any, ...], rank: int) -> tuple[Exception | None, Any]:
    try:
        found = getattr(engine, method)(*arguments)
        return None, found if rank == 0 else None
    except Exception as error:
        return error, None
