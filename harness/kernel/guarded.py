"""Runs a kernel in a process of its own: one that aborts, or hangs, costs the line of its case and not the run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from moe_harness.implementations.interface import InvalidInput, Unsupported
from moe_harness.implementations.kernels.loading import load_kernel
from moe_harness.implementations.worker.bond import end_with_parent, ending
from moe_harness.kernel.check import Line
from moe_harness.kernel.run import Suite, asked, run
from moe_harness.records.status import Status

DEATHS = 3  # in a row; then the rest is not asked any more
# After such an error every later call in the same process fails too, whatever it asks.
STICKY = ("CUDA error", "HIP error")


@dataclass(frozen=True)
class Order:
    """What a process is told. `timeout`: seconds that one case may take, the weights' making included."""

    function: str
    suite: Suite
    device: str = "cpu"
    arrays: str = "torch"
    timeout: float = 300.0


def guarded(order: Order) -> Iterator[Line]:
    """The lines of `run`, as they come. Raises what `load_kernel` and `asked` raise, and InvalidInput if not even that comes to an end."""
    lines, names, deaths = 0, None, 0
    while names is None or lines < len(names):
        with _Child(order, lines) as child:
            names = child.names
            for line in child.lines():
                lines, deaths = lines + 1, 0
                yield line
            if child.ended or lines == len(names):
                continue
            status, reason = child.death()
        yield Line(*names[lines], status, reason)
        lines, deaths = lines + 1, deaths + 1
        if deaths == DEATHS:
            yield from (Line(*name, Status.CRASHED, f"not asked: the process had died {DEATHS} times in a row") for name in names[lines:])
            return


class _Child:
    """A process that works through the cases from number `skip` on."""

    def __init__(self, order: Order, skip: int):
        context = get_context("spawn")  # a forked torch hangs in its thread pools
        self._receive, send = context.Pipe(duplex=False)
        self._timeout, self._hung, self.ended = order.timeout, False, False
        self._process: BaseProcess = context.Process(target=_serve, args=(order, skip, send), daemon=True)
        self._process.start()
        send.close()  # or the end of the child would not be seen

    def __enter__(self) -> _Child:
        message = self._next()
        if message is None:
            raise InvalidInput(f"the kernel cannot be imported: {self.death()[1]}")
        if isinstance(message, Exception):
            raise message
        self.names: list[tuple[str, str, str]] = message
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.join()
        self._receive.close()

    def lines(self) -> Iterator[Line]:
        """Until the child ends, dies or hangs."""
        while isinstance(message := self._next(), Line):
            yield message
        self.ended = message is not None

    def death(self) -> tuple[str, str]:
        """(status, reason)."""
        if self._hung:
            return Status.TIMEOUT, f"no answer within {self._timeout:g} s"
        self._process.join()
        return Status.CRASHED, f"the process {ending(self._process.exitcode or 0)}"

    def _next(self) -> Any:
        """A message, or None where there will be none."""
        if not self._receive.poll(self._timeout):
            self._hung = True
            return None
        try:
            return self._receive.recv()
        except EOFError:
            return None


def _serve(order: Order, skip: int, send: Connection) -> None:
    """In the child: the cases' names, a Line each, and "end"."""
    end_with_parent()
    try:
        kernel = load_kernel(order.function, order.suite.dtype, order.device, order.arrays)
        cases = asked(order.suite, kernel.arguments)
    except (InvalidInput, Unsupported) as error:
        send.send(error)
        return
    send.send([(case.name, case.group, case.about) for case in cases])
    for line in run(kernel, order.suite, cases[skip:]):
        send.send(line)
        if line.status == Status.CRASHED and any(words in line.reason for words in STICKY):
            break  # the next case gets a fresh process
    sys.stdout.flush()
    send.send("end")
