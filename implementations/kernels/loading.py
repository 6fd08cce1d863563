"""From `MODULE:FUNCTION` to an MoEKernel, and the one that calls it with numpy float32 arrays whose values are exactly representable in the
dtype under test. Importing this module imports no framework."""

from __future__ import annotations

import importlib
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

from moe_harness.implementations.interface import InvalidInput, KernelCall, KernelResult, MoEKernel, Unsupported
from moe_harness.implementations.kernels.arguments import keywords, requested

ARRAYS = ("torch", "numpy")


class NumpyKernel:
    """An MoEKernel (see interface.py)."""

    def __init__(self, function: Callable[..., Any], arguments: Tuple[str, ...]):
        self.arguments = arguments
        self._function = function
        self._weights: Dict[str, np.ndarray] = {}

    def load(self, w_gate_up_E2FD: np.ndarray, w_down_EDF: np.ndarray) -> None:
        self._weights.clear()
        self._weights["w_gate_up"] = np.array(w_gate_up_E2FD, np.float32)
        self._weights["w_down"] = np.array(w_down_EDF, np.float32)

    def run(self, calls: Sequence[KernelCall]) -> List[KernelResult]:
        given = [self._inputs(call) for call in calls]
        kept = [{name: value.copy() for name, value in inputs.items()} for inputs in given]
        sums = _bit_sums(self._weights)
        outputs = [self._function(**keywords(self.arguments, call, inputs, self._weights)) for call, inputs in zip(calls, given)]
        weights_now = _bit_sums(self._weights)
        written = [f"writes to {name}" for name in sums if sums[name] != weights_now[name]]
        return [_result(y, _written(was, now) + written) for y, was, now in zip(outputs, kept, given)]

    def _inputs(self, call: KernelCall) -> Dict[str, np.ndarray]:
        inputs = {"x": call.x_TD.copy(), "topk_ids": call.topk_ids_TK.copy(), "topk_weights": call.topk_weights_TK.copy()}
        return inputs if call.router_logits_TE is None else {**inputs, "router_logits": call.router_logits_TE.copy()}


def _bit_sums(arrays: Dict[str, np.ndarray]) -> Dict[str, int]:
    """A sum over the bits of each array, where a copy would be too large: a write changes it unless several happen to cancel."""
    return {name: int(np.sum(array.view(np.uint32), dtype=np.uint64)) for name, array in arrays.items()}


def _written(before: Dict[str, np.ndarray], after: Dict[str, np.ndarray]) -> List[str]:
    return [f"writes to {name}" for name in before if before[name].tobytes() != after[name].tobytes()]


def _result(y: Any, problems: List[str]) -> KernelResult:
    if not isinstance(y, np.ndarray):
        return KernelResult(np.zeros(0, np.float32), (f"returned {type(y).__name__}, not an array", *problems))
    if y.dtype != np.float32:
        problems = [f"dtype {y.dtype}, expected float32", *problems]
    return KernelResult(np.asarray(y, np.float32), tuple(problems))


def load_kernel(name: str, dtype: str, device: str = "cpu", arrays: str = "torch") -> MoEKernel:
    """The function `MODULE:FUNCTION`, called with `arrays` (torch | numpy) on `device`.

    Raises InvalidInput: not such a name, no such function, or parameters that cannot be served. Unsupported: no such device here.
    """
    function = find(name)
    try:
        asked = requested(function)
    except InvalidInput as error:
        raise InvalidInput(f"kernel {name}: {error}") from error
    return host(function, asked, dtype, device, arrays)


def host(function: Callable[..., Any], asked: tuple[str, ...], dtype: str, device: str, arrays: str) -> MoEKernel:
    """The MoEKernel that calls `function` with `arrays`."""
    if arrays == "numpy":
        if device != "cpu":
            raise Unsupported(f"device {device!r}: numpy arrays are on the cpu")
        return NumpyKernel(function, asked)
    if arrays != "torch":
        raise InvalidInput(f"arrays {arrays!r}; known: {', '.join(ARRAYS)}")
    try:
        from moe_harness.implementations.kernels.torch_host import TorchKernel
    except ImportError as error:
        raise Unsupported(f"torch cannot be imported ({error}); install it, or ask for numpy arrays") from error
    return TorchKernel(function, asked, dtype, device)


def find(name: str) -> Callable[..., Any]:
    """The callable `MODULE:FUNCTION`; FUNCTION may be dotted."""
    module, _, path = name.partition(":")
    if not module or not path:
        raise InvalidInput(f"kernel {name!r}: expected MODULE:FUNCTION")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:  # importing a kernel runs foreign code, which may raise anything
        raise InvalidInput(f"kernel {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise InvalidInput(f"kernel {name!r} is {found!r}, not a function")
    return found
