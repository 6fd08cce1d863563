"""The tensors of a safetensors file as views of the mapped file: what is taken of one is copied once, and the rest is not read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Dict

import ml_dtypes  # noqa: F401  numpy knows bfloat16 by it
import numpy as np

from moe_harness.implementations.checkpoint.safetensors_writer import NAMES, PREFIX

DTYPES = {code: name for name, code in NAMES.items()}


def views(path: Path) -> Dict[str, np.ndarray]:
    """Read-only, by name. Of a file that the library has opened, which checks the header."""
    mapped = np.memmap(path, np.uint8, "r")
    start = PREFIX + int.from_bytes(mapped[:PREFIX].tobytes(), "little")
    header = json.loads(mapped[PREFIX:start].tobytes())
    header.pop("__metadata__", None)
    return {name: _view(mapped[start:], entry) for name, entry in header.items()}


def _view(data: np.ndarray, entry: Dict) -> np.ndarray:
    begin, end = entry["data_offsets"]
    view: np.ndarray = data[begin:end].view(np.dtype(DTYPES[entry["dtype"]])).reshape(entry["shape"])
    return view
