"""Writes a safetensors file one tensor after the other: no more than one is in memory. (`safetensors.numpy.save_file` takes all of them at
once, and copies each.)"""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Sequence

import numpy as np

NAMES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
ENTRY = 160  # bytes of the header for a tensor, besides its name: dtype, up to six dimensions, two offsets
PREFIX = 8  # bytes that hold the header's length


@contextmanager
def safetensors_file(
    path: Path, names: Sequence[str], metadata: Mapping[str, str] | None = None
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """What it gives takes the tensors, one call for each of `names`. Room for the header is kept in front and filled in at the end, spaces
    behind it, as the format allows. Raises KeyError for a dtype that the format does not have."""
    header: Dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    room = -(-(len(json.dumps(header)) + sum(len(json.dumps(name)) + ENTRY for name in names)) // 8) * 8
    with open(path, "wb") as file:
        file.seek(PREFIX + room)

        def put(name: str, array: np.ndarray) -> None:
            begin = file.tell() - PREFIX - room
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            header[name] = {"dtype": NAMES[array.dtype.name], "shape": array.shape, "data_offsets": (begin, begin + array.nbytes)}

        yield put
        assert header.keys() - {"__metadata__"} == set(names), "one call for each of the names"
        file.seek(0)
        file.write(room.to_bytes(PREFIX, "little") + json.dumps(header).encode().ljust(room))
