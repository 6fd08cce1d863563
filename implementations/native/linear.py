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
WHOLE = 32  # columns that oneDNN's AMX kernels read at a time, in bfloat16
MOST_ROWS = 64


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


@dataclass(frozen=True)
class WidenedLinear:
    """`wide`: of a weight with `missing` more columns, all zero."""

    wide: Linear
    missing: int

    def __call__(self, x: Tensor) -> Tensor:
        return self.wide(F.pad(x, (0, self.missing)))


def linear(weight_OI: Tensor, bias_O: Tensor | None = None, packed: bool = False) -> Linear:
    """`packed` asks for the packed form; the caller made sure of `can_pack`. The row-major weight is not kept then. A weight whose product
    lets a NaN out of its row gets more columns."""
    missing = -weight_OI.shape[1] % WHOLE
    if missing and weight_OI.device.type == "cpu" and not keeps_rows_apart(weight_OI.shape[1], weight_OI.dtype, packed):
        return WidenedLinear(_linear(F.pad(weight_OI, (0, missing)), bias_O, packed), missing)
    return _linear(weight_OI, bias_O, packed)


def _linear(weight_OI: Tensor, bias_O: Tensor | None, packed: bool) -> Linear:
    return PackedLinear(_pack(weight_OI), bias_O) if packed else PlainLinear(weight_OI, bias_O)


@lru_cache(maxsize=None)
def keeps_rows_apart(columns: int, dtype: torch.dtype, packed: bool) -> bool:
    """Whether products over so many columns keep a NaN in its row. oneDNN's AMX kernels (seen in bfloat16, with torch 2.11 always, with
    2.13 where weights are packed) read past the end of a row whose length is no multiple of 32, and multiply what stands there, the next
    row, by zero."""
    x_TI = torch.zeros(33, columns, dtype=dtype)
    x_TI[16] = torch.nan
    y_TO = _linear(torch.zeros(32, columns, dtype=dtype), None, packed)(x_TI)
    return bool(y_TO[torch.arange(33) != 16].isfinite().all())


@lru_cache(maxsize=None)
def steady_rows(columns: int, dtype: torch.dtype, packed: bool) -> int:
    """Rows from which on a row of a CPU's product has the same bits however many there are, as far as MOST_ROWS tell. Float32 kernels
    round few rows otherwise: seen up to 4, 10 and 15 rows in MKL (96, 256 and 1024 columns), for 1 row in torch 2.13's oneDNN, up to 15 and
    48 rows in 2.11's."""
    draw = torch.Generator().manual_seed(0)
    x_TI, weight_OI = (torch.randn(rows, columns, generator=draw).to(dtype) for rows in (MOST_ROWS, 32))
    product = linear(weight_OI, packed=packed)
    whole_TO = product(x_TI)
    return 1 + max((T for T in range(1, MOST_ROWS) if not torch.equal(product(x_TI[:T]), whole_TO[:T])), default=0)


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
