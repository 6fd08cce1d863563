"""The far side: resolves a backend, keeps what it makes, answers calls one at a time until the near side goes."""

from __future__ import annotations

import argparse
import faulthandler
import os
import platform
import select
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from moe_harness.implementations.interface import CONTRACT_VERSION
from moe_harness.implementations.registry import backend
from moe_harness.implementations.worker import errors, values, wire
from moe_harness.implementations.worker.lending import take_back
from moe_harness.implementations.worker.surface import KINDS, MAKES

GRACE_SECONDS = 2.0  # after the near side has gone: for the backend to give its device back


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Greets, then serves until the connection ends."""
    parser = argparse.ArgumentParser(prog="python -m moe_harness.implementations.worker")
    parser.add_argument("--wire", type=int, required=True, help="file descriptor of the connected socket")
    parser.add_argument("--directory", required=True, help="current directory of the near side")
    parser.add_argument("--lent", type=Path, required=True, help="directory that is removed at the end, see lending.py")
    parser.add_argument("name", help="NAME[:VARIANT] or MODULE:FACTORY")
    asked = parser.parse_args(arguments)
    connection = socket.socket(fileno=asked.wire)
    connection.set_inheritable(False)  # a process that the backend starts must not keep the connection open
    faulthandler.enable(all_threads=False)
    _start_watch(asked.wire, asked.lent)
    _enter(asked.directory)
    try:
        Server(connection).serve(asked.name)
    except (EOFError, OSError):  # the near side has closed or died
        take_back(asked.lent)


def _enter(directory: str) -> None:
    """Paths, and modules of the user's own, mean what they mean on the near side; our package stays first."""
    os.chdir(directory)
    sys.path.insert(1, directory)


def _start_watch(descriptor: int, lent: Path) -> None:
    """A process, because a thread sees nothing of a call that hangs with the interpreter's lock; forked twice, so that a backend that waits
    for its own children does not wait for this one."""
    if (pid := os.fork()) == 0:
        if os.fork() == 0:
            _watch(descriptor, lent)
        os._exit(0)
    os.waitpid(pid, 0)


def _watch(descriptor: int, lent: Path) -> None:
    """Ends this process group when the near side has gone, or with SIGTERM at once."""
    signal.signal(signal.SIGTERM, lambda number, frame: _end_group(lent))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nowhere, standard)
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is always reported
    poll.poll()
    time.sleep(GRACE_SECONDS)
    _end_group(lent)


def _end_group(lent: Path) -> None:
    take_back(lent)
    os.killpg(os.getpgrp(), signal.SIGKILL)


class Server:
    """Objects by number: 0 is the backend, the others are what its methods made."""

    def __init__(self, connection: socket.socket):
        self._connection = connection
        self._objects: Dict[int, Tuple[str, Any]] = {}
        self._made = 0

    def serve(self, name: str) -> None:
        self._send(self._answer(0, lambda: lambda: backend(name), "backend"))
        while True:
            request, arrays = wire.receive(self._connection)
            for number in request["release"]:
                self._objects.pop(number, None)
            self._send(self._call(request, arrays))

    def _call(self, request: wire.Header, arrays: values.Arrays) -> Tuple[wire.Header, values.Arrays]:
        number, method = request["object"], request["method"]

        def prepare() -> Callable[[], Any]:
            if number not in self._objects:
                raise ValueError(f"{method} of something that was closed")
            kind, thing = self._objects[number]
            if method not in KINDS[kind].required + KINDS[kind].optional:
                raise wire.ProtocolError(f"a {kind} has no method {method!r}")
            args, kwargs = values.decode(request["args"], arrays), values.decode(request["kwargs"], arrays)
            return lambda: getattr(thing, method)(*args, **kwargs)

        answer = self._answer(request["call"], prepare, MAKES.get(method))
        if method == "close":
            self._objects.pop(number, None)
        return answer

    def _answer(self, number: int, prepare: Callable[[], Callable[[], Any]], makes: Optional[str]) -> Tuple[wire.Header, values.Arrays]:
        """The reply to one call; `prepare` reads its arguments, untimed. SystemExit and KeyboardInterrupt end the worker."""
        arrays: List[np.ndarray] = []
        began = time.perf_counter()
        try:
            call = prepare()
            began = time.perf_counter()
            result = call()
            seconds = time.perf_counter() - began
            reply = {"made": self._keep(makes, result)} if makes else {"result": values.encode(result, arrays)}
        except Exception as error:  # noqa: BLE001  a backend may raise anything
            seconds, arrays, reply = time.perf_counter() - began, [], {"error": errors.describe(error)}
        return {"call": number, "seconds": seconds, **reply}, arrays

    def _keep(self, kind: str, thing: Any) -> Dict[str, Any]:
        number = self._made
        self._made += 1
        self._objects[number] = (kind, thing)
        made = {"object": number, "kind": kind, "methods": KINDS[kind].methods_of(thing)}
        about = {"contract": CONTRACT_VERSION, "python": platform.python_version(), "numpy": np.__version__}
        return made if kind != "backend" else {**made, **about}

    def _send(self, answer: Tuple[wire.Header, values.Arrays]) -> None:
        header, arrays = answer
        try:
            wire.send(self._connection, header, arrays)
        except ValueError as error:  # too large
            wire.send(self._connection, {"call": header["call"], "seconds": header["seconds"], "error": errors.describe(error)}, [])
