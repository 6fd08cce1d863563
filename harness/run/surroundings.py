"""A run's own pytest processes among their surroundings: a cancel, a disk that is full, an output that takes nothing more.

Such a process leaves at once, with an exit code of its own that the process above it understands: nobody records a failure of the check
that happened to be under way, and `moe-harness run` says one line. Only where `moe-harness` started pytest; by itself it keeps its ways.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any

import pytest

from moe_harness.processes import tree
from moe_harness.processes.supervision import CANCELLED
from moe_harness.records.whole import Unwritable, writing
from moe_harness.run.recording import run_directory
from moe_harness.run.workers import exit_code

UNWRITABLE, LAST_ERRNO = 200, 40  # exit codes 200 to 240: what could not be written, with the errno; not 255, which is sys.exit(-1)
# The disk's errors as the libraries that backends write with tell them, Rust's included.
FULL = "|".join(str(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG))
PROBE = 1 << 16  # bytes: a disk that is full may still have room for a few
_FULL = re.compile(rf"\b(?:Errno|os error) ({FULL})\b")


def install(config: pytest.Config) -> None:
    """Makes this process leave when it is cancelled, and when its terminal output cannot be written."""
    if not _launched():
        return
    for number in tree.CANCELS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGINT is in xdist's workers, and SIGHUP under nohup
            signal.signal(number, lambda number, frame: _cancel(config))
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:  # xdist's workers have none
        reporter._tw._file = _Output(reporter._tw._file, config)


@contextmanager
def needed(config: pytest.Config) -> Iterator[None]:
    """The process leaves where something inside cannot be written."""
    try:
        yield
    except Unwritable as error:
        if not _launched():
            raise
        _leave(config, _code(error.errno))


@contextmanager
def preparing(config: pytest.Config, what: Any) -> Iterator[None]:
    """As `needed`, for any OSError of what is written before a check can begin."""
    with needed(config), writing(what):
        yield


def heed(config: pytest.Config, error: BaseException | None) -> None:
    """Leave where a check was stopped by a full disk, which says nothing about what it judges; a disk of the backend's own does."""
    if error is not None and _launched() and (found := _FULL.search(str(error))) and _blocked(run_directory(config)):
        _leave(config, _code(int(found[1])))


def node_down(node: Any, error: object) -> None:
    """xdist's controller: leave as its worker did. One that a cancel ended needs nothing: the controller has heard of it, too."""
    code = exit_code(node) if error else None
    if believed(code, run_directory(node.config)) is not None:
        _leave(node.config, int(code or 0))


def believed(code: int | None, directory: Path) -> str | None:
    """`why`, where this process finds that it cannot write either: a backend may end a process with any exit code. None where it can."""
    return why(code) if why(code) is not None and _blocked(directory) else None


def _blocked(directory: Path) -> bool:
    """Whether one of the places takes nothing where a run writes: records, temporary files, models for benchmarks, standard output."""
    from moe_harness.bench.models import cache_directory

    try:
        return not all(map(_takes, (directory, Path(gettempdir()), cache_directory()))) or _has_no_reader(1)
    except OSError:
        return True


def _takes(place: Path) -> bool:
    """Whether a file can be written there, or where the directory would be made."""
    there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    try:
        with TemporaryFile(dir=there, buffering=0) as file:
            return file.write(bytes(PROBE)) == PROBE
    except OSError:
        return False


def _has_no_reader(descriptor: int) -> bool:
    """Whether it is a pipe whose other end is closed."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def why(code: int | None) -> str | None:
    """The reason in the exit code of a process that left because it could not write; None for any other code."""
    if code is None or not UNWRITABLE <= code <= UNWRITABLE + LAST_ERRNO:
        return None
    return os.strerror(code - UNWRITABLE) if code > UNWRITABLE else "the disk or its owner does not let us"


def _launched() -> bool:
    return tree.VARIABLE in os.environ


def _code(number: int | None) -> int:
    return UNWRITABLE + (number if number and number <= LAST_ERRNO else 0)


def _cancel(config: pytest.Config) -> None:
    for number in tree.CANCELS:  # once is enough
        signal.signal(number, signal.SIG_IGN)
    _leave(config, CANCELLED)


def _leave(config: pytest.Config, code: int) -> None:
    """Without the session's end: its records stay open, so that a report says INCOMPLETE. Every record is on the disk since it was made."""
    from moe_harness.suite.hosts import close

    with suppress(Exception):
        close(config)
    os._exit(code)


class _Output:
    """pytest's terminal, but for errors."""

    def __init__(self, stream: Any, config: pytest.Config):
        self._stream, self._config = stream, config

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return int(self._tried(self._stream.write, text))

    def flush(self) -> None:
        self._tried(self._stream.flush)

    def _tried(self, method: Any, *arguments: Any) -> Any:
        try:
            return method(*arguments)
        except OSError as error:
            return _leave(self._config, _code(error.errno))
