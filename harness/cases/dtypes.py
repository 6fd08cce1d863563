"""Rounding to the candidates' dtypes on the host."""

from __future__ import annotations

import ml_dtypes
import numpy as np

_NUMPY = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def numpy_dtype(dtype: str) -> np.dtype:
    """The numpy dtype of an interface dtype name; bfloat16 is ml_dtypes'."""
    return np.dtype(_NUMPY[dtype])


def round_to(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values that are exactly representable in `dtype` (round to nearest even)."""
    return x.astype(numpy_dtype(dtype)).astype(np.float32)
