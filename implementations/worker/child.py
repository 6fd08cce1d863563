"""One worker process as the near side sees it: started, spoken with, and ended whatever it does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, Callable, List, Optional, Tuple, TypeVar

import numpy as np

from moe_harness.implementations.worker import wire
from moe_harness.implementations.worker.bond import ending
from moe_harness.implementations.worker.errors import WorkerCrashed, WorkerTimeout
from moe_harness.implementations.worker.interpreter import Interpreter, environment
from moe_harness.implementations.worker.lending import PACKAGE, lend, take_back

T = TypeVar("T")
SLICE_SECONDS = 0.1  # how often a waiting call looks whether the process still lives
EXIT_SECONDS = 2.0  # for a process that has closed its connection to end by itself
REAP_SECONDS = 5.0  # for the kernel to end a killed one
KEPT_OUTPUT, QUOTED_OUTPUT = 8192, 1500  # bytes kept of what the worker printed, characters quoted of them


class _Late(Exception):
    """The call's time is over."""


class Child:
    """A running `python -m moe_harness.implementations.worker`. Its standard output and error are one pipe that is always drained, so that
    neither can block it, and the connection is a socket of its own, so that neither can disturb it. Ended at the latest with this
    process."""

    def __init__(self, interpreter: Interpreter, name: str):
        self.name = name
        self._number = 0
        self._lock = threading.Lock()
        self._death: Optional[WorkerCrashed] = None
        self._connection, theirs = socket.socketpair()
        self._connection.settimeout(SLICE_SECONDS)
        lent = lend()
        with theirs:
            try:
                self._process = _start(interpreter, name, theirs, lent)
            except BaseException:
                take_back(lent)
                raise
        assert self._process.stdout is not None
        self._tail = _Tail(self._process.stdout)
        self._end = weakref.finalize(self, _end, self._process, self._connection, lent, os.getpid())

    @property
    def alive(self) -> bool:
        return self._death is None

    def greeting(self, timeout: float) -> Tuple[wire.Header, List[np.ndarray]]:
        """The first message."""
        return self._exchange(None, [], timeout, "its start")

    def exchange(self, request: wire.Header, arrays: List[np.ndarray], timeout: float) -> Tuple[wire.Header, List[np.ndarray]]:
        """Sends a request and waits for its reply. Raises WorkerTimeout, WorkerCrashed; after that, at once, the same again.
        ValueError for a request too large to send, which changes nothing."""
        return self._exchange(request, arrays, timeout, str(request["method"]))

    def understood(self, doing: str, read: Callable[[], T]) -> T:
        """What `read` makes of a reply. Where it cannot, the worker is killed: raises WorkerCrashed."""
        try:
            return read()
        except (wire.ProtocolError, LookupError, TypeError, ValueError, AttributeError) as error:
            with self._lock:
                self._die(WorkerCrashed, f"sent a malformed reply to {doing} and was killed: {error}")
        assert self._death is not None
        raise self._death

    def close(self) -> None:
        """Ends the process: asked to first, killed where it does not, and at once where a call of another thread is under way."""
        idle = self._lock.acquire(blocking=False)
        try:
            if idle and self._death is None:
                self._connection.close()
                _wait(self._process, EXIT_SECONDS)
            if self._death is None:
                self._die(WorkerCrashed, "was closed", quote=False)
        finally:
            if idle:
                self._lock.release()

    def _exchange(
        self, request: Optional[wire.Header], arrays: List[np.ndarray], timeout: float, doing: str
    ) -> Tuple[wire.Header, List[np.ndarray]]:
        with self._lock:
            if self._death is None:
                try:
                    return self._attempt(request, arrays, time.monotonic() + timeout)
                except ValueError:
                    raise
                except _Late:
                    self._die(WorkerTimeout, f"did not end {doing} within {timeout:g} s and was killed")
                except (EOFError, OSError):
                    self._die(WorkerCrashed, f"{self._exit()} during {doing}")
                except wire.ProtocolError as error:
                    self._die(WorkerCrashed, f"sent a malformed reply to {doing} and was killed: {error}")
                except BaseException:
                    self._die(WorkerCrashed, f"was killed because {doing} was interrupted", quote=False)
                    raise
            # One place for the first time and every later one, so that Hypothesis, which repeats what failed, sees the same failure.
            assert self._death is not None
            raise type(self._death)(*self._death.args)

    def _attempt(self, request: Optional[wire.Header], arrays: List[np.ndarray], deadline: float) -> Tuple[wire.Header, List[np.ndarray]]:
        def tick(stalled: bool) -> None:
            if time.monotonic() > deadline:
                raise _Late
            if stalled and self._process.poll() is not None and not _readable(self._connection):
                raise EOFError("the process has ended")  # a fork of it holds the connection open

        if request is not None:
            wire.send(self._connection, {**request, "call": self._number}, arrays, tick)
        header, answers = wire.receive(self._connection, tick)
        if header.get("call") != self._number or not isinstance(header.get("seconds"), (int, float)):
            raise wire.ProtocolError(f"expected the reply to call {self._number}, got that to {header.get('call')!r}")
        self._number += 1
        return header, answers

    def _exit(self) -> str:
        code = _wait(self._process, EXIT_SECONDS)
        if code is None:
            return "closed its connection"
        return ending(code)

    def _die(self, kind: type[WorkerCrashed], how: str, quote: bool = True) -> None:
        self._end()
        output = self._tail.text() if quote else ""
        self._death = kind(f"the worker of {self.name} {how}" + (f"; its last output:\n{output}" if output else ""))


def _start(interpreter: Interpreter, name: str, theirs: socket.socket, lent: Path) -> subprocess.Popen[bytes]:
    """With -m and from the lent directory: started by file path, its folder would come first on sys.path and shadow libraries."""
    variables = environment()
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(lent), variables.get("PYTHONPATH")]))
    arguments = ["--wire", str(theirs.fileno()), "--directory", os.getcwd(), "--lent", str(lent), "--", name]
    return subprocess.Popen(
        [interpreter.path, "-u", "-m", f"{PACKAGE}.implementations.worker", *arguments],
        cwd=lent, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        pass_fds=[theirs.fileno()], start_new_session=True,
    )  # fmt: skip


def _end(process: subprocess.Popen[bytes], connection: socket.socket, lent: Path, owner: int) -> None:
    """Kills the whole process group, whatever it ignores, and removes what was made for it. A fork of the near side must not do it."""
    if os.getpid() != owner:
        return
    connection.close()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # its own group, since it leads a session; also where it has ended and others live on
    _wait(process, REAP_SECONDS)
    take_back(lent)


def _wait(process: subprocess.Popen[bytes], seconds: float) -> Optional[int]:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def _readable(connection: socket.socket) -> bool:
    try:
        return bool(connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except OSError:
        return False


class _Tail:
    """Reads a pipe to its end in a thread and keeps the last of it."""

    def __init__(self, stream: IO[bytes]):
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._drain, args=(stream,), daemon=True)
        self._thread.start()

    def _drain(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := os.read(stream.fileno(), 1 << 16):
                self._kept = (self._kept + chunk)[-KEPT_OUTPUT:]

    def text(self) -> str:
        """What is kept, once the pipe has ended; a process that left the group may hold it open, hence the limit."""
        self._thread.join(1.0)
        return bytes(self._kept).decode("utf-8", "replace").strip()[-QUOTED_OUTPUT:]
