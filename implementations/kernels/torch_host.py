"""Calls a kernel with torch tensors on a device. Weights are put there once; on the CPU large ones share the host's memory."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from moe_harness.implementations.interface import DTYPES, InvalidInput, KernelCall, KernelResult, Unsupported
from moe_harness.implementations.kernels.arguments import keywords

COPY_BELOW = 1 << 28  # bytes; smaller weights are copied, so that a kernel that writes to them spoils nothing but its own verdict


class TorchKernel:
    """An MoEKernel (see interface.py)."""

    def __init__(self, function: Callable[..., Any], arguments: Tuple[str, ...], dtype: str, device: str):
        if dtype not in DTYPES:
            raise InvalidInput(f"dtype {dtype!r}; known: {', '.join(DTYPES)}")
        self.arguments = arguments
        self._function, self._dtype, self._device = function, getattr(torch, dtype), _device(device)
        self._weights: Dict[str, Tensor] = {}

    def load(self, w_gate_up_E2FD: np.ndarray, w_down_EDF: np.ndarray) -> None:
        self._weights.clear()  # before the new ones need its room
        for name, values in (("w_gate_up", w_gate_up_E2FD), ("w_down", w_down_EDF)):
            self._weights[name] = self._put(values.copy() if values.nbytes < COPY_BELOW else values)

    @torch.no_grad()
    def run(self, calls: Sequence[KernelCall]) -> List[KernelResult]:
        given = [self._inputs(call) for call in calls]
        kept = [{name: value.clone() for name, value in inputs.items()} for inputs in given]
        sums = _bit_sums(self._weights)
        outputs = [self._function(**keywords(self.arguments, call, inputs, self._weights)) for call, inputs in zip(calls, given)]
        sums_now = _bit_sums(self._weights)
        written = [f"writes to {name}" for name in sums if sums[name] != sums_now[name]]
        return [self._result(y, _written(was, now) + written) for y, was, now in zip(outputs, kept, given)]

    def _put(self, values: np.ndarray) -> Tensor:
        if values.dtype.name == "bfloat16":  # numpy knows it through ml_dtypes, torch does not know ml_dtypes
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16).to(self._device)
        return torch.from_numpy(values).to(self._device)

    def _inputs(self, call: KernelCall) -> Dict[str, Tensor]:
        inputs = {"x": self._put(call.x_TD.copy()).to(self._dtype), "topk_ids": self._put(call.topk_ids_TK.copy())}
        inputs["topk_weights"] = self._put(call.topk_weights_TK.copy())
        if call.router_logits_TE is not None:
            inputs["router_logits"] = self._put(call.router_logits_TE.copy()).to(self._dtype)
        return inputs

    def _result(self, y: Any, problems: List[str]) -> KernelResult:
        if not isinstance(y, Tensor):
            return KernelResult(np.zeros(0, np.float32), (f"returned {type(y).__name__}, not a tensor", *problems))
        found = [f"dtype {_name(y.dtype)}, expected {_name(self._dtype)}"] if y.dtype != self._dtype else []
        if y.device.type != self._device.type:
            found.append(f"on {y.device.type}, expected {self._device.type}")
        return KernelResult(y.detach().float().cpu().numpy(), (*found, *problems))


def _bit_sums(tensors: Dict[str, Tensor]) -> Dict[str, int]:
    """A sum over the bits of each tensor, where a copy would be too large: a write changes it unless several happen to cancel."""
    return {name: int(_words(tensor).sum(dtype=torch.int64)) for name, tensor in tensors.items()}


def _written(before: Dict[str, Tensor], after: Dict[str, Tensor]) -> List[str]:
    return [f"writes to {name}" for name in before if not torch.equal(_words(before[name]), _words(after[name]))]


def _words(tensor: Tensor) -> Tensor:
    """The bits as integers, eight bytes at a time where the size allows it (four times faster for large weights)."""
    flat = tensor.reshape(-1)
    return flat.view(torch.int64 if flat.nbytes % 8 == 0 else torch.int16)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise Unsupported(f"device {name!r}: {str(error).splitlines()[0]}") from error
    return device
