"""Exceptions of the worker itself, and how a backend's own cross the wire: by kind, with the far traceback as their cause."""

from __future__ import annotations

import traceback
from typing import Any, Dict, Mapping, Tuple, Type

from moe_harness.implementations.interface import CheckpointError, InvalidInput, Unsupported
from moe_harness.implementations.registry import AmbiguousBackend, BrokenBackend, UnknownBackend

# A subclass crosses as the first of its bases that stands here. Everything else becomes a RemoteError.
CROSSING: Tuple[Type[Exception], ...] = (
    Unsupported, InvalidInput, CheckpointError, UnknownBackend, AmbiguousBackend, BrokenBackend,
    AssertionError, FileExistsError, FileNotFoundError, ImportError, IndexError, KeyError, MemoryError, NotImplementedError, TypeError,
    ValueError,
)  # fmt: skip
LONGEST = 20_000  # characters of a message or traceback


class WorkerCrashed(Exception):
    """The worker process died, or broke the protocol and was killed. `str()` says how and quotes its last output."""


class WorkerTimeout(WorkerCrashed):
    """A call did not end in time; the worker was killed."""


class RemoteError(Exception):
    """The backend raised something that has no counterpart here. `str()` is its type, message and traceback."""


class FarTraceback(Exception):
    """The cause of an exception that crossed the wire: where it was raised over there."""

    def __str__(self) -> str:
        return f"in the worker:\n{self.args[0]}"


def describe(error: Exception) -> Dict[str, Any]:
    """The wire's form of an exception that is being handled."""
    kind = next((base.__name__ for base in type(error).__mro__ if base in CROSSING), "")
    text = str(error.args[0]) if isinstance(error, KeyError) and len(error.args) == 1 else str(error)  # a KeyError's str is a repr
    if type(error).__name__ != kind:
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    described: Dict[str, Any] = {"kind": kind, "message": text[:LONGEST], "traceback": traceback.format_exc()[-LONGEST:]}
    if isinstance(error, CheckpointError):
        described.update(path=error.path, tensor=error.tensor)
    return described


def rebuild(described: Mapping[str, Any]) -> Exception:
    """The exception to raise on the near side."""
    kinds = {kind.__name__: kind for kind in CROSSING}
    kind, message, far = kinds.get(described["kind"]), str(described["message"]), str(described["traceback"])
    if kind is None:
        return RemoteError(f"{message}\nin the worker:\n{far}")
    if kind is CheckpointError:
        error: Exception = CheckpointError(described["path"], "", described["tensor"])
        error.args = (message,)  # path and tensor are part of it already
    else:
        error = kind(message)
    error.__cause__ = FarTraceback(far)
    return error
