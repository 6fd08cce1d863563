"""The toy backend, but for one method, which does something to its process first. The variant is ACT[:METHOD], `moe_block` by default.
For tests of the worker: never run it in a process of yours."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional

from moe_harness.implementations.interface import LoadSpec
from moe_harness.implementations.tests.toy_backend import ToyBackend, ToyModel, read_model

FLOOD = 10_000_000  # bytes, far more than a pipe holds
NOISE = b"this is no message of the worker's protocol"


def backend(variant: Optional[str] = None) -> "MisbehavingBackend":
    act, _, where = str(variant).partition(":")
    return MisbehavingBackend(ACTS[act], where or "moe_block")


def abort() -> None:
    print("about to abort")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.abort()


def hang() -> None:
    """Deaf to SIGTERM, with a child of its own whose process id it prints."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("child", subprocess.Popen(["sleep", "600"]).pid)
    time.sleep(600)


def flood() -> None:
    """Floods standard output and error, below and above Python's own buffers, then does its work."""
    for descriptor in (1, 2):
        for _ in range(FLOOD // 100_000):
            os.write(descriptor, b"x" * 99_999 + b"\n")
    print("y" * 100_000, file=sys.stderr)


def flood_for_ever() -> None:
    while True:
        os.write(1, b"x" * 99_999 + b"\n")


def disturb() -> None:
    """Writes into every socket that this process has open."""
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if _is_socket(descriptor):
            with socket.socket(fileno=os.dup(descriptor)) as found:
                found.sendall(NOISE)


def leave_a_fork() -> None:
    """Ends, but a fork in a session of its own holds everything open for a while."""
    if os.fork() == 0:
        os.setsid()
        time.sleep(8)
        os._exit(0)
    os._exit(3)


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


ACTS: Dict[str, Callable[[], Any]] = {
    "abort": abort,
    "exit": lambda: os._exit(3),
    "sys_exit": lambda: sys.exit(4),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": hang,
    "flood": flood,
    "flood_for_ever": flood_for_ever,
    "disturb": disturb,
    "leave_a_fork": leave_a_fork,
    "unknown_error": lambda: 1 // 0,
}


class MisbehavingBackend(ToyBackend):
    name = "toy_misbehaves"

    def __init__(self, act: Callable[[], Any], where: str):
        self._act, self._where = act, where

    def load(self, path: str, spec: LoadSpec) -> ToyModel:
        model = ToyModel(*read_model(Path(path)), spec)
        sane = getattr(model, self._where)

        def misbehave(*args: Any) -> Any:
            self._act()
            return sane(*args)

        setattr(model, self._where, misbehave)
        return model
