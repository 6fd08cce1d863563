"""The processes that a command started, whoever started them in turn: known by a mark in their environment, and ended together.

A mark, because nothing else reaches all of them: worker interpreters lead sessions of their own, an engine's helpers outlive the process
that started them, and PR_SET_PDEATHSIG is neither inherited nor about a process (it fires when the thread that forked ends). Marks are
looked for in /proc, so on Linux only; elsewhere a process ends when the pipe to its parent does (`implementations/worker/bond.py` and
far.py, xdist's own workers).

Run as a program this is a command's guardian (see supervision.py): the standard library only, and nothing of the harness.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

VARIABLE = "MOE_HARNESS_TREE"  # the marks of all commands that a process belongs to, separated by commas
GRACE_S = 2.0  # between SIGTERM and SIGKILL
KILL_S = 1.0  # for the kernel to end what was killed, and for processes that were started meanwhile
FAREWELL_S = 1.5  # for the command itself, once its processes have ended
LOOK_S = 0.5  # how often the guardian looks whether its command lives: a fork of it may hold the pipe open
CANCELS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name))  # no SIGHUP on Windows
TRACKER = b"multiprocessing.resource_tracker"
FAREWELL = 0  # the byte of a command that ended by itself; no signal has that number


def end(mark: str, grace: float = GRACE_S) -> None:
    """Asks all processes with this mark to end, and kills those that have not within `grace` seconds."""
    _tell(mark, signal.SIGTERM)
    if not _until(lambda: not any(members(mark)), grace):
        _until(lambda: not _tell(mark, signal.SIGKILL), KILL_S)


def members(mark: str) -> Iterator[int]:
    """The processes with this mark and all that descend from them, but for the one that asks. Zombies are none."""
    parents = dict(_processes())
    found = {pid for pid in parents if _marked(pid, mark.encode())}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    yield from sorted(found - {os.getpid()})


def _processes() -> Iterator[tuple[int, int]]:
    """(process, its parent) of what lives."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_bytes().rpartition(b")")[2].split()[:2]
            if state not in (b"Z", b"X"):
                yield int(path.parent.name), int(parent)


def _marked(pid: int, mark: bytes) -> bool:
    """multiprocessing's tracker counts for none: it heeds no SIGTERM, and ends by itself when it has tidied up after all others."""
    about = Path(f"/proc/{pid}")
    try:
        return mark in (about / "environ").read_bytes() and TRACKER not in (about / "cmdline").read_bytes()
    except OSError:  # gone, or another user's
        return False


def _tell(mark: str, number: int) -> int:
    """To how many."""
    told = list(members(mark))
    for pid in told:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
    return len(told)


def _until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (done := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return done


def guard(command: int, mark: str) -> None:
    """Waits on standard input for the command's end: FAREWELL, or a signal's number, or nothing more where it was killed. In the last two
    cases ends its processes, and then, where it hangs deaf to Python's signal handlers, the command itself."""
    while os.getppid() == command:
        if not select.select([0], [], [], LOOK_S)[0]:
            continue
        heard = os.read(0, 64)
        if FAREWELL in heard:
            return
        if not heard:
            break
        if any(
            number in heard for number in CANCELS if number != signal.SIGINT
        ):  # Ctrl-C may be a debugger's; the command tells what it made of it
            end(mark)
            if not _until(lambda: os.getppid() != command or _closed(), FAREWELL_S):
                os.kill(command, signal.SIGKILL)
            break
    end(mark)


def _closed() -> bool:
    return bool(select.select([0], [], [], 0)[0]) and not os.read(0, 64)


if __name__ == "__main__":
    guard(int(sys.argv[1]), sys.argv[2])
