"""How a command ends where its surroundings fail it: one line on standard error and exit code 4, which is neither green nor a finding."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from moe_harness.processes.supervision import INCOMPLETE

BROKEN_PIPE = "the reader of standard output has gone"


@contextmanager
def one_line() -> Iterator[None]:
    """Makes every OSError that nobody understood (a full disk, a directory gone or read-only, an output that takes nothing) one line and
    exit code 4, and replaces characters that the output's encoding does not have."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # closed, or somebody's own
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        _check()
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # while what it raises can still be caught
    except OSError as error:
        _say(_sentence(error))
    except SystemExit as leaving:
        if not _broken_pipe(leaving.__context__):
            raise
        _say(BROKEN_PIPE)


def _say(sentence: str) -> NoReturn:
    with suppress(OSError):
        print(f"error: {sentence}", file=sys.stderr, flush=True)
    _silence()
    raise SystemExit(INCOMPLETE) from None


def _broken_pipe(error: BaseException | None) -> bool:
    """Whether click made exit code 1, which is a new failure, of a reader that went away (`... | head`)."""
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _check() -> None:
    """Fails at once where nothing could be written, as to /dev/full, or no path be found."""
    os.getcwd()
    try:
        os.write(1, b"")
    except OSError as error:
        if error.errno != errno.EBADF:  # closed on purpose
            raise OSError(error.errno, f"cannot write to standard output: {error.strerror}") from error


def _sentence(error: OSError) -> str:
    try:
        os.getcwd()
    except OSError:
        return "the current directory is gone"
    return str(error).removeprefix(f"[Errno {error.errno}] ")


def _silence() -> None:
    """Keeps Python from trying again, at its end, to write what is left in the buffers."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (1, 2):
            os.dup2(nowhere, descriptor)
