"""Tensors on the host: rounding to the candidates' dtypes, and a checkpoint's canonical tensors as a read-only mapping, the form in which
the oracle takes weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np

from moe_harness.implementations.checkpoint.checkpoint import Checkpoint
from moe_harness.implementations.families.weights import parameter_counts

KEEP_BELOW = 50_000_000  # parameters; larger models are read again from disk on every use instead of filling the memory
_NUMPY = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


def numpy_dtype(dtype: str) -> np.dtype:
    """The numpy dtype of an interface dtype name; bfloat16 is ml_dtypes'."""
    return np.dtype(_NUMPY[dtype])


def round_to(x: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values that are exactly representable in `dtype` (round to nearest even)."""
    return x.astype(numpy_dtype(dtype)).astype(np.float32)


class CanonicalTensors(Mapping[str, np.ndarray]):
    """Reads through an open Checkpoint. Keeps tensors of small models in memory."""

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint, self._kept = checkpoint, {}  # type: tuple[Checkpoint, dict[str, np.ndarray]]
        self._keep = parameter_counts(checkpoint.config)[0] < KEEP_BELOW

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._kept:
            return self._kept[name]
        tensor = self._checkpoint.tensor(name)
        if self._keep:
            self._kept[name] = tensor
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint.names())

    def __len__(self) -> int:
        return len(self._checkpoint.names())
