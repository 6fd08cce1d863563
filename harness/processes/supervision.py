"""A command and the processes under it: cancelled together, and none left behind whatever becomes of the command.

`cancellable` is for a whole command, `call` for one child with a limit of time. Both mark what they start (tree.py). A command has a
guardian beside it, a small process in a session of its own at the other end of a pipe: it hears of every signal, even while the command
is deep in a library that lets no Python handler run, and of the command's death, even by SIGKILL.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from moe_harness.processes import tree

INCOMPLETE = 4  # exit code where something was planned and not done
CANCELLED = 143  # exit code, as a shell shows SIGTERM's; of SIGINT 130
SLICE_S = 0.2  # how often a waiting `call` looks at the clock
LAST_S = 1.5  # beyond the grace, for the guardian to see to the rest


@contextmanager
def cancellable() -> Iterator[None]:
    """Makes SIGTERM, SIGHUP and SIGINT end the command and all processes under it: the first raises SystemExit with 143 (130 for SIGINT),
    later ones nothing. A signal that is ignored, as under nohup, stays ignored."""
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield
        return
    mark = secrets.token_hex(8)
    guardian = _guardian(mark)
    with _marked(mark), _handlers() as cancelled:
        if guardian is not None and guardian.stdin is not None:
            os.set_blocking(guardian.stdin.fileno(), False)
            signal.set_wakeup_fd(guardian.stdin.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            _take_leave(guardian, cancelled)


def call(
    command: Sequence[str], variables: Mapping[str, str], seconds: float | None = None, ready: Callable[[], bool] = lambda: True
) -> int | None:
    """The exit code of a command run as a child; None where it did not end within `seconds` and was ended, with all processes under it.
    The time is not up before `ready`. An exception here (a cancelled command's SystemExit) ends them too."""
    mark = secrets.token_hex(8)
    child = subprocess.Popen(command, env={**variables, tree.VARIABLE: _with(variables.get(tree.VARIABLE), mark)})
    deadline = None if seconds is None else time.monotonic() + seconds
    try:
        while deadline is None or time.monotonic() < deadline or not ready():
            with suppress(subprocess.TimeoutExpired):
                return child.wait(None if deadline is None else SLICE_S)
        _end(child, mark)
        return None
    except BaseException:
        _end(child, mark)
        raise


def _end(child: subprocess.Popen[bytes], mark: str) -> None:
    """`tree.end`, and by hand where there is no /proc."""
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(0 if any(tree.members(mark)) else tree.GRACE_S)
    tree.end(mark)
    child.kill()
    child.wait()


def _guardian(mark: str) -> subprocess.Popen[bytes] | None:
    """Started before the mark is set, so that it is not among those that it ends. None where no more processes may be started."""
    if os.name != "posix":
        return None
    command = [sys.executable, "-I", "-S", tree.__file__, str(os.getpid()), mark]
    nowhere = subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, cwd="/", start_new_session=True)
    except OSError:
        return None


def _take_leave(guardian: subprocess.Popen[bytes] | None, cancelled: list[int]) -> None:
    """Of a cancelled command only when its processes have ended."""
    if guardian is None or guardian.stdin is None:
        return
    with suppress(OSError):
        if not cancelled:
            os.write(guardian.stdin.fileno(), bytes([tree.FAREWELL]))
        guardian.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        guardian.wait(tree.GRACE_S + LAST_S)


@contextmanager
def _marked(mark: str) -> Iterator[None]:
    before = os.environ.get(tree.VARIABLE)
    os.environ[tree.VARIABLE] = _with(before, mark)
    try:
        yield
    finally:
        if before is None:
            del os.environ[tree.VARIABLE]
        else:
            os.environ[tree.VARIABLE] = before


def _with(marks: str | None, mark: str) -> str:
    return f"{marks},{mark}" if marks else mark


@contextmanager
def _handlers() -> Iterator[list[int]]:
    """Yields the list in which a signal leaves its number."""
    cancelled: list[int] = []

    def cancel(number: int, frame: FrameType | None) -> None:
        if not cancelled:
            cancelled.append(number)
            raise SystemExit(130 if number == signal.SIGINT else CANCELLED)

    before = {number: signal.getsignal(number) for number in tree.CANCELS}
    mine = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]  # None: not set by Python
    for number in mine:
        signal.signal(number, cancel)
    try:
        yield cancelled
    finally:
        for number in mine:
            signal.signal(number, before[number])
