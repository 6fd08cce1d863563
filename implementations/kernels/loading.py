"""From `MODULE:FUNCTION` to an MoEKernel. Importing this module imports no framework."""

from __future__ import annotations

import importlib
from typing import Any, Callable

from moe_harness.implementations.interface import InvalidInput, MoEKernel, Unsupported
from moe_harness.implementations.kernels.arguments import requested

ARRAYS = ("torch", "numpy")


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
        from moe_harness.implementations.kernels.numpy_host import NumpyKernel

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
