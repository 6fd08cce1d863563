"""What the processes of this project have in common at their end: the words for it, and that a child ends with its parent.

There are three kinds, and beyond this they share nothing. A worker's far side (child.py) runs under any interpreter, so it is a plain
command with a wire of its own. A kernel's process (`kernel/guarded.py`) runs our own Python, yields lines with a deadline each, and is
killed at once. A mesh's ranks (`neuron/crew.py`) are many, answer together or not at all, and are given time to leave their collectives,
since killed ones leave semaphores behind.
"""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import connection, parent_process


def ending(code: int) -> str:
    """How a process ended, by the exit code that Python gives: "died of SIGSEGV" or "ended with exit code 3"."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"died of {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"died of signal {-code}"


def end_with_parent() -> None:
    """In a process of multiprocessing's: kills it when its parent has gone, also while it waits on a queue that siblings hold open."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
