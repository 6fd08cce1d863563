"""y = x W^T + b, with the weight either as it is or packed once into the layout that oneDNN's kernels read.

Packing takes the weight out of PyTorch's row-major order, which oneDNN otherwise rearranges in every call. On a 2-core AVX512-BF16 machine
a 7168 x 1024 bfloat16 weight times one token then reads 47 GB/s instead of 28, bit for bit the same, and float32 runs at twice MKL's speed.
The operators are the ones that torch.compile's freezing uses; they are private, so their presence is tried and never assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PlainLinear:
    """`weight_OI` row-major, `bias_O` or None; maps [..., I] to [..., O]."""

    weight_OI: Tensor
    bias_O: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight_OI, self.bias_O)


@dataclass(frozen=True)
class PackedLinear:
    """`packed`: an opaque oneDNN tensor made by `pack`."""

    packed: Tensor
    bias_O: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias_O, "none", [], "")


def linear(weight_OI: Tensor, bias_O: Tensor | None = None, packed: bool = False) -> Linear:
    """`packed` asks for the packed form; the caller made sure of `can_pack`. The row-major weight is not kept then. A weight whose packed
    form lets a NaN out of its row stays as it is."""
    packed = packed and keeps_rows_apart(weight_OI.shape[1], weight_OI.dtype)
    return PackedLinear(_pack(weight_OI), bias_O) if packed else PlainLinear(weight_OI, bias_O)


@lru_cache(maxsize=None)
def keeps_rows_apart(columns: int, dtype: torch.dtype) -> bool:
    """Whether packed weights with so many columns keep a NaN in its row. oneDNN's AMX kernels (seen with torch 2.13 in bfloat16) read past
    the end of a row whose length is no multiple of 32, and multiply what stands there, the next row, by zero."""
    x_TI = torch.zeros(33, columns, dtype=dtype)
    x_TI[16] = torch.nan
    y_TO = PackedLinear(_pack(torch.zeros(32, columns, dtype=dtype)))(x_TI)
    return bool(y_TO[torch.arange(33) != 16].isfinite().all())


def _pack(weight_OI: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight_OI, 1)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this build and this CPU pack weights of `dtype` and multiply by them as F.linear does (float16 needs AVX512-FP16, say)."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    weight_OI = torch.arange(-32, 32).reshape(8, 8).to(dtype)  # small integers: every order of summation gives the same bits
    try:
        return torch.equal(PackedLinear(_pack(weight_OI))(weight_OI), F.linear(weight_OI, weight_OI))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
