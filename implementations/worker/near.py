"""The near side: `WorkerBackend` and the models behind it, as if they were here. See `moe_harness.interface`."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Callable, List, Optional, Tuple

import numpy as np

from moe_harness.implementations.interface import Capabilities, InvalidInput, LoadSpec, ModelCapabilities, Request, Routing, StepOutput
from moe_harness.implementations.registry import UNDECLARED, BrokenBackend, check_contract
from moe_harness.implementations.worker import values
from moe_harness.implementations.worker.child import Child
from moe_harness.implementations.worker.errors import WorkerCrashed, rebuild
from moe_harness.implementations.worker.interpreter import inspect
from moe_harness.implementations.worker.surface import KINDS, MAKES
from moe_harness.implementations.worker.wire import Header

DEFAULT_TIMEOUT = 600.0  # seconds a call; loading or converting a large checkpoint takes minutes


@dataclass
class Handle:
    """A thing on the far side. `seconds`: how long its last call took over there, `total`: all its calls. `dropped` collects the numbers
    of things no longer wanted here, which the next request tells."""

    child: Child
    number: int
    methods: List[str]
    timeout: float
    dropped: List[int] = field(default_factory=list)
    seconds: float = 0.0
    total: float = 0.0

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """The method's result, a near-side object where the thing made stays over there. Raises what the backend raised; InvalidInput for
        arguments that cannot cross; WorkerCrashed, WorkerTimeout."""
        arrays: List[np.ndarray] = []
        try:
            coded = {"args": values.encode(list(args), arrays), "kwargs": values.encode(kwargs, arrays)}
        except TypeError as error:
            raise InvalidInput(str(error)) from error
        released, self.dropped[:] = list(self.dropped), []
        request = {"object": self.number, "method": method, "release": released, **coded}
        reply, answers = self.child.exchange(request, arrays, self.timeout)
        self.seconds = float(reply["seconds"])
        self.total += self.seconds
        result, raised = self.child.understood(method, lambda: self._read(method, reply, answers))
        if raised is not None:
            raise raised
        return result

    def _read(self, method: str, reply: Header, arrays: List[np.ndarray]) -> Tuple[Any, Optional[Exception]]:
        """(result, what the far side raised)."""
        if "error" in reply:
            return None, rebuild(reply["error"])
        if method in MAKES:
            made = reply["made"]
            return MADE[made["kind"]](replace(self, number=made["object"], methods=made["methods"], seconds=0.0, total=0.0)), None
        return values.decode(reply["result"], arrays), None

    def __del__(self) -> None:
        self.dropped.append(self.number)


def lend_methods(near: Any, kind: str, methods: List[str], bind: Callable[[str], Any]) -> None:
    """Gives `near` the optional methods that the far object has and no others, so that isinstance with the contract's protocols tells the
    truth. As attributes of the instance, which is where isinstance looks (since Python 3.12 not through __getattr__)."""
    for name in KINDS[kind].optional:
        if name in methods:
            setattr(near, name, bind(name))


class RemoteModel:
    """`Model` and, where the far model has them, the optional protocols."""

    def __init__(self, handle: Handle):
        self._handle = handle
        lend_methods(self, "model", handle.methods, lambda name: partial(handle.call, name))

    @property
    def alive(self) -> bool:
        """False once its worker is gone; every call then raises WorkerCrashed at once."""
        return self._handle.child.alive

    @property
    def last_call_seconds(self) -> float:
        """Wall-clock time of the last call, measured in the worker: without the way there and back."""
        return self._handle.seconds

    @property
    def called_seconds(self) -> float:
        """That of all calls so far: a clock that stands still outside them."""
        return self._handle.total

    def capabilities(self) -> ModelCapabilities:
        return self._handle.call("capabilities")

    def prefill(self, input_ids_BS: np.ndarray, lengths_B: np.ndarray, request: Request) -> StepOutput:
        return self._handle.call("prefill", input_ids_BS, lengths_B, request)

    def decode(self, token_ids_B: np.ndarray, request: Request) -> StepOutput:
        return self._handle.call("decode", token_ids_B, request)

    def reset(self) -> None:
        self._handle.call("reset")

    def close(self) -> None:
        """Does nothing where the worker is gone, and the model with it. A close that crashes or hangs ends the worker, which frees all."""
        with suppress(WorkerCrashed):
            self._handle.call("close")


class RemoteRouter:
    """`Router`."""

    def __init__(self, handle: Handle):
        self._handle = handle

    def route(self, x_TD: np.ndarray) -> Routing:
        return self._handle.call("route", x_TD)


MADE = {"model": RemoteModel, "router": RemoteRouter}


class WorkerBackend:
    """`Backend` `name` of the registry in a worker under the interpreter `python` (a path; default: this one). `timeout`: seconds a call.

    The worker starts with the first call. When it dies, its models die with it, and the next call here starts another one. Raises
    BadInterpreter; from every method, what the backend raises, WorkerCrashed and WorkerTimeout."""

    def __init__(self, name: str, python: str = "", timeout: float = DEFAULT_TIMEOUT):
        self.name, self._timeout = name, timeout
        self._interpreter = inspect(python)
        self._handle: Optional[Handle] = None
        self._child: Optional[Child] = None  # also while it starts
        self.declared: Optional[Capabilities] = None  # what capabilities() said

    @property
    def alive(self) -> bool:
        """Whether a worker is running."""
        return self._handle is not None and self._handle.child.alive

    def connect(self) -> None:
        """Starts the worker, if none is running. Raises UnknownBackend and its kin, as `registry.backend` does."""
        if self.alive:
            return
        self._handle = None
        child = self._child = Child(self._interpreter, self.name)
        reply, _ = child.greeting(self._timeout)
        self._handle, self._note, raised = child.understood("its start", lambda: self._greeted(child, reply))
        if raised is not None:
            child.close()
            raise raised
        lend_methods(self, "backend", self._handle.methods if self._handle else [], lambda name: partial(self._call, name))

    def _greeted(self, child: Child, reply: Header) -> Tuple[Optional[Handle], str, Optional[Exception]]:
        """(the far backend, what runs there, what the far side raised)."""
        if "error" in reply:
            return None, "", rebuild(reply["error"])
        made = reply["made"]
        try:
            check_contract(self.name, made.get("contract", UNDECLARED))
        except BrokenBackend as error:
            return None, "", error
        note = f"worker: Python {made['python']}, numpy {made['numpy']}"
        return Handle(child, made["object"], made["methods"], self._timeout), note, None

    def capabilities(self) -> Capabilities:
        """The far side's, asked once; `execution_note` also says what runs there."""
        if self.declared is None:
            found: Capabilities = self._call("capabilities")
            self.declared = replace(found, execution_note="; ".join(filter(None, [found.execution_note, self._note])))
        return self.declared

    def from_hf(self, src: str, dst: str) -> None:
        self._call("from_hf", os.path.abspath(src), os.path.abspath(dst))

    def to_hf(self, src: str, dst: str) -> None:
        self._call("to_hf", os.path.abspath(src), os.path.abspath(dst))

    def load(self, path: str, spec: LoadSpec) -> RemoteModel:
        return self._call("load", os.path.abspath(path), spec)

    def close(self) -> None:
        """Ends the worker, if one is running, and with it all its models."""
        if self._child is not None:
            self._child.close()
        self._handle = self._child = None

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        self.connect()
        assert self._handle is not None
        return self._handle.call(method, *args, **kwargs)
